"""Where a run and each of its VMs stand, folded from its events: what terminal, notebook and HTML all show.

Only what was seen counts: a VM is in the state of the last event about it. While an environment is deployed
on it, that is where it stands in the deployment, and it stays so until the next one. Every event costs the
same, whatever the number of VMs; only a plan costs what it lists. No I/O, no clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from g5kvirt.run.deployment_tables import MACROS
from g5kvirt.run.journal import Event
from g5kvirt.views.palette import (
    DEPLOYED,
    FAILED,
    PLANNED,
    REBOOTING,
    STATE_OF,
    STATES,
    STEPS,
    WRITING,
)
from g5kvirt.views.progress import DeploymentState, Phases, PhaseState

__all__ = ["Cell", "LiveModel"]

_FIRST, *_, _LAST = MACROS
_UP = STEPS[-1]


@dataclass(slots=True)
class Cell:
    """One VM: where it is, and what was last seen of it."""

    name: str
    host: str = ""
    site: str = ""
    state: str = PLANNED  #: one of `palette.STATES`
    step: str = ""  #: the last step it was seen at
    since: float = 0.0  #: when that was, seconds since the epoch
    attempt: int = 1
    reason: str = ""  #: why it was last given up or begun anew
    up: bool = False  #: it reported in from its minimal system
    _launch: int = 0  # in which call of launch
    _boot: int = 0  # the attempt of its boot that counts
    _reached: int = 0  # milestones of that attempt
    _given_up: bool = False


@dataclass
class LiveModel:
    """The state of a run; ``take`` each event in its order. ``vms`` is how many were asked for."""

    vms: int = 0
    steps: Phases = field(default_factory=Phases)
    cells: dict[str, Cell] = field(default_factory=dict)
    begun: float | None = None  #: when the first event was
    heard: float = 0.0  #: when the last event was
    arranged: int = 0  #: how often VMs appeared or moved: a wall of an earlier number is out of date
    _seen: Counter[str] = field(default_factory=Counter)
    _up: int = 0
    _launches: int = 0
    _changed: dict[str, None] = field(default_factory=dict)

    @classmethod
    def of(cls, events: Iterable[Event], vms: int = 0) -> LiveModel:
        """The state after ``events``."""
        model = cls(vms)
        for event in events:
            model.take(event)
        return model

    def take(self, event: Event) -> None:
        """Go one event further."""
        if self.begun is None:
            self.begun = event.t
        self.heard = max(self.heard, event.t)
        self.steps.take(event)
        if event.kind == "vm":
            self._take_vm(event)
        elif (event.phase, event.step, event.kind) == ("place", "plan", "run"):
            self._arrange(event)
        elif (event.phase, event.step, event.status) == ("launch", "phase", "start"):
            self._launches += 1

    def changes(self) -> list[Cell]:
        """The VMs about which there is something new since this was last asked."""
        changed = [self.cells[name] for name in self._changed]
        self._changed = {}
        return changed

    # ---- numbers --------------------------------------------------------------------------------------

    @property
    def phases(self) -> dict[str, PhaseState]:
        """The six steps."""
        return self.steps.states

    @property
    def deployment(self) -> DeploymentState | None:
        """The last deployment that was begun."""
        return self.steps.deployment

    @property
    def counts(self) -> dict[str, int]:
        """VMs in each state, in the order of their way, those not heard of yet as planned."""
        seen = Counter(self._seen)
        seen[PLANNED] += max(0, self.vms - len(self.cells))
        return {state: seen[state] for state in STATES if seen[state]}

    @property
    def total(self) -> int:
        """VMs asked for, or seen if there are more."""
        return max(self.vms, len(self.cells))

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
        return self._seen[_UP] + self._seen[DEPLOYED] + self._seen[FAILED] >= self.total

    @property
    def stands_at(self) -> str:
        """In a few words: ``deploy running``, ``launch failed``, ``launch done``, ``nothing done``."""
        return self.steps.stands_at

    # ---- VMs ------------------------------------------------------------------------------------------

    def _arrange(self, event: Event) -> None:
        """A plan was made: these VMs, on these hosts, and no others."""
        rows = event.detail.get("vms")
        if rows is None:
            return
        self.cells = {
            str(row["name"]): Cell(str(row["name"]), str(row["host"]), str(row["site"]), since=event.t)
            for row in rows
        }
        self._seen = Counter({PLANNED: len(self.cells)})
        self._up = 0
        self._changed = {}
        self.arranged += 1

    def _take_vm(self, event: Event) -> None:
        cell = self.cells.get(event.subject)
        new = cell is None
        if cell is None:  # a journal without its plan still shows what it saw
            cell = Cell(event.subject, since=event.t)
        state, up = cell.state, cell.up
        news = _deploys(cell, event) if event.phase == "measure" else _boots(cell, event, self._launches)
        if new and news:
            self.cells[cell.name] = cell
            self._seen[cell.state] += 1
            self._up += cell.up
            self.arranged += 1
        elif news:
            self._seen[state] -= 1
            self._seen[cell.state] += 1
            self._up += cell.up - up
            self._changed[cell.name] = None


def _boots(cell: Cell, event: Event, launch: int) -> bool:
    """An event of the ``launch``-th call of launch; False if it is no news."""
    step, status = event.step, event.status
    if step == "launch":
        if status not in ("failed", "retry"):
            return False
        cell.reason = str(event.detail.get("reason", "no reason was given"))
        if status == "failed":
            cell._given_up = True
            _at(cell, event, FAILED, str(event.detail.get("at", cell.step)))
        return True
    if step not in STEPS or status not in ("start", "ok"):
        return False
    begins = status == "start" and (cell._given_up or cell._launch != launch)
    if begins or event.attempt > cell._boot:
        # Switched on again, perhaps by a later launch that counts from 1: what was before does not count.
        cell._boot, cell._launch, cell._reached = event.attempt, launch, 0
        cell._given_up = cell.up = False
        if status == "start":  # a power-on that only began has not been seen to happen yet
            _at(cell, event, PLANNED, step)
            return True
    elif status == "start" or event.attempt < cell._boot:
        return False
    # Files and addresses may be asked for twice: a VM never goes back within one attempt. One that reports
    # in after all is up, also after it was given up.
    reached = 1 + STEPS.index(step)
    if reached <= cell._reached or (cell._given_up and step != _UP):
        return False
    cell._reached = reached
    if step == _UP:
        cell.up, cell._given_up = True, False
    _at(cell, event, STATE_OF[step], step)
    return True


def _deploys(cell: Cell, event: Event) -> bool:
    """An event of a deployment; False if it is no news."""
    step, status = event.step, event.status
    if step == "console":  # where its last words are: nothing that it did
        return False
    if reason := event.detail.get("reason"):
        cell.reason = str(reason)
    if step == "deployment":
        state = DEPLOYED if status == "ok" else FAILED
        _at(cell, event, state, str(event.detail.get("at", "ready")))
    elif status == "start":
        if step == _FIRST and event.attempt == 1:
            cell.reason = ""
        _at(cell, event, REBOOTING if step in (_FIRST, _LAST) else WRITING, step)
    elif step == _UP and status in ("ok", "skipped"):  # it stands in its minimal system
        _at(cell, event, WRITING, step)
    elif status == "ok" and step not in MACROS and cell.state != FAILED:
        _at(cell, event, cell.state, step)
    else:
        return bool(reason)
    return True


def _at(cell: Cell, event: Event, state: str, step: str) -> None:
    cell.state, cell.step, cell.since, cell.attempt = state, step, event.t, event.attempt
