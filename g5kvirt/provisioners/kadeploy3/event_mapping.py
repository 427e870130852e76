"""Kadeploy3's deployment as events of ours: the same shapes that `g5kvirt.provisioners.builtin` writes.

Its answers say *who*: ``/state`` names the step in which each node stands. Its log says *when*: a line with
a time for each step that a set of nodes begins, and one for each node that is back after a reboot. So a
node seen in another step than before began it when the log says that a set began that step, at the latest
now; the error is at most the time between two looks. A step that nobody saw because it was over between two
looks is written down only if the log names it. What was never seen at all is taken from the statistics,
which know whole seconds and the last attempt only.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from g5kvirt.provisioners.builtin.engine import Outcome
from g5kvirt.provisioners.builtin.positions import State
from g5kvirt.provisioners.events import DeploymentEvents
from g5kvirt.provisioners.kadeploy3.configuration import Node
from g5kvirt.provisioners.kadeploy3.records import Line, Row, Sight
from g5kvirt.provisioners.kadeploy3.steps import MACROS, WAITS, instance, order, step_name, workflow
from g5kvirt.run.vocabulary import Status

__all__ = ["Books"]

_STEP = re.compile(r" {2}([a-z_0-9]+)")
_HERE = re.compile(r" {3}\* (\S+) is here after \d+s")
_END = re.compile(r"End of deployment for ")
_NO_REASON = "Kadeploy3 gave no reason: see its log"


@dataclass
class _Track:
    """One node on its way."""

    node: Node
    state: State = "open"
    position: tuple[str, str] = ("", "")  #: macro-step with its variant, micro-step
    t0: float = 0.0  #: when its step began
    attempt: int = 1
    macro_attempt: int = 1
    macro_t0: float = 0.0
    last: float = 0.0  #: when the last thing that was written down happened: nothing goes back before it
    spoilt: bool = False  #: the step at ``position`` was written down as failed
    here: float = 0.0  #: when it was last said to be back
    said: str = ""
    reason: str = ""
    failed_at: tuple[str, str] = ("", "")


class Books(DeploymentEvents):
    """The books of one deployment, which may consist of several of Kadeploy3's.

    ``name`` is its id in the journal. ``offset``: seconds by which the server's clock is ahead of ours.
    """

    def __init__(self, name: str, nodes: Sequence[Node], *, offset: float = 0.0) -> None:
        super().__init__(name)
        self._tracks = {node.name: _Track(node) for node in nodes}
        self._offset = offset
        self._unsettled = set(self._tracks)  # nodes whose part Kadeploy3 has not closed
        self._last = 0.0  # when the last VM was done

    @property
    def finished(self) -> bool:
        """True when it is known of every VM what became of it."""
        return not self._unsettled

    @property
    def outcomes(self) -> list[Outcome]:
        """What became of every VM, in the order of the nodes."""
        found = []
        for k in self._tracks.values():
            macro, step = k.failed_at if k.state == "failed" else self._here(k)
            found.append(Outcome(k.node.vm, k.state, macro, step, k.attempt, k.reason, k.said))
        return found

    def begin(self, now: float, about: Mapping[str, Any]) -> None:
        """The deployment begins; ``about`` goes into its first event."""
        self._begun(now, len(self._tracks), {**about, "workflow": workflow()})

    # ---- while it runs ------------------------------------------------------------------------------

    def see(self, now: float, states: Mapping[str, Sight], lines: Iterable[Line]) -> None:
        """A look at one of Kadeploy3's deployments; ``lines``: what it logged since the look before."""
        begun: dict[str, float] = {}  # micro-step → when a set last began it
        ended = now
        for line in lines:
            t = min(line.t - self._offset, now)
            if found := _STEP.fullmatch(line.text):
                begun[found[1]] = t
            elif (found := _HERE.fullmatch(line.text)) and found[1] in self._tracks:
                self._tracks[found[1]].here = t
            elif _END.match(line.text):
                ended = t
        for name, sight in states.items():
            track = self._tracks.get(name)
            if track is not None and track.state == "open":
                self._see_node(track, sight, begun, now, ended)

    def _see_node(
        self, track: _Track, sight: Sight, begun: Mapping[str, float], now: float, ended: float
    ) -> None:
        seen = (sight.macro, sight.micro)
        track.said = f"{sight.macro} {sight.micro}: {sight.state}".strip(": ") or track.said
        if sight.error:
            track.reason = sight.error
        if not sight.macro:
            # of one that was not seen in its last macro-step the statistics will know more
            if sight.state == "ok" and instance(track.position[0])[0] == MACROS[-1]:
                self._deployed(track, ended, begun)
            return
        if seen == track.position:
            if sight.state == "ko" and not track.spoilt:
                self._step_failed(track, now)
            elif sight.state != "ko" and track.spoilt:  # begun again
                self._macro_again(track, begun.get(sight.micro, now))
            return
        t = max(begun.get(sight.micro, now), track.t0)
        if not track.position[0]:
            first = order(sight.macro)[:1]
            self._begin_macro(track, sight.macro, begun.get(first[0], t) if first else t)
            self._through(track, sight, begun, t)
        elif not track.spoilt and _ahead(track.position, seen):
            self._through(track, sight, begun, t)
        else:
            if not track.spoilt:
                self._step_failed(track, t)
            self._back_to(track, sight.macro, t)
            self._through(track, sight, begun, t)
        if sight.state == "ko":
            self._step_failed(track, now)

    def _through(self, track: _Track, sight: Sight, begun: Mapping[str, float], t: float) -> None:
        """From where it was seen last to where it is seen now, by way of the steps that the log names."""
        if instance(track.position[0])[0] != instance(sight.macro)[0]:
            steps = order(sight.macro)
            first = steps[0] if steps else sight.micro
            start = min(max(begun.get(first, t), track.t0), t)
            self._walk(track, track.position[0], begun, start, upto=None)
            self._step_ok(track, start)
            self._macro_ends(track, "ok", start)
            self._begin_macro(track, sight.macro, start)
        self._walk(track, sight.macro, begun, t, upto=sight.micro)
        if track.position[1] not in ("", sight.micro):
            self._step_ok(track, t)
        if track.position[1] != sight.micro:
            self._stand(track, sight.macro, sight.micro, t)

    def _walk(
        self, track: _Track, macro: str, begun: Mapping[str, float], t: float, upto: str | None
    ) -> None:
        """Steps of ``macro`` after the one in which it stands, before ``upto`` (None: all), if they were
        logged."""
        steps = order(macro)
        start = steps.index(track.position[1]) + 1 if track.position[1] in steps else 0
        end = steps.index(upto) if upto in steps else (len(steps) if upto is None else start)
        for micro in steps[start:end]:
            if track.t0 <= (at := begun.get(micro, -1.0)) <= t:
                if track.position[1]:
                    self._step_ok(track, at)
                self._stand(track, macro, micro, at)

    # ---- how it ends --------------------------------------------------------------------------------

    def end(
        self, now: float, nodes: Collection[str], ok: Collection[str], rows: Iterable[Row], why: str = ""
    ) -> None:
        """One of Kadeploy3's deployments, on ``nodes``, is over, and went well on those in ``ok``.

        ``rows``: its statistics. ``why``: what is said of those that did not, where it gives no reason
        itself.
        """
        known = {row.node: row for row in rows}
        good = set(ok)
        for name in nodes:
            track = self._tracks[name]
            row = known.get(name)
            if track.state != "open":
                continue
            if row is not None:
                self._fill(track, row, now)
                # a try that failed in its first step between two looks is known from here only
                track.attempt = max(track.attempt, 1 + sum(row.retries))
            if name in good:
                self._deployed(track, now, {})
            else:
                self._failed(track, now, row, why)
        if known:
            self._write_statistics(now, known.values())
        self._settle(now, nodes)

    def stop(self, now: float, why: str) -> None:
        """It ends here: VMs that are not done have failed."""
        for track in self._tracks.values():
            if track.state == "open":
                track.reason = ""
                self._failed(track, now, None, why)
        self._settle(now, self._tracks)

    def _settle(self, now: float, nodes: Iterable[str]) -> None:
        """What became of these nodes is known; with the last of them, the whole is over."""
        if not self._unsettled:
            return
        self._unsettled.difference_update(nodes)
        if not self._unsettled:
            states = [k.state for k in self._tracks.values()]
            self._all_ended(max(now, self._last), states.count("deployed"), states.count("failed"))

    def _write_statistics(self, now: float, rows: Iterable[Row]) -> None:
        """What Kadeploy3 itself has measured: whole seconds of each macro-step's last try, and tries."""
        of = {
            self._tracks[row.node].node.vm.name: {"durations": row.durations, "retries": row.retries}
            for row in rows
            if row.node in self._tracks
        }
        self._event("statistics", "run", self.name, "ok", now, 1, {"source": "kadeploy3", "vms": of})

    def _fill(self, track: _Track, row: Row, now: float) -> None:
        """Write down the macro-steps after the one in which it was last seen, one after the other."""
        macro = instance(track.position[0])[0]
        seen = MACROS.index(macro) if macro in MACROS else -1
        if track.spoilt or (track.position[0] and seen < 0) or not any(row.steps[seen + 1 :]):
            return
        t = row.start - self._offset
        if seen >= 0:  # when its step ended nobody knows, so that is not written down
            t = max(track.t0, min(track.macro_t0 + row.durations[seen], now))
            self._macro(track, track.position[0], "ok", t, source="statistics")
        for name, seconds in zip(row.steps[seen + 1 :], row.durations[seen + 1 :], strict=True):
            if name:
                failed = not row.success and row.failed_at[0] == name
                self._macro(track, name, "start", t, source="statistics")
                t = max(t, min(t + seconds, now))
                self._macro(track, name, "failed" if failed else "ok", t, source="statistics")
        track.position, track.t0 = ("", ""), t

    def _deployed(self, track: _Track, t: float, begun: Mapping[str, float], row: Row | None = None) -> None:
        t = max(t, track.t0)
        if track.position[0]:
            if not track.spoilt:
                self._walk(track, track.position[0], begun, t, upto=None)
                self._step_ok(track, t)
            self._macro_ends(track, "ok", t)
        self._over(track, "deployed", t, {})

    def _failed(self, track: _Track, t: float, row: Row | None, why: str) -> None:
        t = max(t, track.t0)
        macro, micro, message = row.failed_at if row is not None else ("", "", "")
        macro, micro = (instance(macro)[0], micro) if macro else ("", "")
        reason = message or _message(track.reason) or why or _NO_REASON
        track.reason = reason
        if track.position[0]:
            if not track.spoilt:
                self._step_failed(track, t)
            self._macro_ends(track, "failed", t, reason)
            here = self._here(track)
        else:
            here = ("", "")
        step = step_name(macro, micro) if micro else here[1]
        track.failed_at = (macro or here[0] or MACROS[0], step or step_name(MACROS[0], "switch_pxe"))
        detail = {"macro": track.failed_at[0], "at": track.failed_at[1], "reason": reason}
        self._over(track, "failed", t, detail)

    def _over(
        self, track: _Track, state: Literal["deployed", "failed"], t: float, detail: Mapping[str, Any]
    ) -> None:
        track.state = state
        t = max(t, track.last)
        self._last = max(self._last, t)
        self._vm_ended(track.node.vm.name, state, t, track.attempt, {"said": track.said, **detail})

    # ---- single events ------------------------------------------------------------------------------

    @staticmethod
    def _here(track: _Track) -> tuple[str, str]:
        macro = instance(track.position[0])[0]
        return macro, step_name(macro, track.position[1]) if track.position[1] else ""

    @staticmethod
    def _stand(track: _Track, macro: str, micro: str, t: float) -> None:
        track.position, track.t0, track.spoilt = (macro, micro), max(t, track.last), False

    def _begin_macro(self, track: _Track, name: str, t: float) -> None:
        track.macro_attempt, track.macro_t0 = track.attempt, max(t, track.last)
        self._macro(track, name, "start", t)
        self._stand(track, name, "", t)

    def _macro_ends(self, track: _Track, status: Status, t: float, reason: str = "") -> None:
        more = {"reason": reason} if reason else {}
        self._macro(track, track.position[0], status, t, **more)

    def _macro_again(self, track: _Track, t: float) -> None:
        """The step that failed was begun again, in a further try of the same macro-step."""
        name, micro = track.position
        self._back_to(track, name, max(t, track.t0))
        self._stand(track, name, micro, track.t0)

    def _back_to(self, track: _Track, name: str, t: float) -> None:
        self._macro_ends(track, "retry", t, _message(track.reason) or _NO_REASON)
        track.attempt += 1
        track.reason = ""
        self._begin_macro(track, name, t)

    def _step_ok(self, track: _Track, t: float) -> None:
        if track.position[1] in WAITS and track.t0 < track.here <= t:
            t = track.here  # it was there, and the rest was waiting for the others
        if track.position[1]:
            self._step(track, "ok", t)

    def _step_failed(self, track: _Track, t: float) -> None:
        track.spoilt = True
        if track.position[1]:
            self._step(track, "failed", t, reason=_message(track.reason) or _NO_REASON)

    def _step(self, track: _Track, status: Status, t: float, **more: Any) -> None:
        track.last = t = max(t, track.t0, track.last)
        detail = {"seconds": round(t - track.t0, 6), **more}
        self._event(self._here(track)[1], "vm", track.node.vm.name, status, t, track.attempt, detail)

    def _macro(self, track: _Track, name: str, status: Status, t: float, **more: Any) -> None:
        macro, variant = instance(name)
        track.last = t = max(t, track.last)
        detail = {"variant": variant, **more}
        self._event(macro, "vm", track.node.vm.name, status, t, track.macro_attempt, detail)


def _ahead(before: tuple[str, str], now: tuple[str, str]) -> bool:
    """Whether ``now`` comes after ``before`` if nothing failed in between."""
    ranks = [MACROS.index(m) if (m := instance(p[0])[0]) in MACROS else -1 for p in (before, now)]
    if before[0] != now[0]:
        return ranks[0] < ranks[1]
    steps = order(now[0])
    if before[1] not in steps or now[1] not in steps:
        return True  # an operation of a user's own: Kadeploy3 begins a try anew with a known step
    return steps.index(before[1]) < steps.index(now[1])


def _message(error: str) -> str:
    """``SetDeploymentEnvUntrusted-reboot: it refuses`` → ``it refuses``."""
    found = re.fullmatch(r"[A-Za-z]+-[A-Za-z0-9_]+: ?(.*)", error, re.DOTALL)
    return (found[1] if found else error).strip()
