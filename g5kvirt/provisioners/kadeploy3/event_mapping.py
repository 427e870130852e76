"""Kadeploy3's deployment as our events: the same shapes that every other provisioner writes.

Its states give the step of each node (``/state``). Its log has the times: a line with a time for each step
that a set of nodes begins, and one for each node that is back after a reboot. So a node in another step than
before began it when, by the log, a set began that step, at the latest now; the error is at most the time
between two polls. A step that began and ended between two polls is recorded only if the log names it. A step
that was never seen is taken from the statistics, which have whole seconds and the last attempt only.

With Kadeploy3 a node is done when its ssh port is open. Here its VM is deployed when a login has found there
what was deployed, as with every other provisioner: the last micro-step of BootNewEnv, `LOGIN`, begins when
Kadeploy3 is done with the node (`EventMapper.take_up`) and ends with `EventMapper.logged_in`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from g5kvirt.inventory import VM
from g5kvirt.provisioners.events import DeploymentEvents
from g5kvirt.provisioners.kadeploy3.configuration import Node
from g5kvirt.provisioners.kadeploy3.records import LogLine, NodeState, StatisticsRow, message_of
from g5kvirt.provisioners.kadeploy3.steps import (
    LOGIN,
    MACROS,
    WAITS,
    ahead,
    instance,
    order,
    step_name,
    workflow,
)
from g5kvirt.provisioners.outcome import Outcome, OutcomeState
from g5kvirt.run import event_types
from g5kvirt.run.printable import short
from g5kvirt.run.vocabulary import Status

__all__ = ["EventMapper"]

_STEP = re.compile(r" {2}([a-z_0-9-]+)")
_HERE = re.compile(r" {3}\* (\S+) is here after \d+s")
_END = re.compile(r"End of deployment for ")
_NO_REASON = "Kadeploy3 gave no reason: see its log"


@dataclass
class _NodeProgress:
    """How far one node has come."""

    vm: VM
    state: OutcomeState = "open"
    position: tuple[str, str] = ("", "")  #: macro-step with its variant, micro-step
    step_start: float = 0.0
    attempt: int = 1
    macro_attempt: int = 1
    macro_start: float = 0.0
    last_event: float = 0.0  #: when what was recorded last happened: nothing goes back before it
    step_failed: bool = False  #: the step at ``position`` was recorded as failed
    step_failed_at: float = 0.0  #: when it was seen to fail there; 0 if it did not
    back: float = 0.0  #: when it was last logged to be back
    up: bool = False  #: Kadeploy3 is done with it; what it runs is not known yet
    last_report: str = ""
    reason: str = ""
    failed_at: tuple[str, str] = ("", "")


class EventMapper(DeploymentEvents):
    """Records one deployment, which may consist of several of Kadeploy3's.

    ``name`` is its id in the journal. ``offset``: seconds by which the server's clock is ahead of ours.
    """

    def __init__(self, name: str, nodes: Sequence[Node], *, offset: float = 0.0) -> None:
        super().__init__(name)
        self._nodes = {node.name: _NodeProgress(node.vm) for node in nodes}
        self._offset = offset
        self._open_nodes = set(self._nodes)  # whose part has not ended
        self._up: dict[str, _NodeProgress] = {}  # by VM: those to be logged in to
        self._new_up: list[VM] = []  # of these, not yet taken
        self._ended = False
        self._last = 0.0  # when the last VM was done

    @property
    def finished(self) -> bool:
        """True when the outcome of every VM is known."""
        return self._ended

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcome of every VM, in the order of the nodes."""
        found = []
        for k in self._nodes.values():
            macro, step = k.failed_at if k.state == "failed" else self._location(k)
            found.append(Outcome(k.vm, k.state, macro, step, k.attempt, k.reason, k.last_report))
        return found

    def start(self, now: float, about: Mapping[str, Any]) -> None:
        """The deployment begins; ``about`` goes into its first event."""
        about = {**about, "workflow": workflow()}
        self._add(event_types.deployment_started(self.name, now, len(self._nodes), about))

    # ---- polls ------------------------------------------------------------------------------

    def poll(self, now: float, states: Mapping[str, NodeState], lines: Iterable[LogLine]) -> None:
        """Take in the states of one of Kadeploy3's deployments; ``lines``: its log since the last poll."""
        begun: dict[str, float] = {}  # micro-step → when a set last began it
        ended = now
        for line in lines:
            t = min(line.t - self._offset, now)
            if found := _STEP.fullmatch(line.text):
                begun[found[1]] = t
            elif (found := _HERE.fullmatch(line.text)) and found[1] in self._nodes:
                self._nodes[found[1]].back = t
            elif _END.match(line.text):
                ended = t
        for name, state in states.items():
            node = self._nodes.get(name)
            if node is not None and node.state == "open" and not node.up:
                self._poll_node(node, state, begun, now, ended)

    def _poll_node(
        self, node: _NodeProgress, state: NodeState, begun: Mapping[str, float], now: float, ended: float
    ) -> None:
        seen = (state.macro, state.micro)
        node.last_report = f"{state.macro} {state.micro}: {state.state}".strip(": ") or node.last_report
        if state.error:
            node.reason = state.error
        if not state.macro:
            # for one that was not seen in its last macro-step the statistics have more
            if state.state == "ok" and instance(node.position[0])[0] == MACROS[-1]:
                self._is_up(node, ended, begun)
            elif state.state == "ko" and node.position[0] and not node.step_failed:
                self._step_failed(node, now)
            return
        if seen == node.position:
            if state.state == "ko" and not node.step_failed:
                self._step_failed(node, now)
            elif state.state != "ko" and node.step_failed:  # begun again
                self._macro_again(node, begun.get(state.micro, now))
            return
        t = max(begun.get(state.micro, now), node.step_start)
        if not node.position[0]:
            first = order(state.macro)[:1]
            self._begin_macro(node, state.macro, begun.get(first[0], t) if first else t)
            self._advance_to(node, state, begun, t)
        elif not node.step_failed and ahead(node.position, seen):
            self._advance_to(node, state, begun, t)
        else:
            if not node.step_failed:
                self._step_failed(node, t)
            self._back_to(node, state.macro, t)
            self._advance_to(node, state, begun, t)
        if state.state == "ko":
            self._step_failed(node, now)

    def _advance_to(
        self, node: _NodeProgress, state: NodeState, begun: Mapping[str, float], t: float
    ) -> None:
        """From where it was at the last poll to where it is now, by way of the steps that the log names."""
        if instance(node.position[0])[0] != instance(state.macro)[0]:
            steps = order(state.macro)
            first = steps[0] if steps else state.micro
            start = min(max(begun.get(first, t), node.step_start), t)
            self._walk(node, node.position[0], begun, start, upto=None)
            self._step_ok(node, start)
            self._macro_ends(node, "ok", start)
            self._begin_macro(node, state.macro, start)
        self._walk(node, state.macro, begun, t, upto=state.micro)
        if node.position[1] not in ("", state.micro):
            self._step_ok(node, t)
        if node.position[1] != state.micro:
            self._place(node, state.macro, state.micro, t)

    def _walk(
        self, node: _NodeProgress, macro: str, begun: Mapping[str, float], t: float, upto: str | None
    ) -> None:
        """Steps of ``macro`` after its current one, before ``upto`` (None: all), if they were logged."""
        steps = order(macro)
        start = steps.index(node.position[1]) + 1 if node.position[1] in steps else 0
        end = steps.index(upto) if upto in steps else (len(steps) if upto is None else start)
        for micro in steps[start:end]:
            if node.step_start <= (at := begun.get(micro, -1.0)) <= t:
                if node.position[1]:
                    self._step_ok(node, at)
                self._place(node, macro, micro, at)

    # ---- how it ends --------------------------------------------------------------------------------

    def failed_for_good(self, now: float, nodes: Iterable[str]) -> None:
        """These nodes have failed while others continue: they end when they were seen to fail.

        One whose reason is not known yet, or whose failing was not seen, is left to `end`.
        """
        for name in nodes:
            node = self._nodes.get(name)
            if node is not None and node.state == "open" and node.step_failed and node.reason:
                self._failed(node, now, None, "")

    def end(
        self,
        now: float,
        nodes: Collection[str],
        ok: Collection[str],
        rows: Iterable[StatisticsRow],
        why: str = "",
    ) -> None:
        """One of Kadeploy3's deployments, on ``nodes``, is over, and succeeded on those in ``ok``.

        ``rows``: its statistics. ``why``: the reason of those that did not, where it gives none itself.
        """
        known = {row.node: row for row in rows}
        good = set(ok)
        for name in nodes:
            node = self._nodes[name]
            row = known.get(name)
            if node.state != "open":
                continue
            if row is not None:
                if not node.up:
                    self._fill(node, row, now)
                # a try that failed in its first step between two polls is known from here only
                node.attempt = max(node.attempt, 1 + sum(row.retries))
            if name in good and not node.up:
                self._is_up(node, now, {})
            elif not node.up:
                self._failed(node, now, row, why)
        if known:
            self._write_statistics(now, known.values())
        self._close(now, nodes)

    def stop(self, now: float, why: str) -> None:
        """It ends here: VMs that are not done have failed."""
        for node in self._nodes.values():
            if node.state == "open":
                node.reason, node.step_failed_at = "", 0.0
                self._failed(node, now, None, why)
        self._up.clear()
        self._close(now, self._nodes)

    def take_up(self) -> list[VM]:
        """VMs that Kadeploy3 is done with since the last call: they are to be logged in to."""
        found, self._new_up = self._new_up, []
        return found

    def logged_in(self, now: float, vm: str, why: str) -> None:
        """The end of the logins to a VM, which is deployed; ``why``: it is not what was deployed."""
        node = self._up.pop(vm, None)
        if node is None:
            return  # it has ended meanwhile
        t = max(now, node.step_start)
        if why:
            node.reason, node.step_failed_at = "", 0.0
            self._failed(node, t, None, why)
        else:
            self._step(node, "ok", t)
            if node.position[0]:
                self._macro_ends(node, "ok", t)
            self._end(node, "deployed", t, {})
        self._close(now, ())

    def _close(self, now: float, nodes: Iterable[str]) -> None:
        """Kadeploy3 is done with these nodes; when it and we are done with all, so is the deployment."""
        self._open_nodes.difference_update(nodes)
        if not self._open_nodes and not self._up and not self._ended:
            self._ended = True
            states = [k.state for k in self._nodes.values()]
            deployed, failed = states.count("deployed"), states.count("failed")
            self._add(event_types.deployment_ended(self.name, max(now, self._last), deployed, failed))

    def _write_statistics(self, now: float, rows: Iterable[StatisticsRow]) -> None:
        """Record what Kadeploy3 itself measured: whole seconds of each macro-step's last try, and tries."""
        by_vm = {
            self._nodes[row.node].vm.name: {"durations": row.durations, "retries": row.retries}
            for row in rows
            if row.node in self._nodes
        }
        self._add(event_types.deployment_statistics(self.name, now, "kadeploy3", by_vm))

    def _fill(self, node: _NodeProgress, row: StatisticsRow, now: float) -> None:
        """Record the macro-steps after the one in which it was last seen, one after the other."""
        macro = instance(node.position[0])[0]
        seen = MACROS.index(macro) if macro in MACROS else -1
        if node.step_failed or (node.position[0] and seen < 0) or not any(row.steps[seen + 1 :]):
            return
        t = row.start - self._offset
        if seen >= 0:  # when its step ended is unknown, so that is not recorded
            t = max(node.step_start, min(node.macro_start + row.durations[seen], now))
            self._macro(node, node.position[0], "ok", t, source="statistics")
        for name, seconds in zip(row.steps[seen + 1 :], row.durations[seen + 1 :], strict=True):
            if name:
                failed = not row.success and row.failed_at[0] == name
                self._macro(node, name, "start", t, source="statistics")
                t = max(t, min(t + seconds, now))
                self._macro(node, name, "failed" if failed else "ok", t, source="statistics")
                node.step_failed_at = t if failed else 0.0
        node.position, node.step_start = ("", ""), t

    def _is_up(self, node: _NodeProgress, t: float, begun: Mapping[str, float]) -> None:
        t = max(t, node.step_start)
        if node.position[0] and not node.step_failed:
            self._walk(node, node.position[0], begun, t, upto=None)
            self._step_ok(node, t)
        name = node.position[0]
        if name and instance(name)[0] != MACROS[-1]:  # the last macro-step was not seen
            self._macro_ends(node, "ok", t)
            name = ""
        self._place(node, name, LOGIN, t)
        node.up, self._up[node.vm.name] = True, node
        self._new_up.append(node.vm)

    def _failed(self, node: _NodeProgress, t: float, row: StatisticsRow | None, why: str) -> None:
        # it is over for a node when it failed, not when the last of the others was done
        t = max(node.step_failed_at or t, node.step_start)
        macro, micro, message = row.failed_at if row is not None else ("", "", "")
        macro, micro = (instance(macro)[0], micro) if macro else ("", "")
        reason = short(message, 300) or message_of(node.reason) or why or _NO_REASON
        node.reason = reason
        if not node.step_failed:
            self._step_failed(node, t)
        if node.position[0]:
            self._macro_ends(node, "failed", t, reason)
        location = self._location(node)
        step = step_name(macro, micro) if micro else location[1]
        node.failed_at = (macro or location[0] or MACROS[0], step or step_name(MACROS[0], "switch_pxe"))
        detail = {"macro": node.failed_at[0], "at": node.failed_at[1], "reason": reason}
        self._end(node, "failed", t, detail)

    def _end(
        self, node: _NodeProgress, state: Literal["deployed", "failed"], t: float, detail: Mapping[str, Any]
    ) -> None:
        node.state = state
        t = max(t, node.last_event)
        self._last = max(self._last, t)
        self._add(
            event_types.vm_deployment_ended(
                self.name, node.vm.name, state, t, node.attempt, node.last_report, **detail
            )
        )

    # ---- single events ------------------------------------------------------------------------------

    @staticmethod
    def _location(node: _NodeProgress) -> tuple[str, str]:
        macro = instance(node.position[0])[0] or (MACROS[-1] if node.up else "")
        return macro, step_name(macro, node.position[1]) if node.position[1] else ""

    @staticmethod
    def _place(node: _NodeProgress, macro: str, micro: str, t: float) -> None:
        node.position, node.step_start = (macro, micro), max(t, node.last_event)
        node.step_failed, node.step_failed_at = False, 0.0

    def _begin_macro(self, node: _NodeProgress, name: str, t: float) -> None:
        node.macro_attempt, node.macro_start = node.attempt, max(t, node.last_event)
        self._macro(node, name, "start", t)
        self._place(node, name, "", t)

    def _macro_ends(self, node: _NodeProgress, status: Status, t: float, reason: str = "") -> None:
        more = {"reason": reason} if reason else {}
        self._macro(node, node.position[0], status, t, **more)

    def _macro_again(self, node: _NodeProgress, t: float) -> None:
        """The step that failed was begun again, in a further try of the same macro-step."""
        name, micro = node.position
        self._back_to(node, name, max(t, node.step_start))
        self._place(node, name, micro, node.step_start)

    def _back_to(self, node: _NodeProgress, name: str, t: float) -> None:
        self._macro_ends(node, "retry", t, message_of(node.reason) or _NO_REASON)
        node.attempt += 1
        node.reason = ""
        self._begin_macro(node, name, t)

    def _step_ok(self, node: _NodeProgress, t: float) -> None:
        if node.position[1] in WAITS and node.step_start < node.back <= t:
            t = node.back  # after that it waited for the others
        if node.position[1]:
            self._step(node, "ok", t)

    def _step_failed(self, node: _NodeProgress, t: float) -> None:
        node.step_failed, node.step_failed_at = True, t
        if node.position[1]:
            self._step(node, "failed", t, reason=message_of(node.reason) or _NO_REASON)

    def _step(self, node: _NodeProgress, status: Status, t: float, **more: Any) -> None:
        node.last_event = t = max(t, node.step_start, node.last_event)
        step, seconds = self._location(node)[1], t - node.step_start
        self._add(
            event_types.micro_step(self.name, node.vm.name, step, status, t, node.attempt, seconds, **more)
        )

    def _macro(self, node: _NodeProgress, name: str, status: Status, t: float, **more: Any) -> None:
        macro, variant = instance(name)
        node.last_event = t = max(t, node.last_event)
        attempt = node.macro_attempt
        self._add(event_types.macro_step(self.name, node.vm.name, macro, status, t, attempt, variant, **more))
