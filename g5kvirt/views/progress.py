"""Where a run stands, folded from its events: what the terminal, the notebook and HTML all show.

Only transitions that were seen count: a VM is in the state of the last event about it. While an
environment is deployed on it, that is where it stands in the deployment, and it stays so until the next one.
Every event costs the same, whatever the number of VMs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from g5kvirt.journal import PHASES, Event
from g5kvirt.measurements import MACROS
from g5kvirt.views.palette import DEPLOYED, FAILED, PLANNED, REBOOTING, STEPS, WRITING

__all__ = ["PhaseState", "Progress"]

State = Literal["waiting", "running", "ok", "failed"]

_STATES = (DEPLOYED, WRITING, REBOOTING, *reversed(STEPS), PLANNED, FAILED)
_SETTLED = (DEPLOYED, STEPS[-1], FAILED)
_FIRST, *_, _LAST = MACROS


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


@dataclass(frozen=True, slots=True)
class _Boot:
    """How far a VM has come in its last attempt: ``reached`` milestones of `STEPS`."""

    attempt: int = 0
    reached: int = 0
    given_up: bool = False

    @property
    def state(self) -> str:
        return FAILED if self.given_up else STEPS[self.reached - 1] if self.reached else PLANNED

    @property
    def up(self) -> bool:
        return self.state == STEPS[-1]


@dataclass
class Progress:
    """The state of a run; ``take`` each event in its order. ``vms`` is how many were asked for."""

    vms: int = 0
    phases: dict[str, PhaseState] = field(default_factory=lambda: {p: PhaseState(p) for p in PHASES})
    _boots: dict[str, _Boot] = field(default_factory=dict)
    _deploys: dict[str, str] = field(default_factory=dict)  # VM → its state in its last deployment
    _states: dict[str, str] = field(default_factory=dict)
    _seen: Counter[str] = field(default_factory=Counter)  # state → VMs
    _up: int = 0

    @classmethod
    def of(cls, events: Iterable[Event], vms: int = 0) -> Progress:
        """The state after ``events``."""
        progress = cls(vms)
        for event in events:
            progress.take(event)
        return progress

    def take(self, event: Event) -> None:
        """Go one event further."""
        if event.kind == "vm":
            boot = self._boots.get(event.subject)
            if event.phase == "measure":
                self._take_deployment(event)
            else:
                self._take_vm(event)
            self._count(event.subject, boot)
        phase = self.phases.get(event.phase)
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

    def _take_vm(self, event: Event) -> None:
        before = self._boots.get(event.subject, _Boot())
        if event.step == "launch":
            if event.status == "failed":
                self._boots[event.subject] = _Boot(before.attempt, before.reached, given_up=True)
        elif event.step not in STEPS or event.status not in ("start", "ok"):
            return
        elif event.attempt > before.attempt or (before.given_up and event.status == "start"):
            # Switched on again: what was before does not count. A power-on that only began has not
            # been seen to happen yet.
            self._boots[event.subject] = _Boot(event.attempt, int(event.status == "ok"))
        elif event.status == "ok" and event.attempt == before.attempt:
            # Files and addresses may be asked for twice: a VM never goes back within one attempt. One
            # that reports in after all is up, also after it was given up.
            reached = max(before.reached, STEPS.index(event.step) + 1)
            self._boots[event.subject] = _Boot(
                before.attempt, reached, before.given_up and reached < len(STEPS)
            )

    def _take_deployment(self, event: Event) -> None:
        name, step, status = event.subject, event.step, event.status
        if step == "deployment":
            self._deploys[name] = DEPLOYED if status == "ok" else FAILED
        elif status == "start":
            self._deploys[name] = REBOOTING if step in (_FIRST, _LAST) else WRITING
        elif step == STEPS[-1] and status in ("ok", "skipped"):  # it stands in its minimal system
            self._deploys[name] = WRITING

    def _count(self, name: str, before: _Boot | None) -> None:
        """Bring the counts up to date after an event about a VM."""
        boot = self._boots.get(name)
        self._up += (boot is not None and boot.up) - (before is not None and before.up)
        state = self._deploys.get(name) or (boot.state if boot else None)
        old = self._states.get(name)
        if state is None or state == old:
            return
        if old is not None:
            self._seen[old] -= 1
        self._states[name] = state
        self._seen[state] += 1

    @property
    def counts(self) -> dict[str, int]:
        """VMs in each state, the farthest first, those not heard of yet as planned."""
        seen = Counter(self._seen)
        seen[PLANNED] += max(0, self.vms - len(self._states))
        return {state: seen[state] for state in _STATES if seen[state]}

    @property
    def total(self) -> int:
        """VMs asked for, or seen if there are more."""
        return max(self.vms, len(self._states))

    @property
    def up(self) -> int:
        """VMs that reported in from the minimal system."""
        return self._up

    @property
    def failed(self) -> int:
        """VMs that were given up, or failed in their last deployment."""
        return self._seen[FAILED]

    @property
    def settled(self) -> bool:
        """True when no VM is on its way: each is up, deployed or failed."""
        return sum(self._seen[state] for state in _SETTLED) >= self.total

    @property
    def stands_at(self) -> str:
        """In a few words: ``deploy running``, ``launch failed``, ``launch done``, ``nothing done``."""
        begun = [phase for phase in self.phases.values() if phase.state != "waiting"]
        if not begun:
            return "nothing done"
        return f"{begun[-1].name} {'done' if begun[-1].state == 'ok' else begun[-1].state}"


def _heard(event: Event) -> str:
    """``submitted nancy``, ``dnsmasq failed on graphene-1: …``."""
    what = event.step.replace("-", " ")
    if event.kind == "run":
        return _deployment(event) if event.step == "deployment" else str(event.detail.get("what", what))
    if event.status == "failed":
        reason = event.detail.get("reason")
        return f"{what} failed on {event.subject}" + (f": {reason}" if reason else "")
    suffix = {"start": " …", "retry": " again", "skipped": " skipped"}.get(event.status, "")
    return f"{what} {event.subject}{suffix}"


def _deployment(event: Event) -> str:
    """``deployment d1 on 16 VMs``, ``deployment d1: 15 deployed, 1 failed``."""
    detail = event.detail
    if event.status == "start":
        return f"deployment {event.subject} on {detail.get('asked', '?')} VMs"
    words = [f"{detail[state]} {state}" for state in ("deployed", "failed") if detail.get(state)]
    return f"deployment {event.subject}: {', '.join(words) or event.status}"
