"""A deployment as a state machine: reports and the time go in, orders and events come out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from g5kvirt.inventory import VM
from g5kvirt.planning.windows import Window
from g5kvirt.provisioners.builtin import dispatch, expiry
from g5kvirt.provisioners.builtin.orders import HOST_GONE, VM_GONE, Order, Report
from g5kvirt.provisioners.builtin.positions import Position, VMProgress
from g5kvirt.provisioners.builtin.reports import interpret
from g5kvirt.provisioners.builtin.state import WorkflowState
from g5kvirt.provisioners.builtin.transitions import FailureScope, Transitions
from g5kvirt.provisioners.builtin.workflow import Workflow
from g5kvirt.provisioners.outcome import Outcome, OutcomeState
from g5kvirt.run.events import Event

__all__ = ["Deployment"]


class Deployment:
    """All VMs of one deployment.

    ``name`` is its id in the journal; ``about`` goes into its first event (environment, size, repetition).
    ``fresh`` names the VMs that are in their minimal system already: those are not rebooted first.
    ``without_ssh`` names those on which nothing was deployed yet: the first reboot of those is a hard one.
    Both windows say how many VMs may go now; a `SlotWindow`'s slot is held until the VM is up (a check: until
    it is answered), a `RateWindow` lets so many go in each period.
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
        without_ssh: Collection[str] = (),
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.workflow = workflow
        self._about = {**(about or {}), "workflow": workflow.plain()}
        self._state = WorkflowState(
            name, vms, workflow, reboots=reboots, checks=checks, fresh=fresh, without_ssh=without_ssh
        )
        self._transitions = Transitions(self._state)
        self._now = 0.0
        self._started = False

    # ---- how far it is ------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """True when every VM is deployed or failed, and that has been recorded."""
        return self._started and self.count("open") == 0

    def count(self, state: OutcomeState) -> int:
        """How many VMs are in ``state``; the three numbers always add up to all VMs."""
        return self._state.recorder.counts[state]

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcome of every VM, in the order in which they were started."""
        return [
            Outcome(
                vm=progress.vm,
                state=progress.state,
                macro=progress.position.branch.macro.name,
                step=progress.position.step.name,
                attempt=progress.attempt,
                reason=progress.reason,
                last_report=progress.last_report,
            )
            for progress in self._state.vms.values()
        ]

    def events(self) -> list[Event]:
        """The events since the last call, for the journal."""
        return self._state.recorder.take()

    def wake(self) -> float | None:
        """When to call `orders` again at the latest, if no report comes before; None: no need."""
        return None if self.finished else self._state.upcoming()

    # ---- what goes in and comes out -----------------------------------------------------------------

    def receive(self, report: Report, now: float) -> bool:
        """Take a report in; False if it changes nothing: late, a repetition, of an earlier attempt, not
        ours."""
        self._now = now = max(self._now, now)
        progress = self._state.vms.get(report.subject)
        if progress is None:
            return self._receive_about_host(report, now)
        if not self._started:
            return False
        if report.step == VM_GONE:
            return self._restart_if_dead(progress, report, now)
        meaning, later = interpret(self._state, progress, report)
        if meaning == "nothing":
            return False
        t = max(min(report.t, now), progress.step_start)
        if meaning == "came-back":
            reason = f"came back to its minimal system after {progress.last_report}"
            self._transitions.fail(progress, t, now, reason)
            return True
        progress.last_report = _summary(report)
        progress.last_report_time = report.t
        match meaning:
            case "step-ended":
                self._end_step(progress, report, t, now)
            case "later-step-ended":
                assert later is not None
                self._end_later_step(later, progress, report, t, now)
            case "earlier-step-failed":
                reason = f"{report.step}: {_reason(report)}"
                self._transitions.fail(progress, t, now, reason, scope=_scope(report))
            case "not-ready-yet":
                expiry.not_ready_yet(self._state, self._transitions, progress, t, now)
            case "wants-check":
                self._state.request_check(progress)
        return True

    def orders(self, now: float) -> list[Order]:
        """What to do now. Everything in it counts as ordered from here on."""
        self._now = now = max(self._now, now)
        self._start(now)
        expiry.expire(self._state, self._transitions, now)
        return dispatch.due_orders(self._state, now)

    def stop(self, now: float, reason: str) -> None:
        """End every VM that is not done yet as failed where it is, because of ``reason``."""
        self._start(now)
        for progress in [p for p in self._state.vms.values() if p.state == "open"]:
            self._transitions.fail(progress, max(now, progress.step_start), now, reason, scope="vm")

    def _start(self, now: float) -> None:
        if not self._started:
            self._started = True
            self._transitions.start(now, self._about)

    # ---- reports ------------------------------------------------------------------------------------

    def _end_step(
        self,
        progress: VMProgress,
        report: Report,
        t: float,
        now: float,
        *,
        measured: bool = True,
        verified: bool = True,
    ) -> None:
        """``verified``: its host's copy of the image is, as far as that is needed. If not, the copy may be
        to blame, and what looks permanent to a guest may well succeed with another one."""
        if report.status != "failed":
            self._transitions.complete(progress, t, now, measured=measured)
        else:
            scope: FailureScope = _scope(report) if verified else "step"
            self._transitions.fail(progress, t, now, _reason(report), scope=scope)

    def _end_later_step(
        self, later: Position, progress: VMProgress, report: Report, t: float, now: float
    ) -> None:
        verified = self._transitions.skip_to(progress, later, t, proven=report.status != "failed")
        if later.step.act == "check":
            self._transitions.enter(progress, t, now)
            self._state.request_check(progress)
        else:
            self._end_step(progress, report, t, now, measured=False, verified=verified)

    def _restart_if_dead(self, progress: VMProgress, report: Report, now: float) -> bool:
        """A VM's process had ended at ``report.t``: nothing comes of its step any more, unless it has begun
        since, or is the one that starts a process."""
        if progress.state != "open" or progress.position.step.act == "reboot":
            return False
        if report.t < progress.step_start:
            return False
        progress.last_report, progress.last_report_time = _summary(report), report.t
        self._transitions.fail(progress, now, now, _reason(report), silent=True)
        return True

    def _receive_about_host(self, report: Report, now: float) -> bool:
        if report.step == HOST_GONE:
            return self._fail_vms_of(report, now)
        broadcast = self._state.broadcasts.take_reported(report)
        if broadcast is None:
            return False
        t = max(min(report.t, now), broadcast.start)
        if report.status == "ok":
            self._transitions.complete_host(broadcast, t, now)
        else:
            self._transitions.fail_host(broadcast, t, now, _reason(report))
        return True

    def _fail_vms_of(self, report: Report, now: float) -> bool:
        """A host is gone: nothing more will come of its VMs, wherever they are."""
        lost = [p for p in self._state.vms.values() if p.state == "open" and p.vm.host == report.subject]
        for progress in lost:
            t = max(min(report.t, now), progress.step_start)
            self._transitions.fail(progress, t, now, _reason(report), scope="vm")
        return bool(lost)


def _summary(report: Report) -> str:
    return f"{report.step} {report.status}" + (f": {report.reason}" if report.reason else "")


def _reason(report: Report) -> str:
    return report.reason or "no reason was given"


def _scope(report: Report) -> FailureScope:
    return "vm" if report.permanent else "step"
