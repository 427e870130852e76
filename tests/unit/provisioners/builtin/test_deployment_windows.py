"""The windows of a deployment, for reboots and for checks, of both kinds; and what the books cost."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from types import FrameType
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from measuremaker import Machines, vms

from g5kvirt.planning.windows import RateWindow, SlotWindow, Window
from g5kvirt.provisioners.builtin.engine import Deployment
from g5kvirt.provisioners.builtin.loop import drive
from g5kvirt.provisioners.builtin.orders import CheckOrder, Order, RebootOrder, Report
from g5kvirt.provisioners.builtin.workflow import default_workflow
from g5kvirt.run.events import Event

LEASE = 60.0

#: Events of a VM that is deployed at once: 11 steps, 3 macro-steps with two ends, its own end.
A_VM, A_HOST, WHOLE = 18, 2, 2


class Watched(Machines):
    """Machines that note when they were ordered to reboot or checked, and when a check was answered."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.reboots: list[tuple[float, str]] = []
        self.checks: dict[tuple[str, int, int], float] = {}
        self.answered: dict[tuple[str, int, int], float] = {}

    def execute(self, order: Order) -> None:
        super().execute(order)
        if isinstance(order, RebootOrder):
            self.reboots += [(self.now, target.vm.name) for target in order.vms]
        elif isinstance(order, CheckOrder):
            self.checks |= {(t.vm.name, t.attempt, t.turn): self.now for t in order.vms}

    def receive(self, timeout: float) -> Iterable[Report]:
        for report in super().receive(timeout):
            if report.turn is not None and report.attempt is not None:
                self.answered.setdefault((report.subject, report.attempt, report.turn), self.now)
            yield report


def holds(window: Window, spans: list[tuple[float, float]]) -> bool:
    """Never more begun and not ended than there are slots, or never more begun in a period."""
    if isinstance(window, SlotWindow):
        changes = sorted([(end, -1) for _, end in spans] + [(begin, 1) for begin, _ in spans])
        inside = most = 0
        for _, change in changes:  # of one moment, ends come first
            inside += change
            most = max(most, inside)
        return most <= window.size
    assert isinstance(window, RateWindow)
    batches = sorted(Counter(begin for begin, _ in spans).items())
    apart = all(b - a >= window.sleep - 1e-6 for (a, _), (b, _) in pairwise(batches))
    return apart and all(count <= window.size for _, count in batches)


def reboot_spans(ordered: list[tuple[float, str]], events: list[Event]) -> list[tuple[float, float]]:
    """From each order to where the VM is up, or failed."""
    ends: dict[str, list[float]] = {}
    for e in events:
        if e.kind == "vm" and (e.status == "failed" or e.step in ("minimal-system", "ready")):
            ends.setdefault(e.subject, []).append(e.t)
    return [(t, next(end for end in sorted(ends[name]) if end >= t)) for t, name in ordered]


WINDOWS = st.one_of(
    st.builds(SlotWindow, st.integers(1, 9)), st.builds(RateWindow, st.integers(1, 9), st.floats(0.1, 20))
)
BAD = ("reboot", "minimal-system", "format", "image", "boot", "ready")


@settings(max_examples=60)
@given(
    number=st.integers(1, 40),
    reboots=WINDOWS,
    checks=WINDOWS,
    seed=st.integers(0, 2**32),
    bad=st.dictionaries(st.integers(1, 40), st.tuples(st.sampled_from(BAD), st.integers(1, 9)), max_size=6),
)
def test_every_vm_ends_within_the_windows(
    number: int, reboots: Window, checks: Window, seed: int, bad: dict[int, tuple[str, int]]
) -> None:
    known = vms(number, hosts=4)
    faults = {f"vm-{i}": (step, times, "why") for i, (step, times) in bad.items() if i <= number}
    machines = Watched(1000.0, seed, dict(faults))
    deployment = Deployment("d", known, default_workflow(), reboots=reboots, checks=checks)
    events: list[Event] = []
    outcomes = drive(deployment, machines, clock=machines.clock, write=events.extend)

    assert holds(reboots, reboot_spans(machines.reboots, events))
    asked = machines.checks.items()
    assert holds(checks, [(t, min(machines.answered.get(key, t + LEASE), t + LEASE)) for key, t in asked])

    assert {outcome.vm.name for outcome in outcomes} == {vm.name for vm in known}
    assert deployment.count("deployed") + deployment.count("failed") == number
    assert {o.vm.name for o in outcomes if o.state == "failed" or o.attempt > 1} <= set(faults)
    ended = Counter(e.subject for e in events if e.step == "deployment" and e.kind == "vm")
    assert ended == Counter(vm.name for vm in known)
    hosts = len({vm.host for vm in known})
    if not faults:
        assert len(events) == A_VM * number + A_HOST * hosts + WHOLE
    assert len(events) <= A_VM * sum(o.attempt for o in outcomes) + A_HOST * hosts + WHOLE


def test_rate_window_for_checks_lets_all_vms_be_checked() -> None:
    known = vms(10, hosts=2)
    machines = Watched(0.0, 1)
    deployment = Deployment(
        "d",
        known,
        default_workflow(),
        reboots=RateWindow(10, 10.0),
        checks=RateWindow(2, 30.0),
        fresh=[vm.name for vm in known],
    )
    drive(deployment, machines, clock=machines.clock, write=lambda events: None)
    assert deployment.count("deployed") == 10
    assert machines.now >= 4 * 30.0  # five batches, four sleeps


class AtOnce(Machines):
    """Machines that answer all orders before the next ones are given: what is left is the bookkeeping."""

    def receive(self, timeout: float) -> Iterable[Report]:
        self.now = max([self.now, *(t for t, _, _ in self._said)])
        return super().receive(0.0)


def test_bookkeeping_cost_per_vm_is_constant() -> None:
    """Counted in calls of functions, which no busy machine changes."""

    def calls(number: int) -> float:
        known = vms(number, hosts=number // 10)  # in five turns, whatever the number
        machines = AtOnce(0.0, 1)
        deployment = Deployment(
            "d", known, default_workflow(), reboots=SlotWindow(number // 5), checks=SlotWindow(number // 5)
        )
        count = 0

        def note(frame: FrameType, what: str, argument: Any) -> None:
            nonlocal count
            count += what in ("call", "c_call") and "deployment" in frame.f_code.co_filename

        before = sys.getprofile()
        sys.setprofile(note)
        try:
            drive(deployment, machines, clock=machines.clock, write=lambda events: None)
        finally:
            sys.setprofile(before)
        assert deployment.count("deployed") == number
        return count / number

    assert calls(1000) < 1.1 * calls(100)
