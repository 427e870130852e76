"""What a killed process left open: the events that are missing at the end of its journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from g5kvirt.run.deployment_state import DeploymentState
from g5kvirt.run.event_types import is_whole_deployment
from g5kvirt.run.events import Event
from g5kvirt.run.state import RunState
from g5kvirt.run.vocabulary import UNFINISHED

__all__ = ["CUT_SHORT", "missing_ends"]

#: The reason that is recorded for everything a killed process had not finished.
CUT_SHORT = "cut short: the process that ran it ended"


def missing_ends(state: RunState) -> list[Event]:
    """The ends of what is open in a journal whose writer was killed in the middle of a phase.

    The phase, its unfinished steps, and every unfinished VM of a deployment end as failed, at the time of the
    last event; empty if the last phase has an end.
    """
    open_ = list(state.spans.open)
    wholes = [e for e in open_ if e.is_phase or e.is_release]
    ends = []
    for whole in wholes:
        for start in (e for e in open_ if e.phase == whole.phase and e.t >= whole.t and e not in wholes):
            if is_whole_deployment(start):
                name = start.deployment or start.subject  # as `RunState` reads it
                ends += _deployment_ends(start, state.deployments[name], state.latest)
            else:
                ends.append(_failed(start, state.latest, **_kept(start, "deployment", "variant")))
    return [*ends, *(_failed(whole, state.latest) for whole in wholes)]


def _deployment_ends(start: Event, deployment: DeploymentState, latest: float) -> list[Event]:
    """The ends of a deployment: one for each VM that has none, and one for the whole."""
    ends = []
    names = dict.fromkeys([*deployment.planned, *deployment.vms])
    for name in names:
        vm = deployment.vms.get(name)
        last = vm.last if vm is not None else None
        if vm is not None and vm.outcome != UNFINISHED:
            continue
        macro, at = _next_step(start.detail.get("workflow") or {}, last)
        end = replace(start, kind="vm", subject=name, attempt=last.attempt if last else 1)
        ends.append(_failed(end, latest, deployment=deployment.name, said="", macro=macro, at=at))
    done = deployment.deployed
    whole = _failed(start, latest, deployment=deployment.name, deployed=done, failed=len(names) - done)
    return [*ends, replace(whole, status="ok") if done else whole]


def _failed(start: Event, latest: float, **detail: Any) -> Event:
    return replace(start, status="failed", t=max(latest, start.t), detail={**detail, "reason": CUT_SHORT})


def _kept(event: Event, *names: str) -> dict[str, Any]:
    return {name: event.detail[name] for name in names if name in event.detail}


def _next_step(workflow: Mapping[str, Sequence[str]], last: Event | None) -> tuple[str, str]:
    """The macro-step and the step that a VM was at, whose last event was ``last``."""
    steps = [(macro, step) for macro, own in workflow.items() for step in own]
    if not steps:
        return "", "" if last is None else last.step
    if last is None:
        return steps[0]
    for number, (macro, step) in enumerate(steps):
        if last.step == step and "seconds" in last.detail:
            done = last.status in ("ok", "skipped")
            return steps[min(number + done, len(steps) - 1)]
        if last.step == macro:
            return macro, step
    return "", last.step
