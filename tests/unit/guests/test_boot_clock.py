"""When a VM was powered on, by a clock that may be wrong."""

from __future__ import annotations

import math
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.guests.boots import power_on_time
from g5kvirt.inventory import VM
from g5kvirt.netboot.boot_tracker import BootTracker
from g5kvirt.planning.windows import SlotWindow


def test_a_time_that_can_be_is_kept() -> None:
    assert power_on_time(150.0, since=100.0, answered=151.0) == 150.0


@given(st.floats(allow_nan=False))
def test_no_clock_makes_a_launch_wait_for_ever(said: float) -> None:
    t = power_on_time(said, since=100.0, answered=200.0)
    assert 100.0 <= t <= 200.0
    vm = VM(1, "vm-1", "h", "nancy", IPv4Address(1), "52:54:00:00:00:01")
    tracker = BootTracker([vm], SlotWindow(1), lambda in_flight, attempt: 60.0, 1)
    tracker.due(199.0)
    tracker.powered_on("vm-1", 1, t)
    tracker.overdue(200.0 + 61.0)
    assert tracker.finished
    assert math.isfinite(tracker.boots["vm-1"].start)
