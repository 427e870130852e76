"""What a report means for the VM that it is about. Changes nothing."""

from __future__ import annotations

from enum import Enum

from g5kvirt.provisioners.builtin.orders import Report
from g5kvirt.provisioners.builtin.positions import Position, VMProgress
from g5kvirt.provisioners.builtin.state import DeploymentState

__all__ = ["CLOCK_SLACK", "Meaning", "interpret"]

#: Clocks of hosts and service machines, corrected by their measured offsets, may still differ so much.
CLOCK_SLACK = 0.5


class Meaning(Enum):
    """What follows from a report."""

    NOTHING = "late, a repetition, about an earlier attempt, or about a step without its order"
    STEP_ENDED = "the VM's step is done, or failed"
    LATER_STEP_ENDED = "a later step is done, or failed, so those before it are done"
    CAME_BACK = "the VM restarted, unasked, into its minimal system"
    EARLIER_STEP_FAILED = "a step that seemed to be done has failed"
    NOT_READY_YET = "a check was negative"
    WANTS_CHECK = "the VM reports itself, and is worth a check"


def interpret(
    state: DeploymentState, progress: VMProgress, report: Report
) -> tuple[Meaning, Position | None]:
    """What ``report`` means for a VM; for `Meaning.LATER_STEP_ENDED` also which step."""
    if progress.state != "open" or not _is_of_this_attempt(progress, report):
        return Meaning.NOTHING, None
    step = progress.position.step
    if step.act == "check":
        return _at_check(state, progress, report), None
    if step.act in ("reboot", "task") and not progress.order_given:
        return Meaning.NOTHING, None
    if report.step == step.name:
        return Meaning.STEP_ENDED, None
    later = state.positions.ahead(progress, report.step)
    if later is not None:
        return Meaning.LATER_STEP_ENDED, later
    return _about_the_past(state, progress, report), None


def _is_of_this_attempt(progress: VMProgress, report: Report) -> bool:
    if report.attempt is None:
        return report.t >= progress.attempt_start - CLOCK_SLACK
    return report.attempt == progress.attempt


def _at_check(state: DeploymentState, progress: VMProgress, report: Report) -> Meaning:
    step, checks = progress.position.step, state.checks
    if report.step == step.name and report.status == "ok":
        checked = progress.turn > 0  # in this attempt
        return Meaning.STEP_ENDED if checked else Meaning.NOTHING
    if report.step == step.name:
        answers = checks.holds(progress) and report.turn in (None, progress.turn)
        return Meaning.NOT_READY_YET if answers else Meaning.NOTHING
    if report.step == step.hint and report.status == "ok":
        under_way = checks.holds(progress) or checks.waits(progress)
        return Meaning.NOTHING if under_way else Meaning.WANTS_CHECK
    return _about_the_past(state, progress, report)


def _about_the_past(state: DeploymentState, progress: VMProgress, report: Report) -> Meaning:
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
        return Meaning.CAME_BACK
    if report.status == "failed" and report.attempt is not None and report.step in positions.guest:
        return Meaning.EARLIER_STEP_FAILED
    return Meaning.NOTHING
