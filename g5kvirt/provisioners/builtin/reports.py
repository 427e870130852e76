"""The meaning of a report for its VM. Changes nothing."""

from __future__ import annotations

from typing import Literal

from g5kvirt.provisioners.builtin.orders import Report
from g5kvirt.provisioners.builtin.positions import Position, VMProgress
from g5kvirt.provisioners.builtin.state import WorkflowState

__all__ = ["CLOCK_SLACK", "Meaning", "interpret"]

#: Clocks of hosts and service machines, corrected by their measured offsets, may still differ so much.
CLOCK_SLACK = 0.5


#: What follows from a report: nothing (it is late, a repetition, about an earlier attempt, or about a step
#: without its order); the VM's step, or a later one, ended (done or failed); the VM came back, unasked, into
#: its minimal system; a step that seemed to be done failed; a check was negative; the VM is worth a check.
Meaning = Literal[
    "nothing",
    "step-ended",
    "later-step-ended",
    "came-back",
    "earlier-step-failed",
    "not-ready-yet",
    "wants-check",
]


def interpret(state: WorkflowState, progress: VMProgress, report: Report) -> tuple[Meaning, Position | None]:
    """What ``report`` means for a VM; for ``later-step-ended`` also which step."""
    if progress.state != "open":
        return "nothing", None
    if report.attempt is None:
        if report.t < progress.attempt_start - CLOCK_SLACK:
            return "nothing", None
    elif report.attempt != progress.attempt:
        return "nothing", None
    step = progress.position.step
    if step.act == "check":
        return _at_check(state, progress, report), None
    if not progress.order_given and step.act in ("reboot", "task"):
        return "nothing", None
    if report.step == step.name:
        return "step-ended", None
    later = state.positions.ahead(progress, report.step)
    if later is not None:
        return "later-step-ended", later
    return _about_the_past(state, progress, report), None


def _at_check(state: WorkflowState, progress: VMProgress, report: Report) -> Meaning:
    step, checks = progress.position.step, state.checks
    if report.step == step.name and report.status == "ok":
        checked = progress.turn > 0  # in this attempt
        return "step-ended" if checked else "nothing"
    if report.step == step.name:
        answers = checks.holds(progress) and report.turn in (None, progress.turn)
        return "not-ready-yet" if answers else "nothing"
    if report.step == step.hint and report.status == "ok":
        under_way = checks.holds(progress) or checks.waits(progress)
        return "nothing" if under_way else "wants-check"
    return _about_the_past(state, progress, report)


def _about_the_past(state: WorkflowState, progress: VMProgress, report: Report) -> Meaning:
    """A report about a step that is over."""
    step, positions = progress.position.step, state.positions
    if (
        report.step in positions.minimal
        and report.status == "ok"
        and report.attempt is None
        and step.act in ("report", "broadcast", "check")
        and not step.prepares
        and report.t > max(progress.last_report_time, progress.attempt_start) + CLOCK_SLACK
    ):
        return "came-back"
    if report.status == "failed" and report.attempt is not None and report.step in positions.guest:
        return "earlier-step-failed"
    return "nothing"
