"""The loop of a launch: power-ons to the driver, its reports to the `BootTracker`, events to the journal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from g5kvirt.inventory import VM
from g5kvirt.netboot.boot_tracker import BootTracker, TrackedBoot
from g5kvirt.netboot.bootlog import Milestone
from g5kvirt.run import event_types
from g5kvirt.run.events import Event
from g5kvirt.run.outbox import Outbox
from g5kvirt.run.vocabulary import Status

__all__ = ["TICK", "BootDriver", "BootReport", "HostGone", "PowerOn", "PoweredOn", "VMGone", "boot_all"]

#: Seconds between two looks at the clock while nothing is reported.
TICK = 0.25
#: Seconds between two looks at all VMs in flight for those that are overdue.
PATIENCE_TICK = 0.5


@dataclass(frozen=True, slots=True)
class PowerOn:
    """A power-on that is ordered; the VM may be at its next attempt when the answer comes."""

    vm: VM
    attempt: int


@dataclass(frozen=True, slots=True)
class PoweredOn:
    """The answer to a `PowerOn`: when it happened, or the ``reason`` why it did not."""

    vm: str
    attempt: int
    t: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class HostGone:
    """A host is gone, and its VMs with it."""

    host: str
    t: float
    reason: str


@dataclass(frozen=True, slots=True)
class VMGone:
    """The process of a VM has ended; that was seen at ``t``."""

    vm: str
    t: float
    reason: str


BootReport = PoweredOn | Milestone | HostGone | VMGone


class BootDriver(Protocol):
    """Powers VMs on, and reports how far they are. What it cannot do it reports, and never raises."""

    def power_on(self, orders: Sequence[PowerOn]) -> None:
        """Start it and return at once. A VM that had its chance before is stopped first."""

    def stop(self, vms: Sequence[VM]) -> None:
        """End VMs that are given up; returns at once."""

    def receive(self, timeout: float) -> Iterable[BootReport]:
        """All reports there are; waits for the first one, at most ``timeout`` seconds."""


def boot_all(
    tracker: BootTracker,
    driver: BootDriver,
    *,
    clock: Callable[[], float],
    write: Callable[[Sequence[Event]], object],
) -> None:
    """Until every VM is up or failed; what happens is written as it happens."""
    journal = _Recorder(write)
    looked = 0.0
    try:
        while not tracker.finished:
            now = clock()
            late = []
            if now - looked >= PATIENCE_TICK:
                looked, late = now, tracker.overdue(now)
            for boot in late:
                journal.setback(boot, now)
            if dead := [boot.vm for boot in late if boot.state == "failed"]:
                driver.stop(dead)
            batch = tracker.due(now)
            for boot in batch:
                journal.record(boot.vm.name, boot.attempt, "power-on", "start", now)
            journal.flush()
            if batch:
                driver.power_on([PowerOn(boot.vm, boot.attempt) for boot in batch])
            for report in driver.receive(TICK):
                _take(tracker, journal, report)
            journal.flush()
    finally:  # an interrupt too: what the tracker knows is in the journal
        journal.flush()


def _take(tracker: BootTracker, journal: _Recorder, report: BootReport) -> None:
    if isinstance(report, Milestone):
        if tracker.reached(report.vm, report.step, report.t, report.detail):
            attempt = tracker.boots[report.vm].attempt
            journal.record(report.vm, attempt, report.step, "ok", report.t, report.detail)
    elif isinstance(report, HostGone):
        for lost in tracker.host_gone(report.host, report.reason):
            journal.setback(lost, report.t)
    elif isinstance(report, VMGone):
        if dead := tracker.vm_gone(report.vm, report.t, report.reason):
            journal.setback(dead, report.t)
    elif report.reason:
        journal.record(report.vm, report.attempt, "power-on", "failed", report.t, {"reason": report.reason})
        if boot := tracker.refused(report.vm, report.attempt, report.reason):
            journal.setback(boot, report.t)
    else:
        journal.record(report.vm, report.attempt, "power-on", "ok", report.t)
        for reached in tracker.powered_on(report.vm, report.attempt, report.t):
            journal.record(report.vm, report.attempt, reached.step, "ok", reached.t, reached.detail)


class _Recorder:
    """The events of a launch, written a batch at a time."""

    def __init__(self, write: Callable[[Sequence[Event]], object]) -> None:
        self._outbox = Outbox(write)
        self._events: list[Event] = []

    def record(
        self,
        name: str,
        attempt: int,
        step: str,
        status: Status,
        t: float,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        self._events.append(event_types.boot_step(name, step, status, t, attempt, detail))

    def setback(self, boot: TrackedBoot, now: float) -> None:
        """A VM is tried again, or has failed."""
        make = event_types.boot_failed if boot.state == "failed" else event_types.boot_retried
        self._events.append(make(boot.vm.name, now, boot.attempt, boot.at, boot.reason))

    def flush(self) -> None:
        events, self._events = self._events, []
        self._outbox.send(events)
