"""The loop of a launch: what it decides is in its tracker's tests; here, that nothing of it is lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address

import pytest

from g5kvirt.inventory import VM
from g5kvirt.netboot.boot_loop import BootReport, HostGone, PoweredOn, PowerOn, boot_all
from g5kvirt.netboot.boot_tracker import BootTracker
from g5kvirt.netboot.bootlog import Milestone
from g5kvirt.planning.windows import SlotWindow
from g5kvirt.run.events import Event

VMS = [VM(i, f"vm-{i}", "h", "nancy", IPv4Address(i), f"52:54:00:00:00:{i:02x}") for i in (1, 2)]


class Interrupted:
    """A driver in the middle of whose reports somebody presses Ctrl-C."""

    def power_on(self, orders: Sequence[PowerOn]) -> None:
        self.ordered = [order.vm.name for order in orders]

    def stop(self, vms: Sequence[VM]) -> None:
        raise AssertionError("nobody is given up")

    def receive(self, timeout: float) -> Iterator[BootReport]:
        yield PoweredOn("vm-1", 1, 1.0)
        yield Milestone("vm-1", "minimal-system", 2.0)
        raise KeyboardInterrupt


def test_what_was_taken_before_an_interrupt_is_in_the_journal() -> None:
    tracker = BootTracker(VMS, SlotWindow(2), lambda in_flight, attempt: 60.0, 3)
    driver, written = Interrupted(), list[Event]()
    with pytest.raises(KeyboardInterrupt):
        boot_all(tracker, driver, clock=lambda: 1.0, write=written.extend)
    assert driver.ordered == ["vm-1", "vm-2"]
    assert [(e.subject, e.step, e.status) for e in written] == [
        ("vm-1", "power-on", "start"),
        ("vm-2", "power-on", "start"),
        ("vm-1", "power-on", "ok"),
        ("vm-1", "minimal-system", "ok"),
    ], "what the tracker takes for up is up for the next call, too"


class Gone(Interrupted):
    """A driver whose host dies."""

    def receive(self, timeout: float) -> Iterator[BootReport]:
        yield PoweredOn("vm-1", 1, 1.0)
        yield HostGone("h", 3.0, "its host h is gone (no answer)")


def test_host_that_is_gone_ends_the_boots_of_its_vms_with_that_reason() -> None:
    tracker = BootTracker(VMS, SlotWindow(2), lambda in_flight, attempt: 60.0, 3)
    written = list[Event]()
    boot_all(tracker, Gone(), clock=lambda: 1.0, write=written.extend)
    ends = [(e.subject, e.step, e.status, e.t, e.detail["reason"]) for e in written[3:]]
    assert ends == [
        (name, "launch", "failed", 3.0, "its host h is gone (no answer)") for name in ("vm-1", "vm-2")
    ], written[3:]
