"""The six steps of a run and its deployments, folded from its events: where each stands, and since when."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from g5kvirt.run.journal import PHASES, Event
from g5kvirt.spec.clock import PARIS
from g5kvirt.views.words import duration

__all__ = ["DeploymentState", "PhaseState", "Phases"]

State = Literal["waiting", "running", "ok", "failed"]


@dataclass
class PhaseState:
    """One of the six steps: what became of it, when, and the last thing heard from it."""

    name: str
    state: State = "waiting"
    start: float | None = None
    end: float | None = None
    heard: str = ""

    def seconds(self, now: float) -> float | None:
        """How long it took, or takes until ``now``; None before it began."""
        if self.start is None:
            return None
        return max(0.0, (now if self.end is None else self.end) - self.start)


@dataclass
class DeploymentState:
    """How far the last deployment of `measure` has come: VMs ``asked``, and what became of them so far."""

    name: str
    environment: str = ""
    asked: int = 0
    deployed: int = 0
    failed: int = 0

    def __str__(self) -> str:
        what = f"{self.name} ({self.environment})" if self.environment else self.name
        lost = f", {self.failed:,} failed" if self.failed else ""
        return f"{what}: {self.deployed:,}/{self.asked:,} deployed{lost}"


@dataclass
class Phases:
    """The six steps; ``take`` each event in its order, in constant time."""

    states: dict[str, PhaseState] = field(default_factory=lambda: {p: PhaseState(p) for p in PHASES})
    deployment: DeploymentState | None = None  #: the last one that was begun

    def take(self, event: Event) -> None:
        """Go one event further."""
        if event.phase == "measure" and event.step == "deployment":
            self._take_deployment(event)
        phase = self.states.get(event.phase)
        if phase is None or event.step == "release":
            return
        if event.step != "phase":
            if event.kind != "vm":
                phase.heard = _heard(event)
        elif event.status == "start":
            phase.state, phase.start, phase.end, phase.heard = "running", event.t, None, ""
        elif event.status in ("ok", "failed"):
            phase.state = "ok" if event.status == "ok" else "failed"
            phase.end = event.t
            phase.heard = str(event.detail.get("reason", "")) if event.status == "failed" else ""

    def _take_deployment(self, event: Event) -> None:
        if event.kind == "run":
            if event.status == "start":
                environment, asked = event.detail.get("environment", ""), event.detail.get("asked", 0)
                self.deployment = DeploymentState(event.subject, str(environment), int(asked))
        elif self.deployment is not None and event.detail.get("deployment") == self.deployment.name:
            self.deployment.deployed += event.status == "ok"
            self.deployment.failed += event.status == "failed"

    def says(self, name: str) -> str:
        """What there is to say about a step now: how far the deployment is, or what was heard last."""
        phase = self.states[name]
        if name == "measure" and phase.state == "running" and self.deployment is not None:
            return str(self.deployment)
        return phase.heard

    @property
    def last(self) -> PhaseState | None:
        """The farthest step that was begun."""
        begun = [phase for phase in self.states.values() if phase.state != "waiting"]
        return begun[-1] if begun else None

    @property
    def stands_at(self) -> str:
        """In a few words: ``deploy running``, ``launch failed``, ``launch done``, ``nothing done``."""
        last = self.last
        return f"{last.name} {'done' if last.state == 'ok' else last.state}" if last else "nothing done"


def _heard(event: Event) -> str:
    """``submitted nancy``, ``dnsmasq failed on graphene-1: …``."""
    what = event.step.replace("-", " ")
    if event.kind == "run":
        return _deployment(event) if event.step == "deployment" else str(event.detail.get("what", what))
    if event.status == "failed":
        reason = event.detail.get("reason")
        return f"{what} failed on {event.subject}" + (f": {reason}" if reason else "")
    suffix = {"start": " …", "retry": " again", "skipped": " skipped"}.get(event.status, "")
    return f"{what} {event.subject}{suffix}{_when(event)}"


def _when(event: Event) -> str:
    """``: starts at 2026-12-01 19:00:00 in Paris, in 2 h 10 min``, of a job that is to start later."""
    start = event.detail.get("start")
    if event.phase != "reserve" or not isinstance(start, int | float) or start - event.t < 2:
        return ""
    clock = datetime.fromtimestamp(start, PARIS).strftime("%Y-%m-%d %H:%M:%S")
    return f": starts at {clock} in Paris, in {duration(start - event.t)}"


def _deployment(event: Event) -> str:
    """``deployment d1 on 16 VMs``, ``deployment d1: 15 deployed, 1 failed``."""
    detail = event.detail
    if event.status == "start":
        return f"deployment {event.subject} on {detail.get('asked', '?')} VMs"
    words = [f"{detail[state]} {state}" for state in ("deployed", "failed") if detail.get(state)]
    return f"deployment {event.subject}: {', '.join(words) or event.status}"
