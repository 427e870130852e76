"""The state of a run as the live views show it: VMs in each state, a cell for each VM, and what changed.

Only what was seen counts: a VM is in the state of the last event about it. While an environment is deployed
on it, that is where it is in the deployment, and it stays so until the next one. The rules are those of
`g5kvirt.run.state`; here is only which states are shown as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from g5kvirt.run.deployment_state import DeploymentState
from g5kvirt.run.events import Event
from g5kvirt.run.phase_state import PhaseState
from g5kvirt.run.state import RunState
from g5kvirt.run.vm_state import VMState
from g5kvirt.run.vocabulary import DEPLOYED, FAILED, MINIMAL_SYSTEM, PLANNED
from g5kvirt.views.palette import STATES, shown_state
from g5kvirt.views.progress import stands_at

__all__ = ["Cell", "LiveModel"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One VM: where it is, and what was last seen of it."""

    name: str
    host: str
    site: str
    state: str  #: one of `palette.STATES`
    step: str  #: the last step it was seen at
    since: float  #: when that was, seconds since the epoch
    attempt: int
    reason: str  #: why it was last given up or begun again
    up: bool  #: it reported in from its minimal system


def _cell(vm: VMState) -> Cell:
    return Cell(
        *(vm.name, vm.host, vm.site, shown_state(vm.position), vm.step, vm.since, vm.attempt, vm.note, vm.up)
    )


class _Cells(Mapping[str, Cell]):
    """The cells of all VMs, made when they are looked at."""

    def __init__(self, vms: Mapping[str, VMState]) -> None:
        self._vms = vms

    def __getitem__(self, name: str) -> Cell:
        return _cell(self._vms[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._vms)

    def __len__(self) -> int:
        return len(self._vms)


class LiveModel:
    """The state of a run; ``take`` each event in its order. ``vms`` is how many the specification has."""

    def __init__(self, vms: int = 0) -> None:
        self.vms = vms
        self.run = RunState()
        self._changed: dict[str, None] = {}
        self._arranged = 0

    @classmethod
    def of(cls, events: Iterable[Event], vms: int = 0) -> LiveModel:
        """The state after ``events``."""
        model = cls(vms)
        for event in events:
            model.take(event)
        return model

    def take(self, event: Event) -> None:
        """Go one event further."""
        if (vm := self.run.take(event)) is not None:
            self._changed[vm.name] = None
        if self._arranged != self.run.rearranged:
            self._arranged = self.run.rearranged
            self._changed = {name: None for name in self._changed if name in self.run.vms}

    def changes(self) -> list[Cell]:
        """The VMs about which there is something new since this was last called."""
        changed = [self.cells[name] for name in self._changed]
        self._changed = {}
        return changed

    # ---- numbers --------------------------------------------------------------------------------------

    @property
    def cells(self) -> Mapping[str, Cell]:
        """VM → its cell, in the order of the placement."""
        return _Cells(self.run.vms)

    @property
    def arranged(self) -> int:
        """How often VMs appeared or moved: a wall of an earlier number is out of date."""
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
        """The last deployment that was begun."""
        return next(reversed(self.run.deployments.values()), None)

    @property
    def counts(self) -> dict[str, int]:
        """VMs in each state, in the order of a run, those not seen yet as planned."""
        seen: Counter[str] = Counter()
        for position, number in self.run.positions.items():
            seen[shown_state(position)] += number
        seen[PLANNED] += max(0, self.vms - len(self.run.vms))
        return {state: seen[state] for state in STATES if seen[state]}

    @property
    def total(self) -> int:
        """VMs of the specification, or seen if there are more."""
        return max(self.vms, len(self.run.vms))

    @property
    def up(self) -> int:
        """VMs that reported in from the minimal system."""
        return self.run.up

    @property
    def failed(self) -> int:
        """VMs that were given up, or failed in their last deployment."""
        return self.run.positions[FAILED]

    @property
    def settled(self) -> bool:
        """True when every VM is up, deployed or failed."""
        return sum(self.run.positions[p] for p in (MINIMAL_SYSTEM, DEPLOYED, FAILED)) >= self.total

    @property
    def stands_at(self) -> str:
        """In a few words: ``deploy running``, ``launch failed``, ``launch done``, ``nothing done``."""
        return stands_at(self.run)
