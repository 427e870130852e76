"""The state of a run: the only reducer from the events of a journal to a state.

::

    state = RunState.of(events)          # or journal.state: kept up to date, each event taken once
    state.phases["launch"].seconds()
    state.vms["vm-7"].boots
    state.deployments["d1"].vms["vm-7"].steps

Tables, figures, progress, live view, trace, account and the checks of a phase that is called again are all
views of this state. The cost of an event does not depend on the number of VMs, except for a placement.
No I/O, no clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from g5kvirt.errors import RunError
from g5kvirt.inventory import VM, Facts, Host, Reservation
from g5kvirt.run.bulk import collector_paused
from g5kvirt.run.deployment_state import DeploymentState
from g5kvirt.run.event_types import (
    EXTENDED,
    ProgramStart,
    extended_walltime_of,
    facts_of,
    guest_of,
    hosts_of,
    is_submitted_job,
    job_of,
    placements_of,
    program_of,
    reservation_of,
    vms_of,
)
from g5kvirt.run.events import Event
from g5kvirt.run.link_events import is_links_set, links_of
from g5kvirt.run.phase_state import PhaseState
from g5kvirt.run.spans import Spans
from g5kvirt.run.vm_state import VMState
from g5kvirt.run.vocabulary import PHASES, PLANNED
from g5kvirt.spec.groups import check_group
from g5kvirt.spec.links import Link

__all__ = ["RunState"]


class RunState:
    """The state of a run after the events that were passed to `take`."""

    def __init__(self) -> None:
        self.begun: float | None = None  #: the time of the first event
        self.latest = 0.0  #: the latest time of any event
        self.phases: dict[str, PhaseState] = {name: PhaseState(name) for name in PHASES}
        self.spans = Spans()
        self.jobs: list[tuple[str, int]] = []  #: (site, id) of every job that was submitted
        self.facts: dict[str, Facts] = {}  #: host → its facts, as reported by `configure`
        self.hosts: dict[str, str] = {}  #: every host with events → its site
        self.service_machines: dict[str, None] = {}  #: those of them that run services
        self.services: dict[str, None] = {}  #: services that `configure` started
        self.configured: dict[str, None] = {}  #: machines on which `configure` did something
        self.vms: dict[str, VMState] = {}  #: in the order of the placement, then others with events
        self.deployments: dict[str, DeploymentState] = {}  #: in their order
        self.programs: dict[str, ProgramStart] = {}  #: started in the background on VMs, in their order
        self.positions: Counter[str] = Counter()  #: VMs at each position
        self.up = 0  #: VMs that have reported from the minimal system
        self.rearranged = 0  #: how often VMs appeared or moved
        self.guest = ""  #: the kind of guest that was launched: ``tcg``, ``kvm``, …
        self.links: tuple[Link, ...] | None = None  #: between VMs, as last set
        self._launch = self.phases["launch"]
        self._placement: Event | None = None
        self._ok: dict[tuple[str, str], Mapping[str, Any]] = {}  # (phase, step) → detail of its last ok

    @classmethod
    def of(cls, events: Iterable[Event]) -> RunState:
        """The state after ``events``."""
        state = cls()
        with collector_paused():
            for event in events:
                state.take(event)
        return state

    def __repr__(self) -> str:
        number = len(self.deployments)
        return (
            f"<RunState: {self.up:,} of {len(self.vms):,} VMs up, {number:,} deployment{'s' * (number != 1)}>"
        )

    # ---- what happened --------------------------------------------------------------------------------

    def take(self, event: Event) -> VMState | None:
        """Process one event; returns the VM whose position or note changed, if any.

        Raises RunError for an event whose detail has another shape than those that we write.
        """
        try:
            return self._take(event)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise RunError(
                f"the journal has an event that cannot be read ({event.phase} {event.step} of"
                f" {event.subject[:100]!r}, {event.status}: {error})",
                advice="repair or remove that line",
            ) from error

    def _take(self, event: Event) -> VMState | None:
        if self.begun is None:
            self.begun = event.t
        before = self.latest
        if event.t > before:
            self.latest = event.t
        self.spans.take(event)
        if event.kind == "vm":
            return self._take_vm(event)
        if (phase := self.phases.get(event.phase)) is not None:
            phase.take(event, before)
        if event.status == "ok":
            self._ok[event.phase, event.step] = event.detail
        match event.kind:
            case "host":
                self._take_host(event)
            case "service":
                self._take_service(event)
            case "site":
                if is_submitted_job(event):
                    self.jobs.append(job_of(event))
            case "run":
                self._take_run(event)
        return None

    def _take_run(self, event: Event) -> None:
        match event.phase, event.step:
            case "reserve", "granted":
                self._ok.pop(("reserve", EXTENDED), None)  # of jobs before these
            case "place", "plan":
                self._arrange(event)
            case "launch", "links" if is_links_set(event):
                self.links = links_of(event)
            case "launch", "guests":
                self.guest = guest_of(event)
            case "run", "program":
                self.programs[event.subject] = program_of(event)
            case "measure", "deployment":
                self._deployment(event.deployment or event.subject).take(event)
            case "measure", "transfer":
                self._deployment(event.deployment or event.subject).take_transfer(event)

    def _take_host(self, event: Event) -> None:
        name = event.subject
        if name not in self.hosts:
            self.hosts[name] = name.split(".")[1] if "." in name else ""
        if event.phase == "configure" and event.status == "ok":
            self.configured[name] = None
            if event.step == "facts":
                self.facts[name] = facts_of(event)
        elif event.phase == "measure" and (deployment := event.deployment):
            self._deployment(deployment).take(event)

    def _take_service(self, event: Event) -> None:
        self.service_machines[event.subject] = None
        if event.phase == "configure" and event.status == "ok":
            self.services[event.step] = None

    def _take_vm(self, event: Event) -> VMState | None:
        name = event.subject
        vm = self.vms.get(name)
        new = vm is None
        if vm is None:  # a journal without its placement still shows what it saw
            vm = VMState(name, since=event.t)
        position = vm.position
        if event.phase == "launch":
            was_up = not new and vm.up
            changed = vm.take_boot(event, len(self._launch.tries))
            self.up += vm.up - was_up
        elif event.phase == "measure":
            changed = vm.take_deployment(event)
            if deployment := event.deployment:
                entry = self._deployment(deployment).take_vm(event)
                if entry is not None:
                    vm.deployments.append(entry)
        else:
            return None
        if new and (changed or vm.deployments or vm.boots or vm.console):
            self.vms[name] = vm
            self.positions[vm.position] += 1
            self.rearranged += 1
            return None
        if not new and vm.position != position:
            self.positions[position] -= 1
            self.positions[vm.position] += 1
        return vm if changed and not new else None

    def _deployment(self, name: str) -> DeploymentState:
        found = self.deployments.get(name)
        if found is None:
            found = self.deployments[name] = DeploymentState(name)
        return found

    def _arrange(self, event: Event) -> None:
        """A placement: exactly these VMs, on these hosts."""
        rows = placements_of(event)
        if rows is None:
            return
        self._placement = event
        self.vms = {str(row["name"]): VMState(str(row["name"]), row, since=event.t) for row in rows}
        self.positions = Counter({PLANNED: len(self.vms)})
        self.up = 0
        self.rearranged += 1

    # ---- what a phase knows ---------------------------------------------------------------------------

    def detail(self, phase: str, step: str = "phase") -> Mapping[str, Any] | None:
        """The detail of the last ``ok`` event of a step (not one of a VM), or None."""
        return self._ok.get((phase, step))

    def done(self, phase: str) -> bool:
        """True if a call of the phase succeeded."""
        return self.detail(phase) is not None

    @property
    def released(self) -> bool:
        """True if the machines have been released."""
        return self.detail("reserve", "release") is not None

    @property
    def reservation(self) -> Reservation | None:
        """The reservation that the testbed granted, with its walltime as it is now; None before that."""
        found = self.detail("reserve", "granted")
        if found is None:
            return None
        granted, extended = reservation_of(found), self.detail("reserve", EXTENDED)
        return granted if extended is None else replace(granted, walltime=extended_walltime_of(extended))

    @property
    def deployed_hosts(self) -> tuple[Host, ...]:
        """The machines with the host environment, with the addresses for reaching them."""
        found = self.detail("deploy")
        return () if found is None else hosts_of(found)

    @property
    def placed_vms(self) -> list[VM]:
        """The VMs as the phase ``place`` planned them; none before that."""
        return [] if self._placement is None else vms_of(self._placement)

    @property
    def up_vms(self) -> list[str]:
        """The VMs that have reported from their minimal system, in the order of the placement."""
        return [name for name, vm in self.vms.items() if vm.up]

    @property
    def groups(self) -> dict[str, list[str]]:
        """Group → its VMs, in the order of the placement; empty without groups."""
        groups: dict[str, list[str]] = {}
        for vm in self.vms.values():
            if vm.group:
                groups.setdefault(vm.group, []).append(vm.name)
        return groups

    def members(self, names: Iterable[str], group: str | None) -> list[str]:
        """Those of the VMs ``names`` that are in the group; all of them without one.

        Raises SpecError for a group without VMs.
        """
        if group is None:
            return list(names)
        if self.vms:
            check_group(group, self.groups)
        return [name for name in names if name in self.vms and self.vms[name].group == group]

    @property
    def deployed_vms(self) -> list[str]:
        """The VMs whose last deployment succeeded, in the order of the placement."""
        return [
            n for n, vm in self.vms.items() if vm.deployments and vm.deployments[-1].outcome == "deployed"
        ]

    def launched(self) -> Iterator[VMState]:
        """The VMs that were placed, or have events of `launch`."""
        return (vm for vm in self.vms.values() if vm.plan or vm.boots or vm.state != "placed" or vm.console)
