"""Progress of a run as text: the state of each phase and of its deployments, the time taken so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime

from g5kvirt.run.deployment_state import DeploymentState
from g5kvirt.run.events import Event
from g5kvirt.run.phase_state import PhaseState
from g5kvirt.run.state import RunState
from g5kvirt.run.vocabulary import DEPLOYMENT
from g5kvirt.spec.clock import PARIS
from g5kvirt.views.formatting import count, duration

__all__ = [
    "deployment_progress",
    "last_phase",
    "latest_message",
    "phase_message",
    "phase_title",
    "result_lines",
    "run_status",
    "time_taken",
]


def time_taken(phase: PhaseState, now: float = math.nan) -> str:
    """The total time of a phase over all its calls: ``12.3 s``, ``1 min 20 s in 3 calls``.

    A running call counts until ``now``; empty if the phase has not started, or runs and ``now`` is NaN.
    """
    return _duration_of_calls(phase.seconds(now), len(phase.tries))


def phase_title(phase: str, status: str, seconds: float, tries: int) -> str:
    """The heading of a result: ``launch: ok in 12.3 s``, ``measure: ok in 1 min 20 s in 3 calls``."""
    taken = _duration_of_calls(seconds, tries)
    return f"{phase}: {status}" + (f" in {taken}" if taken else _calls(tries))


def result_lines(title: str, run: str, facts: Mapping[str, str], *, predicted: bool) -> list[str]:
    """A result as text: its heading, and a line per fact, their values aligned."""
    about = ", a prediction" if predicted else ""
    width = max((len(name) for name in facts), default=0)
    return [f"{title} (run {run}{about})", *(f"  {name:<{width}}  {value}" for name, value in facts.items())]


def _duration_of_calls(seconds: float, tries: int) -> str:
    return "" if math.isnan(seconds) else duration(seconds) + _calls(tries)


def _calls(tries: int) -> str:
    return f" in {count(tries, 'call')}" if tries > 1 else ""


def phase_message(state: RunState, name: str) -> str:
    """What a phase is doing: the progress of its deployment, its latest event, or why it failed."""
    phase = state.phases[name]
    deployment = next(reversed(state.deployments.values()), None)
    if name == "measure" and phase.state == "running" and deployment is not None:
        return deployment_progress(deployment)
    return latest_message(phase)


def latest_message(phase: PhaseState) -> str:
    """The latest event of a phase as text, or why it failed; empty before it starts and after it succeeds."""
    event = phase.latest
    if event is None:
        return ""
    return event.reason if event.is_phase else _event_message(event)


def deployment_progress(deployment: DeploymentState) -> str:
    """``d1 (mini): 3/8 deployed, 1 failed``; while VMs write the image also how far they are."""
    name, environment = deployment.name, deployment.environment
    label = f"{name} ({environment})" if environment else name
    failed = f", {deployment.failed:,} failed" if deployment.failed else ""
    transfer = f"; {deployment.transfer_message}" if deployment.transfer_message else ""
    return f"{label}: {deployment.deployed:,}/{deployment.requested:,} deployed{failed}{transfer}"


def last_phase(state: RunState) -> PhaseState | None:
    """The last phase, in the experiment's order, that has started."""
    started = [phase for phase in state.phases.values() if phase.tries]
    return started[-1] if started else None


def run_status(state: RunState) -> str:
    """The state of the run: ``deploy running``, ``launch failed``, ``launch done``, ``nothing done``."""
    last = last_phase(state)
    return f"{last.name} {'done' if last.state == 'ok' else last.state}" if last else "nothing done"


def _event_message(event: Event) -> str:
    """``submitted nancy``, ``dnsmasq failed on graphene-1: …``."""
    what = event.step.replace("-", " ")
    if event.kind == "run":
        whole = event.step == DEPLOYMENT
        return _whole_deployment(event) if whole else str(event.detail.get("what", what))
    if event.status == "failed":
        return f"{what} failed on {event.subject}" + (f": {event.reason}" if event.reason else "")
    suffix = {"start": " …", "retry": " again", "skipped": " skipped"}.get(event.status, "")
    return f"{what} {event.subject}{suffix}{_start_message(event)}"


def _start_message(event: Event) -> str:
    """``: starts at 2026-12-01 19:00:00 in Paris, in 2 h 10 min``, of a job that is to start later."""
    start = event.detail.get("start")
    if event.phase != "reserve" or not isinstance(start, int | float) or start - event.t < 2:
        return ""
    clock = datetime.fromtimestamp(start, PARIS).strftime("%Y-%m-%d %H:%M:%S")
    return f": starts at {clock} in Paris, in {duration(start - event.t)}"


def _whole_deployment(event: Event) -> str:
    """``deployment d1 on 16 VMs``, ``deployment d1: 15 deployed, 1 failed``."""
    detail = event.detail
    if event.status == "start":
        return f"deployment {event.subject} on {detail.get('asked', '?')} VMs"
    parts = [f"{detail[state]} {state}" for state in ("deployed", "failed") if detail.get(state)]
    return f"deployment {event.subject}: {', '.join(parts) or event.status}"
