"""Where a run stands, folded from its events: what the terminal, the notebook and HTML all show.

Only transitions that were seen count: a VM is in the state of the last event about it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from g5kvirt.journal import PHASES, Event
from g5kvirt.views.palette import FAILED, PLANNED, STEPS

__all__ = ["PhaseState", "Progress"]

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


@dataclass(frozen=True, slots=True)
class _Boot:
    """How far a VM has come in its last attempt: ``reached`` milestones of `STEPS`."""

    attempt: int = 0
    reached: int = 0
    given_up: bool = False

    @property
    def state(self) -> str:
        return FAILED if self.given_up else STEPS[self.reached - 1] if self.reached else PLANNED


@dataclass
class Progress:
    """The state of a run; ``take`` each event in its order. ``vms`` is how many were asked for."""

    vms: int = 0
    phases: dict[str, PhaseState] = field(default_factory=lambda: {p: PhaseState(p) for p in PHASES})
    _boots: dict[str, _Boot] = field(default_factory=dict)

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
            self._take_vm(event)
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

    @property
    def counts(self) -> dict[str, int]:
        """VMs in each state, the farthest first, those not heard of yet as planned."""
        seen = Counter(boot.state for boot in self._boots.values())
        seen[PLANNED] += max(0, self.vms - len(self._boots))
        return {state: seen[state] for state in (*reversed(STEPS), PLANNED, FAILED) if seen[state]}

    @property
    def total(self) -> int:
        """VMs asked for, or seen if there are more."""
        return max(self.vms, len(self._boots))

    @property
    def up(self) -> int:
        """VMs that reported in from the minimal system."""
        return sum(boot.state == STEPS[-1] for boot in self._boots.values())

    @property
    def failed(self) -> int:
        """VMs that were given up."""
        return sum(boot.given_up for boot in self._boots.values())

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
        return what
    if event.status == "failed":
        reason = event.detail.get("reason")
        return f"{what} failed on {event.subject}" + (f": {reason}" if reason else "")
    suffix = {"start": " …", "retry": " again", "skipped": " skipped"}.get(event.status, "")
    return f"{what} {event.subject}{suffix}"
