"""The state of a run for the live views: VMs in each state, one cell per VM, and changes.

A VM is in the state of the last event about it. During a deployment that is its position in the deployment,
and it stays so until the next one. The rules are those of `g5kvirt.run.state`; here some states are merged.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from g5kvirt.run.deployment_state import DeploymentState
from g5kvirt.run.events import Event
from g5kvirt.run.phase_state import PhaseState
from g5kvirt.run.state import RunState
from g5kvirt.run.virtual_time import is_virtual
from g5kvirt.run.vm_state import VMState
from g5kvirt.run.vocabulary import DEPLOYED, FAILED, MINIMAL_SYSTEM, PLANNED
from g5kvirt.views.palette import STATES, shown_state
from g5kvirt.views.progress import run_status

__all__ = ["Cell", "LiveModel"]


class Cell(NamedTuple):
    """One VM: its place and its latest state."""

    name: str
    host: str
    site: str
    state: str  #: one of `palette.STATES`
    step: str  #: its latest step
    since: float  #: since when, seconds since the epoch
    attempt: int
    reason: str  #: why it was last given up or restarted
    up: bool  #: it has reported from its minimal system


def _cell(vm: VMState) -> Cell:
    state = shown_state(vm.position)
    return Cell(vm.name, vm.host, vm.site, state, vm.step, vm.since, vm.attempt, vm.note, vm.up)


class _Cells(Mapping[str, Cell]):
    """The cells of all VMs, created on access. A placement gives the run other VMs."""

    def __init__(self, run: RunState) -> None:
        self._run = run

    def __getitem__(self, name: str) -> Cell:
        return _cell(self._run.vms[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._run.vms)

    def __len__(self) -> int:
        return len(self._run.vms)


class LiveModel:
    """The state of a run; `take` each event in order. ``vms``: the number of VMs in the specification."""

    def __init__(self, vms: int = 0) -> None:
        self.vms = vms
        self.run = RunState()
        self.cells: Mapping[str, Cell] = _Cells(self.run)  #: VM → its cell, in the order of the placement
        self._changed: dict[str, None] = {}
        self._layout_version = 0
        self._latest = 0.0

    def now(self) -> float:
        """The time by the clock of the run; that of a prediction stands still at its last event."""
        return self._latest if is_virtual(self._latest) else time.time()

    @classmethod
    def of(cls, events: Iterable[Event], vms: int = 0) -> LiveModel:
        """The state after ``events``."""
        model = cls(vms)
        for event in events:
            model.take(event)
        return model

    def take(self, event: Event) -> None:
        """Process one event."""
        self._latest = max(self._latest, event.t)
        if (vm := self.run.take(event)) is not None:
            self._changed[vm.name] = None
        if self._layout_version != self.run.rearranged:
            self._layout_version = self.run.rearranged
            self._changed = {name: None for name in self._changed if name in self.run.vms}

    def changes(self) -> list[Cell]:
        """The VMs that changed since the last call."""
        changed = [self.cells[name] for name in self._changed]
        self._changed = {}
        return changed

    # ---- numbers --------------------------------------------------------------------------------------

    @property
    def layout_version(self) -> int:
        """Increases when VMs appear or move: a wall of an earlier version is out of date."""
        return self.run.rearranged

    @property
    def begun(self) -> float | None:
        """The time of the first event."""
        return self.run.begun

    @property
    def phases(self) -> dict[str, PhaseState]:
        """The six phases."""
        return self.run.phases

    @property
    def deployment(self) -> DeploymentState | None:
        """The latest deployment."""
        return next(reversed(self.run.deployments.values()), None)

    @property
    def counts(self) -> dict[str, int]:
        """VMs in each state, in the order of `palette.STATES`; VMs without events count as planned."""
        seen: Counter[str] = Counter()
        for position, number in self.run.positions.items():
            seen[shown_state(position)] += number
        seen[PLANNED] += max(0, self.vms - len(self.run.vms))
        return {state: seen[state] for state in STATES if seen[state]}

    @property
    def total(self) -> int:
        """VMs of the specification, or those with events if there are more."""
        return max(self.vms, len(self.run.vms))

    @property
    def up(self) -> int:
        """VMs that have reported from the minimal system."""
        return self.run.up

    @property
    def failed(self) -> int:
        """VMs that were given up, or failed in their latest deployment."""
        return self.run.positions[FAILED]

    @property
    def settled(self) -> bool:
        """True when every VM is up, deployed or failed."""
        return sum(self.run.positions[p] for p in (MINIMAL_SYSTEM, DEPLOYED, FAILED)) >= self.total

    @property
    def status(self) -> str:
        """The state of the run: ``deploy running``, ``launch failed``, ``launch done``, ``nothing done``."""
        return run_status(self.run)
