"""Time-outs: steps, macro-steps, checks and broadcasts that have lasted too long."""

from __future__ import annotations

from g5kvirt.provisioners.builtin.positions import VMProgress
from g5kvirt.provisioners.builtin.state import WorkflowState
from g5kvirt.provisioners.builtin.transitions import Transitions

__all__ = ["expire", "not_ready_yet"]


def expire(state: WorkflowState, transitions: Transitions, now: float) -> None:
    """Fail everything that is late, and request the checks that are due."""
    for progress, seconds in state.deadlines.late_at_step(now):
        if state.checks.holds(progress) or state.checks.waits(progress):
            progress.final_check = True
        else:
            _fail_late(transitions, progress, now, now, seconds)
    for progress, seconds in state.deadlines.late_in_macro(now):
        macro, last = progress.position.branch.macro.name, progress.last_report or "nothing"
        reason = f"{macro} took longer than {seconds:.0f} s, last: {last}"
        transitions.fail(progress, now, now, reason, scope="try", silent=True)
    for broadcast, seconds in state.broadcasts.late(now):
        transitions.fail_host(broadcast, now, now, f"not there within {seconds:.0f} s")
    for progress in state.deadlines.expired_timers(now):
        if state.checks.holds(progress):
            progress.last_report = f"no answer to a check within {progress.position.step.lease:.0f} s"
            not_ready_yet(state, transitions, progress, now, now)
        else:
            state.request_check(progress)


def not_ready_yet(
    state: WorkflowState, transitions: Transitions, progress: VMProgress, t: float, now: float
) -> None:
    """A check was negative, or not answered: another follows, unless it was the last."""
    state.checks.leave(progress)
    if progress.final_check:
        _fail_late(transitions, progress, t, now, t - progress.step_start)
    else:
        state.deadlines.set_timer(progress, now + progress.position.step.every)


def _fail_late(transitions: Transitions, progress: VMProgress, t: float, now: float, seconds: float) -> None:
    step, last = progress.position.step, progress.last_report
    if step.act == "check":
        reason = f"not {step.name} within {seconds:.0f} s, last: {last or 'nothing'}"
    else:
        reason = f"nothing after {last or 'the order'} within {seconds:.0f} s"
    transitions.fail(progress, t, now, reason, silent=True)
