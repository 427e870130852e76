"""What a deployment is told, what that means, and what is to be done next."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from g5kvirt.inventory import VM
from g5kvirt.planning.windows import Window
from g5kvirt.provisioners.builtin.hosts import broadcast_orders
from g5kvirt.provisioners.builtin.positions import State, Track, reboot_kind
from g5kvirt.provisioners.builtin.transitions import Moves, Spoilt
from g5kvirt.provisioners.builtin.workflow import (
    REBOOTS,
    Check,
    Into,
    Order,
    Reboot,
    RebootKind,
    Target,
    Task,
    Word,
    Workflow,
)
from g5kvirt.run.events import Event

__all__ = ["CLOCK_SLACK", "Deployment", "Outcome"]

#: Clocks of hosts and service machines, corrected by their measured offsets, may still differ so much.
CLOCK_SLACK = 0.5


@dataclass(frozen=True)
class Outcome:
    """What became of one VM: ``deployed``, or ``failed`` at a named step."""

    vm: VM
    state: State
    macro: str  #: where it is, or ended
    step: str
    attempt: int
    reason: str  #: why it failed; "" otherwise
    said: str  #: what was heard of it last


class Deployment:
    """All VMs of one deployment.

    ``name`` is its id in the journal; ``about`` goes into its first event (environment, size, repetition).
    ``fresh`` names the VMs that stand in their minimal system already: those are not rebooted first.
    Both windows are asked for as many VMs as may go now; a `SlotWindow`'s slot is held until the VM is up (a
    check: until it is answered), a `RateWindow` lets so many go in each period.
    Raises ValueError if two VMs have the same name.
    """

    def __init__(
        self,
        name: str,
        vms: Sequence[VM],
        workflow: Workflow,
        *,
        reboots: Window,
        checks: Window,
        fresh: Collection[str] = (),
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.workflow = workflow
        self._about = {**(about or {}), "workflow": workflow.plain()}
        self._moves = Moves(name, vms, workflow, reboots=reboots, checks=checks, fresh=fresh)
        self._tracks = self._moves.tracks
        self._now = 0.0
        self._begun = False

    # ---- what can be asked --------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """True when every VM is deployed or failed, and that has been written down."""
        return self._begun and self.count("open") == 0

    def count(self, state: State) -> int:
        """How many VMs are in ``state``; the three numbers always add up to the VMs asked for."""
        return self._moves.account.counts[state]

    @property
    def outcomes(self) -> list[Outcome]:
        """What became of every VM, in the order in which they were started."""
        return [
            Outcome(k.vm, k.state, k.spot.way.macro.name, k.spot.step.name, k.attempt, k.reason, k.said)
            for k in self._tracks.values()
        ]

    def events(self) -> list[Event]:
        """What happened since this was last asked, for the journal."""
        return self._moves.account.news()

    def wake(self) -> float | None:
        """When to ask for `orders` again at the latest, if nothing is heard before; None: no need."""
        if self.finished:
            return None
        windows = (self._moves.reboots.again, self._moves.checks.again)
        times = [*self._moves.deadlines.next(), *self._moves.hosts.next()]
        return min([*times, *(again for again in windows if again is not None)], default=None)

    # ---- what it is told and asked ------------------------------------------------------------------

    def tell(self, word: Word, now: float) -> bool:
        """Something was heard; False if it is no news: late, said before, of an earlier attempt, not ours."""
        self._now = now = max(self._now, now)
        track = self._tracks.get(word.subject)
        if track is None:
            return self._tell_host(word, now)
        if track.state != "open" or not self._begun:
            return False
        if word.attempt is None:
            if word.t < track.since - CLOCK_SLACK:
                return False
        elif word.attempt != track.attempt:
            return False
        t = max(min(word.t, now), track.t0)
        step = track.spot.step
        if step.act == "check":
            return self._tell_check(track, word, t, now)
        if step.act in ("reboot", "task") and not track.ordered:
            return False
        if word.step == step.name:
            self._tell_step(track, word, t, now)
            return True
        return self._tell_ahead(track, word, t, now) or self._tell_behind(track, word, t, now)

    def orders(self, now: float) -> list[Order]:
        """What to do now. Everything in it counts as ordered from here on."""
        self._now = now = max(self._now, now)
        if not self._begun:
            self._begun = True
            self._moves.begin(now, self._about)
        self._overdue(now)
        for track in self._moves.deadlines.rung(now):
            if self._moves.checks.holds(track):
                track.said = f"no answer to a check within {track.spot.step.lease:.0f} s"
                self._not_yet(track, now, now)
            else:
                self._moves.want_check(track)
        return [
            *self._broadcast_orders(now),
            *self._reboot_orders(now),
            *self._task_orders(),
            *self._check_orders(now),
        ]

    def stop(self, now: float, reason: str) -> None:
        """End every VM that is not done yet as failed where it is, because of ``reason``."""
        if not self._begun:
            self._begun = True
            self._moves.begin(now, self._about)
        for track in [k for k in self._tracks.values() if k.state == "open"]:
            self._moves.failed(track, max(now, track.t0), now, reason, spoilt="vm")

    # ---- words --------------------------------------------------------------------------------------

    def _tell_step(
        self, track: Track, word: Word, t: float, now: float, *, measured: bool = True, sure: bool = True
    ) -> None:
        """A word about the step in which the VM is.

        ``sure``: its host's copy of the image is verified, as far as that is needed. If not, the copy may be
        to blame, and what looks hopeless to a guest may well succeed with another one.
        """
        _heard(track, word)
        if word.status == "ok":
            self._moves.ok(track, t, now, measured=measured)
        else:
            self._moves.failed(track, t, now, _reason(word), spoilt=_spoilt(word) if sure else "step")

    def _tell_ahead(self, track: Track, word: Word, t: float, now: float) -> bool:
        """A word about a later step."""
        target = self._moves.route.ahead(track, word.step)
        if target is None:
            return False
        sure = self._moves.jump(track, target, t, proven=word.status == "ok")
        if target.step.act == "check":
            _heard(track, word)
            self._moves.enter(track, t, now)
            self._moves.want_check(track)
        else:
            self._tell_step(track, word, t, now, measured=False, sure=sure)
        return True

    def _tell_behind(self, track: Track, word: Word, t: float, now: float) -> bool:
        """A word about a step that is over."""
        if self._fell_back(track, word):
            reason = f"came back to its minimal system after {track.said}"
            self._moves.failed(track, t, now, reason)
            return True
        if word.status == "failed" and word.attempt is not None and word.step in self._moves.route.guest:
            _heard(track, word)
            self._moves.failed(track, t, now, f"{word.step}: {_reason(word)}", spoilt=_spoilt(word))
            return True
        return False

    def _fell_back(self, track: Track, word: Word) -> bool:
        """Does the word say that the VM restarted, unasked, into its minimal system?"""
        step = track.spot.step
        return (
            word.step in self._moves.route.minimal
            and word.status == "ok"
            and word.attempt is None
            and step.act in ("word", "broadcast", "check")
            and not step.prepares
            and word.t > max(track.heard_at, track.since) + CLOCK_SLACK
        )

    def _tell_check(self, track: Track, word: Word, t: float, now: float) -> bool:
        step, checks = track.spot.step, self._moves.checks
        if word.step == step.name and word.status == "ok":
            if not track.turn:
                return False  # nobody looked in this attempt
            _heard(track, word)
            self._moves.ok(track, t, now)
        elif word.step == step.name:
            if not checks.holds(track) or word.turn not in (None, track.turn):
                return False
            _heard(track, word)
            self._not_yet(track, t, now)
        elif word.step == step.hint and word.status == "ok":
            if checks.holds(track) or checks.waits(track):
                return False
            _heard(track, word)
            self._moves.want_check(track)
        else:
            return self._tell_behind(track, word, t, now)
        return True

    def _not_yet(self, track: Track, t: float, now: float) -> None:
        """A check was answered in the negative, or not at all."""
        self._moves.checks.leave(track)
        if track.final:
            self._late(track, t, now, t - track.t0)
        else:
            self._moves.deadlines.set_timer(track, now + track.spot.step.every)

    def _tell_host(self, word: Word, now: float) -> bool:
        part = self._moves.hosts.answered(word)
        if part is None:
            return False
        t = max(min(word.t, now), part.since)
        if word.status == "ok":
            self._moves.host_ok(part, t, now)
        else:
            self._moves.host_failed(part, t, now, _reason(word))
        return True

    # ---- silence ------------------------------------------------------------------------------------

    def _overdue(self, now: float) -> None:
        moves = self._moves
        for track, seconds in moves.deadlines.late_at_step(now):
            if moves.checks.holds(track) or moves.checks.waits(track):
                track.final = True
            else:
                self._late(track, now, now, seconds)
        for track, seconds in moves.deadlines.late_in_macro(now):
            macro, said = track.spot.way.macro.name, track.said or "nothing"
            reason = f"{macro} took longer than {seconds:.0f} s, last: {said}"
            moves.failed(track, now, now, reason, spoilt="try", silent=True)
        for part, seconds in moves.hosts.late(now):
            moves.host_failed(part, now, now, f"not there within {seconds:.0f} s")

    def _late(self, track: Track, t: float, now: float, seconds: float) -> None:
        if track.spot.step.act == "check":
            reason = f"not {track.spot.step.name} within {seconds:.0f} s, last: {track.said or 'nothing'}"
        else:
            reason = f"nothing after {track.said or 'the order'} within {seconds:.0f} s"
        self._moves.failed(track, t, now, reason, silent=True)

    # ---- orders -------------------------------------------------------------------------------------

    def _broadcast_orders(self, now: float) -> list[Order]:
        parts = self._moves.hosts.begin(now)
        for part in parts:
            self._moves.account.host(part, "start", now)
        return [*broadcast_orders(parts)]

    def _reboot_orders(self, now: float) -> list[Order]:
        groups: dict[tuple[str, RebootKind, Into], list[Target]] = {}
        for track in self._moves.reboots.take(now):
            step = track.spot.step
            kind = reboot_kind(step, track.rank)
            track.chosen = REBOOTS.index(kind)
            track.ordered = True
            track.t0 = track.since = now
            self._moves.deadlines.arm(track, now)
            groups.setdefault((step.name, kind, step.into), []).append(Target(track.vm, track.attempt))
        return [Reboot(tuple(vms), *key) for key, vms in groups.items()]

    def _task_orders(self) -> list[Order]:
        groups: dict[tuple[str, tuple[int, ...]], list[Target]] = {}
        tasks, self._moves.tasks = self._moves.tasks, []
        for track in tasks:
            if track.state == "open" and track.spot.step.act == "task" and not track.ordered:
                track.ordered = True
                key = (track.spot.step.name, track.variants)
                groups.setdefault(key, []).append(Target(track.vm, track.attempt))
        macros = self.workflow.macros
        return [
            Task(tuple(vms), step, {m.name: m.variants[v].name for m, v in zip(macros, chosen, strict=True)})
            for (step, chosen), vms in groups.items()
        ]

    def _check_orders(self, now: float) -> list[Order]:
        groups: dict[str, list[Target]] = {}
        for track in self._moves.checks.take(now):
            track.turn += 1
            self._moves.deadlines.set_timer(track, now + track.spot.step.lease)
            groups.setdefault(track.spot.step.name, []).append(Target(track.vm, track.attempt, track.turn))
        return [Check(tuple(vms), step) for step, vms in groups.items()]


def _heard(track: Track, word: Word) -> None:
    track.said = f"{word.step} {word.status}" + (f": {word.reason}" if word.reason else "")
    track.heard_at = word.t


def _reason(word: Word) -> str:
    return word.reason or "no reason was given"


def _spoilt(word: Word) -> Spoilt:
    return "vm" if word.hopeless else "step"
