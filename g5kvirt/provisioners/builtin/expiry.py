"""Time-outs: steps, macro-steps, checks and broadcasts that have lasted too long."""

from __future__ import annotations

from g5kvirt.provisioners.builtin.positions import Position, VMProgress
from g5kvirt.provisioners.builtin.state import WorkflowState
from g5kvirt.provisioners.builtin.transitions import Transitions

__all__ = ["expire", "not_ready_yet"]


def expire(state: WorkflowState, transitions: Transitions, now: float) -> None:
    """Fail everything that is late, and request the checks that are due."""
    for progress, seconds in state.deadlines.late_in_macro(now):
        macro, last = progress.position.branch.macro, progress.last_report or "nothing"
        bound = f" ({macro.setting})" if macro.setting else ""
        reason = f"{macro.name} took longer than {seconds:.0f} s{bound}, last: {last}"
        transitions.fail(progress, now, now, reason, scope="try", silent=True)
    for progress, seconds in state.deadlines.late_at_step(now):
        if state.checks.holds(progress) or state.checks.waits(progress):
            progress.final_check = True
        else:
            _fail_late(transitions, progress, now, now, seconds)
    for broadcast, seconds in state.broadcasts.late(now):
        reason = f"not there within {_limit(broadcast.position, seconds)}"
        transitions.fail_host(broadcast, now, now, reason)
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
    limit = _limit(progress.position, seconds)
    if step.act == "check":
        reason = f"not {step.name} within {limit}, last: {last or 'nothing'}"
    else:
        reason = f"nothing after {last or 'the order'} within {limit}"
    transitions.fail(progress, t, now, reason, silent=True)


def _limit(position: Position, seconds: float) -> str:
    """How long was allowed, and which field of a specification allows more."""
    setting = position.branch.macro.setting
    return f"{seconds:.0f} s" + (f" ({setting} allows more)" if setting else "")
