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

__all__ = ["CUT_SHORT", "deployment_ends", "missing_ends"]

#: The reason that is recorded for everything a killed process had not finished.
CUT_SHORT = "cut short: the process that ran it ended"


def missing_ends(state: RunState) -> list[Event]:
    """The ends of what is open in a journal whose writer was killed in the middle of a phase.

    The phase, its unfinished steps, and every unfinished VM of a deployment end as failed, at the time of the
    last event; empty if the last phase has an end.
    """
    open_ = list(state.spans.open)
    wholes = [e for e in open_ if e.is_phase or e.is_release]
    ends = deployment_ends(state, CUT_SHORT) if wholes else []
    for whole in wholes:
        for start in (e for e in open_ if e.phase == whole.phase and e.t >= whole.t and e not in wholes):
            if not is_whole_deployment(start):
                kept = _kept(start, "deployment", "variant")
                ends.append(_failed(start, state.latest, CUT_SHORT, **kept))
    return [*ends, *(_failed(whole, state.latest, CUT_SHORT) for whole in wholes)]


def deployment_ends(state: RunState, reason: str) -> list[Event]:
    """The ends of deployments that have none: one for each VM without one, and one for the whole."""
    ends = []
    for start in filter(is_whole_deployment, state.spans.open):
        name = start.deployment or start.subject  # as `RunState` reads it
        ends += _deployment_ends(start, state.deployments[name], state.latest, reason)
    return ends


def _deployment_ends(start: Event, deployment: DeploymentState, latest: float, reason: str) -> list[Event]:
    ends = []
    names = dict.fromkeys([*deployment.planned, *deployment.vms])
    for name in names:
        vm = deployment.vms.get(name)
        last = vm.last if vm is not None else None
        if vm is not None and vm.outcome != UNFINISHED:
            continue
        macro, at = _next_step(start.detail.get("workflow") or {}, last)
        end = replace(start, kind="vm", subject=name, attempt=last.attempt if last else 1)
        ends.append(_failed(end, latest, reason, deployment=deployment.name, said="", macro=macro, at=at))
    done = deployment.deployed
    whole = _failed(
        start, latest, reason, deployment=deployment.name, deployed=done, failed=len(names) - done
    )
    return [*ends, replace(whole, status="ok") if done else whole]


def _failed(start: Event, latest: float, reason: str, **detail: Any) -> Event:
    return replace(start, status="failed", t=max(latest, start.t), detail={**detail, "reason": reason})


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
