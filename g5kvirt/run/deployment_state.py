"""The deployments of a run and their VMs: all rules about events of ``measure`` are here.

A micro-step is one event at its end, with the ``seconds`` it took (without waits for a window); macro-steps
are spans (including waits for a window); the step ``deployment`` ends a VM, and a deployment as a whole.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from g5kvirt.run.event_types import (
    console_of,
    is_whole_deployment,
    seconds_of,
    size_of,
    transfers_of,
    vm_result_of,
    workflow_of,
)
from g5kvirt.run.events import Event
from g5kvirt.run.vocabulary import CONSOLE, DEPLOYED, DEPLOYMENT, UNFINISHED

__all__ = ["DeploymentState", "MacroSpan", "MacroTry", "StepTry", "VMDeployment"]

NAN = math.nan


@dataclass(slots=True)
class MacroTry:
    """One try of a macro-step by a VM."""

    macro: str
    start: Event
    end: Event | None = None


@dataclass(slots=True)
class StepTry:
    """One try of a micro-step by a VM, which has ended: ``event`` is its end."""

    macro: str  #: "" for a step that the workflow does not have
    event: Event
    seconds: float
    within: MacroTry | None  #: the try of a macro-step in which it took place

    @property
    def start(self) -> float:
        """When it began."""
        return self.event.t - self.seconds


@dataclass(slots=True)
class MacroSpan:
    """All tries of a macro-step by a VM: from the first start to the last end."""

    start: float
    end: float = NAN
    attempt: int = 0
    outcome: str = UNFINISHED
    seconds: float = 0.0  #: the sum of the tries that have ended; between two, a VM may be in another
    tries: int = 0


@dataclass(slots=True)
class VMDeployment:
    """One VM in one deployment."""

    vm: str
    outcome: str = UNFINISHED  #: or ``deployed``, ``failed``
    failed_macro: str = ""
    failed_at: str = ""
    reason: str = ""
    last_report: str = ""  #: its last report
    console: str = ""  #: the file with the end of its serial console, below the run's directory
    attempts: int = 1
    start: float = NAN
    end: float = NAN
    steps: list[StepTry] = field(default_factory=list)
    macro_tries: list[MacroTry] = field(default_factory=list)
    macros: dict[str, MacroSpan] = field(default_factory=dict)
    latest: dict[str, StepTry] = field(default_factory=dict)  #: step → its last try
    last: Event | None = None  #: the last event about it
    _open: MacroTry | None = None

    def take(self, event: Event, macro_of: Mapping[str, str]) -> None:
        """Process one event; ``macro_of``: step → its macro-step."""
        step = event.step
        if step == CONSOLE:
            self.console = console_of(event)
            return
        self.last = event
        if event.attempt > self.attempts:
            self.attempts = event.attempt
        if math.isnan(self.start):
            self.start = event.t
        if step == DEPLOYMENT:
            self._ended(event)
        elif (seconds := seconds_of(event)) is not None:
            done = StepTry(macro_of.get(step, ""), event, seconds, self._open)
            self.latest[step] = done
            self.steps.append(done)
        elif event.status == "start":
            self._begin_macro(event)
        elif step in self.macros:
            self._end_macro(event)

    def _ended(self, event: Event) -> None:
        if self.outcome != UNFINISHED:  # its end is known
            return
        self.outcome = DEPLOYED if event.status == "ok" else "failed"
        self.failed_macro, self.failed_at, self.reason, self.last_report = vm_result_of(event)
        self.end = max(event.t, self.start)

    def _begin_macro(self, event: Event) -> None:
        span = self.macros.get(event.step)
        if span is None:
            span = self.macros[event.step] = MacroSpan(event.t)
        span.end, span.attempt, span.outcome = NAN, event.attempt, UNFINISHED
        span.tries += 1
        self._open = MacroTry(event.step, event)
        self.macro_tries.append(self._open)

    def _end_macro(self, event: Event) -> None:
        span = self.macros[event.step]
        one = next((one for one in reversed(self.macro_tries) if one.start.step == event.step), None)
        if one is None or one.end is not None:
            return  # its end is known
        end = max(event.t, one.start.t)
        span.end, span.attempt, span.outcome = end, event.attempt, event.status
        span.seconds += end - one.start.t
        one.end = event


@dataclass
class DeploymentState:
    """One deployment: ``requested = deployed + failed + unfinished``, always."""

    name: str
    about: Mapping[str, Any] = field(default_factory=dict)  #: the detail of its first event
    start: float = NAN
    end: float = NAN
    status: str = UNFINISHED
    vms: dict[str, VMDeployment] = field(default_factory=dict)
    on_hosts: set[str] = field(default_factory=set)  #: steps that take place on hosts, not in the VMs
    opened: Event | None = None  #: its first event
    transfers: list[Event] = field(default_factory=list)  #: how far the image was, every few seconds
    _counts: Counter[str] = field(default_factory=Counter)
    _macro_of: dict[str, str] | None = None

    @property
    def environment(self) -> str:
        """The environment that is deployed."""
        return str(self.about.get("environment", ""))

    @property
    def group(self) -> str:
        """The group of VMs that was to be deployed; empty: any of them."""
        return str(self.about.get("group", ""))

    @property
    def repetition(self) -> int:
        """Which repetition of its size it is, from 1."""
        return int(self.about.get("repetition", 1))

    @property
    def fresh(self) -> int:
        """How many of its VMs were already in their minimal system and skipped the first reboot."""
        return int(self.about.get("fresh", 0))

    @property
    def broadcast(self) -> str:
        """How the image was sent."""
        return str(self.about.get("broadcast", ""))

    @property
    def provisioner(self) -> str:
        """The provisioner: ``g5kvirt`` or ``kadeploy3``."""
        return str(self.about.get("provisioner", ""))

    @property
    def transfer_bound(self) -> float:
        """The minimum time of the image transfer at the link rates, in seconds; NaN if not known."""
        return float(self.about.get("transfer_bound", NAN))

    @property
    def image_bytes(self) -> float:
        """The size of the compressed image; NaN in runs of earlier versions."""
        return float(self.about.get("bytes", NAN))

    @property
    def requested(self) -> int:
        """The number of VMs to deploy."""
        return max(size_of(self.about), len(self.vms))

    @property
    def planned(self) -> list[str]:
        """The names of the VMs to deploy, if its first event has them."""
        return [str(name) for name in self.about.get("vms", ())]

    @property
    def deployed(self) -> int:
        """VMs that were deployed so far."""
        return self._counts[DEPLOYED]

    @property
    def failed(self) -> int:
        """VMs that failed so far."""
        return self._counts["failed"]

    @property
    def macros(self) -> Mapping[str, Sequence[str]]:
        """Macro-step → its micro-steps, in their order."""
        return workflow_of(self.about)

    @property
    def transfer_message(self) -> str:
        """How far the image is, in words; empty while no VM is known to write it."""
        last = self.transfers[-1] if self.transfers else None
        return str(last.detail.get("what", "")) if last is not None and transfers_of(last)[2] else ""

    def take_transfer(self, event: Event) -> None:
        """Process an event about the transfer of the image."""
        transfers_of(event)  # raises if it cannot be read
        self.transfers.append(event)

    def take_vm(self, event: Event) -> VMDeployment | None:
        """Process an event of a VM; returns that VM if it was its first one here."""
        vm = self.vms.get(event.subject)
        new = vm is None
        if vm is None:
            vm = self.vms[event.subject] = VMDeployment(event.subject)
        if self._macro_of is None:
            self._macro_of = {step: macro for macro, steps in self.macros.items() for step in steps}
        before = vm.outcome
        vm.take(event, self._macro_of)
        if vm.outcome != before:
            self._counts[before] -= 1
            self._counts[vm.outcome] += 1
        return vm if new else None

    def take(self, event: Event) -> None:
        """Process an event of the deployment as a whole, or of a host in it."""
        if is_whole_deployment(event):
            if event.status == "start":
                self.about, self.start, self.opened = event.detail, event.t, event
                self.end, self.status, self._macro_of = NAN, UNFINISHED, None
            elif math.isnan(self.end):  # it ends once
                self.end = event.t if math.isnan(self.start) else max(event.t, self.start)
                self.status = event.status
        elif event.kind == "host":
            self.on_hosts.add(event.step)
