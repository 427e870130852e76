"""The phases of a run and its deployments in words: what each is doing, and how far it is."""

from __future__ import annotations

import math
from datetime import datetime

from g5kvirt.run.deployment_state import DeploymentState
from g5kvirt.run.events import Event
from g5kvirt.run.phase_state import PhaseState
from g5kvirt.run.state import RunState
from g5kvirt.run.vocabulary import DEPLOYMENT
from g5kvirt.spec.clock import PARIS
from g5kvirt.views.words import count, duration

__all__ = [
    "deployment_words",
    "last_phase",
    "latest_words",
    "phase_seconds",
    "phase_words",
    "stands_at",
    "tries_words",
]


def phase_seconds(phase: PhaseState, now: float) -> float | None:
    """The time of all tries of a phase, the running one until ``now``; None before it began."""
    seconds = phase.seconds(now)
    return None if math.isnan(seconds) else seconds


def tries_words(tries: int) -> str:
    """``" in 3 calls"``; nothing for one."""
    return f" in {count(tries, 'call')}" if tries > 1 else ""


def phase_words(state: RunState, name: str) -> str:
    """What a phase is doing: how far its deployment is, the last event about it, or why it failed."""
    phase = state.phases[name]
    deployment = next(reversed(state.deployments.values()), None)
    if name == "measure" and phase.state == "running" and deployment is not None:
        return deployment_words(deployment)
    return latest_words(phase)


def latest_words(phase: PhaseState) -> str:
    """The last event of a phase in words, or why it failed; empty before and after a good end."""
    event = phase.latest
    if event is None:
        return ""
    return event.reason if event.is_phase else _event_words(event)


def deployment_words(deployment: DeploymentState) -> str:
    """``d1 (mini): 3/8 deployed, 1 failed``."""
    name, environment = deployment.name, deployment.environment
    what = f"{name} ({environment})" if environment else name
    lost = f", {deployment.failed:,} failed" if deployment.failed else ""
    return f"{what}: {deployment.deployed:,}/{deployment.requested:,} deployed{lost}"


def last_phase(state: RunState) -> PhaseState | None:
    """The last phase in the experiment's order that was begun."""
    begun = [phase for phase in state.phases.values() if phase.tries]
    return begun[-1] if begun else None


def stands_at(state: RunState) -> str:
    """In a few words: ``deploy running``, ``launch failed``, ``launch done``, ``nothing done``."""
    last = last_phase(state)
    return f"{last.name} {'done' if last.state == 'ok' else last.state}" if last else "nothing done"


def _event_words(event: Event) -> str:
    """``submitted nancy``, ``dnsmasq failed on graphene-1: …``."""
    what = event.step.replace("-", " ")
    if event.kind == "run":
        whole = event.step == DEPLOYMENT
        return _whole_deployment(event) if whole else str(event.detail.get("what", what))
    if event.status == "failed":
        return f"{what} failed on {event.subject}" + (f": {event.reason}" if event.reason else "")
    suffix = {"start": " …", "retry": " again", "skipped": " skipped"}.get(event.status, "")
    return f"{what} {event.subject}{suffix}{_start_words(event)}"


def _start_words(event: Event) -> str:
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
    words = [f"{detail[state]} {state}" for state in ("deployed", "failed") if detail.get(state)]
    return f"deployment {event.subject}: {', '.join(words) or event.status}"
