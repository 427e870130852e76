"""The account of VMs on their way: windows, time-outs, late words, and that it always ends."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.inventory import VM
from g5kvirt.netboot.boot_tracker import MILESTONES, BootTracker, Reached
from g5kvirt.planning.windows import SlotWindow


def vms(number: int) -> list[VM]:
    return [
        VM(i, f"vm-{i}", f"h-{i % 3}", "nancy", IPv4Address(i), f"52:54:00:00:00:{i:02x}")
        for i in range(1, number + 1)
    ]


def tracker(number: int, window: int = 100, patience: float = 10.0, attempts: int = 2) -> BootTracker:
    return BootTracker(
        vms(number), SlotWindow(window), lambda in_flight, attempt: patience * attempt, attempts
    )


def test_a_slot_is_held_until_its_vm_is_up() -> None:
    b = tracker(3, window=2)
    assert [x.vm.name for x in b.due(0.0)] == ["vm-1", "vm-2"]
    assert b.due(1.0) == []
    b.powered_on("vm-1", b.boots["vm-1"].attempt, 1.0)
    assert b.reached("vm-1", "minimal-system", 5.0)
    assert [x.vm.name for x in b.due(5.0)] == ["vm-3"]


def test_overdue_vm_is_powered_on_again_and_then_fails_at_its_last_step() -> None:
    b = tracker(1)
    b.due(0.0)
    b.powered_on("vm-1", b.boots["vm-1"].attempt, 1.0)
    b.reached("vm-1", "dhcp", 2.0)
    assert b.overdue(10.9) == []
    (late,) = b.overdue(11.1)
    assert (late.state, late.at) == ("waiting", "dhcp")
    (again,) = b.due(12.0)
    assert again.attempt == 2
    assert again.at == "power-on"
    b.powered_on("vm-1", b.boots["vm-1"].attempt, 12.0)
    assert b.overdue(31.0) == []  # the second attempt is given more time
    (dead,) = b.overdue(33.0)
    assert dead.state == "failed"
    assert dead.reason == "nothing after power-on within 20 s"
    assert b.finished


def test_the_last_ones_of_a_crowd_have_the_patience_of_the_crowd() -> None:
    b = BootTracker(vms(10), SlotWindow(10), lambda in_flight, attempt: 10.0 * in_flight, 2)
    b.due(0.0)
    for vm in vms(9):
        b.powered_on(vm.name, 1, 0.0)
        b.reached(vm.name, "minimal-system", 50.0)
    b.powered_on("vm-10", 1, 0.0)
    assert b.in_flight == 1
    assert b.overdue(99.0) == [], "it shared everything with nine others until now"
    assert [late.vm.name for late in b.overdue(101.0)] == ["vm-10"]


def test_late_milestone_of_an_earlier_attempt_does_not_count() -> None:
    b = tracker(1)
    b.due(0.0)
    b.powered_on("vm-1", b.boots["vm-1"].attempt, 0.0)
    b.overdue(11.0)
    b.due(100.0)
    assert not b.reached("vm-1", "minimal-system", 12.0)
    assert not b.reached("vm-1", "minimal-system", 100.1), "it is about to be stopped"
    assert b.powered_on("vm-1", 2, 101.0) == []
    assert not b.reached("vm-1", "minimal-system", 100.1)
    assert b.reached("vm-1", "minimal-system", 110.0)
    assert b.count("up") == 1


def test_a_milestone_before_the_answer_to_a_second_power_on_counts_after_it() -> None:
    b = tracker(1)
    b.due(0.0)
    b.powered_on("vm-1", 1, 0.0)
    b.overdue(11.0)
    assert not b.reached("vm-1", "dhcp", 50.0), "it waits"
    b.due(100.0)
    assert not b.reached("vm-1", "dhcp", 101.5, {"ip": "10.0.0.1"}), "it is about to be stopped"
    assert b.powered_on("vm-1", 1, 101.0) == [], "a late answer to the first"
    assert b.powered_on("vm-1", 2, 101.0) == [Reached("dhcp", 101.5, {"ip": "10.0.0.1"})]
    assert b.powered_on("vm-1", 2, 101.0) == []
    assert b.boots["vm-1"].at == "dhcp"


def test_a_milestone_counts_only_once_and_only_of_our_vms() -> None:
    b = tracker(1)
    b.due(0.0)
    assert b.reached("vm-1", "dhcp", 1.0)
    assert not b.reached("vm-1", "dhcp", 2.0)
    assert not b.reached("vm-99", "dhcp", 2.0)


def test_vms_of_a_host_that_is_gone_fail_wherever_they_are() -> None:
    b = BootTracker(vms(12), SlotWindow(9), lambda in_flight, attempt: 10.0, 2)
    b.due(0.0)
    b.powered_on("vm-1", 1, 0.0)
    for name in ("vm-4", "vm-7"):
        b.reached(name, "minimal-system", 1.0)
    b.powered_on("vm-4", 1, 0.5)  # vm-7's host will never tell
    lost = b.host_gone("h-1", "its host is gone")
    assert [(boot.vm.name, boot.attempt, boot.reason) for boot in lost] == [
        ("vm-1", 1, "its host is gone"),
        ("vm-10", 0, "its host is gone"),
    ]
    assert (b.count("up"), b.count("failed"), b.in_flight) == (2, 2, 6)
    assert [boot.vm.name for boot in b.due(2.0)] == ["vm-11", "vm-12"]
    for name in b.boots:
        b.powered_on(name, 1, 2.0)
        b.reached(name, "minimal-system", 3.0)
    assert b.finished
    assert b.host_gone("h-1", "once more") == []


def test_vm_whose_process_has_ended_is_powered_on_again_and_then_fails() -> None:
    b = tracker(1)
    b.due(0.0)
    assert b.vm_gone("vm-1", 0.5, "it has ended") is None, "its power-on is under way"
    b.powered_on("vm-1", 1, 1.0)
    assert b.vm_gone("vm-1", 0.5, "it has ended") is None, "that was before"
    (again,) = filter(None, [b.vm_gone("vm-1", 2.0, "it has ended")])
    assert again.state == "waiting"
    b.due(3.0)
    b.powered_on("vm-1", 2, 3.0)
    (dead,) = filter(None, [b.vm_gone("vm-1", 4.0, "it has ended")])
    assert (dead.state, dead.reason) == ("failed", "it has ended")
    assert b.finished
    assert b.vm_gone("vm-1", 5.0, "it has ended") is None


def test_a_vm_that_is_up_already_is_not_started() -> None:
    b = tracker(2)
    b.already_up("vm-1")
    assert [x.vm.name for x in b.due(0.0)] == ["vm-2"]


def test_milestone_before_the_hosts_answer_counts() -> None:
    b = tracker(1)
    b.due(0.0)
    assert b.reached("vm-1", "minimal-system", 1.0)  # the agent's answer was slower than the boot
    b.powered_on("vm-1", b.boots["vm-1"].attempt, 0.5)
    assert b.count("up") == 1
    assert b.finished


def test_a_late_answer_of_a_host_changes_nothing() -> None:
    b = tracker(1, attempts=3)
    b.due(0.0)
    b.overdue(11.0)
    assert b.refused("vm-1", 1, "no answer") is None  # it waits for its second attempt already
    (again,) = b.due(12.0)
    assert again.attempt == 2
    b.powered_on("vm-1", 1, 12.5)
    assert b.boots["vm-1"].state == "starting"
    b.powered_on("vm-1", 2, 13.0)
    assert b.reached("vm-1", "minimal-system", 14.0)
    assert b.refused("vm-1", 2, "too late") is None
    assert b.due(15.0) == []
    assert b.finished


def test_report_that_is_faster_than_the_answer_to_the_power_on_loses_neither() -> None:
    b = tracker(1)
    b.reached("vm-1", "dhcp", 9.5)  # it was running before it was asked to
    b.due(10.0)
    assert b.reached("vm-1", "minimal-system", 10.2)
    assert b.count("up") == 1
    assert not b.finished, "when it was powered on is not known"
    assert [(r.step, r.t) for r in b.powered_on("vm-1", 1, 9.0)] == [("dhcp", 9.5)]
    assert b.finished
    assert b.boots["vm-1"].start == 9.0


def test_vm_that_is_up_does_not_wait_for_the_answer_of_a_host_that_has_none() -> None:
    b = tracker(1)
    b.due(10.0)
    assert b.reached("vm-1", "minimal-system", 12.0)
    assert b.refused("vm-1", 1, "unreachable") is None
    assert b.finished
    assert b.count("up") == 1


@given(
    number=st.integers(1, 12),
    window=st.integers(1, 5),
    fates=st.lists(st.sampled_from(["up", "refused", "silent", "late"]), min_size=36, max_size=36),
)
def test_every_vm_ends_up_or_failed_and_the_window_holds(number: int, window: int, fates: list[str]) -> None:
    b = tracker(number, window=window, attempts=3)
    now, powered = 0.0, 0
    late: list[tuple[str, int]] = []
    fate = iter(fates)
    for _ in range(1000):
        if b.finished:
            break
        now += 5.0
        b.overdue(now)
        for boot in b.due(now):
            powered += 1
            match next(fate):
                case "refused":
                    b.refused(boot.vm.name, boot.attempt, "no tap")
                case "up":
                    b.powered_on(boot.vm.name, boot.attempt, now)
                    for step in MILESTONES:
                        b.reached(boot.vm.name, step, now + 1)
                case "late":
                    late.append((boot.vm.name, boot.attempt))
                case _:
                    b.powered_on(boot.vm.name, boot.attempt, now)
        for name, attempt in late[::2]:  # some answers come when nobody waits for them any more
            b.refused(name, attempt, "late")
        assert b.in_flight <= window
    assert b.finished
    assert b.count("up") + b.count("failed") == number
    assert powered <= 3 * number
