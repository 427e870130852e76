"""Start order, windows and time-outs."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address
from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.guests.registry import GUESTS
from g5kvirt.inventory import VM, Facts
from g5kvirt.planning.names import mac_of
from g5kvirt.planning.windows import (
    RateWindow,
    SlotWindow,
    boot_timeout,
    boot_window,
    by_host,
    check_window,
    check_window_size,
    default_window_size,
    interleave,
    reboot_window,
)
from g5kvirt.spec.spec import Windows

LABEL = GUESTS["vm"].label


def vms_on(counts: list[tuple[str, int]]) -> list[VM]:
    """So many VMs on each host of a site, host by host."""
    found: list[VM] = []
    for number, (site, count) in enumerate(counts):
        for _ in range(count):
            index = len(found) + 1
            ip = IPv4Address(0x0A000000 + index)
            found.append(VM(index, f"vm-{index}", f"h-{number}.{site}", site, ip, mac_of(ip)))
    return found


COUNTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6)), max_size=8)


@given(COUNTS)
def test_interleaving_starts_every_vm_once(counts: list[tuple[str, int]]) -> None:
    vms = vms_on(counts)
    order = interleave(vms)
    assert sorted(v.index for v in order) == [v.index for v in vms]
    loads: Counter[str] = Counter()
    per_host = Counter(v.host for v in vms)
    for vm in order:
        loads[vm.host] += 1
        # no host gets its k-th VM before every other has its (k−1)-th, or all of its own
        assert all(loads[h] >= min(loads[vm.host] - 1, n) for h, n in per_host.items())


def test_interleaving_alternates_sites() -> None:
    order = interleave(vms_on([("a", 2), ("a", 2), ("b", 2), ("b", 2)]))
    assert [v.site for v in order] == ["a", "b"] * 4
    assert [v.host for v in order[:4]] == ["h-0.a", "h-2.b", "h-1.a", "h-3.b"]


@given(size=st.integers(1, 20), boots=st.lists(st.integers(1, 9), max_size=60))
def test_slot_window_is_never_exceeded_and_never_idle(size: int, boots: list[int]) -> None:
    window = SlotWindow(size)
    waiting, now = list(boots), 0
    flying: list[int] = []
    while waiting or flying:
        decision = window.decide(now, waiting=len(waiting), in_flight=len(flying), last=None)
        flying += [now + waiting.pop() for _ in range(decision.start)]
        assert len(flying) == min(size, len(flying) + len(waiting))
        now = min(flying)
        flying = [t for t in flying if t > now]


@given(size=st.integers(1, 20), sleep=st.floats(0, 30), vms=st.integers(0, 60))
def test_rate_window_starts_batches_as_kadeploy(size: int, sleep: float, vms: int) -> None:
    window = RateWindow(size, sleep)
    waiting, now, started = vms, 100.0, 0
    last: float | None = None
    batches = []
    for _ in range(1000):
        decision = window.decide(now, waiting=waiting, in_flight=started, last=last)
        if decision.start:
            waiting, started, last = waiting - decision.start, started + decision.start, now
            batches.append((now, decision.start))
        if decision.wake_at is None:
            break
        now = decision.wake_at
    assert started == vms
    assert all(n == size for _, n in batches[:-1])
    assert all(later - t >= sleep - 1e-9 for (t, _), (later, _) in pairwise(batches))


def test_rate_window_starts_none_during_the_sleep() -> None:
    window = RateWindow(50, 10)
    early = window.decide(5.0, waiting=3, in_flight=0, last=0.0)
    assert (early.start, early.wake_at) == (0, 10.0)
    assert window.decide(5.0, waiting=0, in_flight=9, last=0.0).wake_at is None
    assert window.decide(10.0, waiting=3, in_flight=50, last=0.0).start == 3


def test_default_windows() -> None:
    emulated, fast = Facts(cores=2, memory=0, kvm=False), Facts(cores=2, memory=0, kvm=True)
    assert default_window_size([emulated], LABEL) == 8
    assert default_window_size([fast], LABEL) == 32
    assert default_window_size([emulated, fast], LABEL) == 40
    assert default_window_size([], LABEL) == 1


def test_boot_window_of_the_specification() -> None:
    hosts = [Facts(cores=4, memory=0, kvm=False)] * 4
    assert boot_window(Windows(boot=3), hosts, LABEL) == SlotWindow(3)
    assert boot_window(Windows(boot=50, sleep=10), hosts, LABEL) == RateWindow(50, 10)
    assert boot_window(Windows(), hosts, LABEL) == SlotWindow(64)
    assert boot_window(Windows(), hosts, LABEL, real_cores=2) == SlotWindow(8), (
        "four hosts on one small machine"
    )


def test_light_guests_of_one_small_machine_have_a_window_for_that_machine() -> None:
    hosts = [Facts(cores=8, memory=0, kvm=False)] * 355
    label = GUESTS["light"].label
    assert boot_window(Windows(), hosts, label, real_cores=2) == SlotWindow(5000)
    assert boot_window(Windows(), hosts, label) == SlotWindow(355 * 8 * 2500)


def test_light_guests_start_host_by_host_in_all_sites_at_once() -> None:
    vms = [
        VM(n, f"vm-{n}", f"{site}-{host}", site, IPv4Address(n), mac_of(n))
        for n, (host, site) in enumerate((h, s) for _ in range(3) for h in "12" for s in ("nancy", "rennes"))
    ]
    order = by_host(vms)
    assert sorted(vm.index for vm in order) == list(range(12))
    runs = [next(iter(group)) for group in batched_hosts(order)]
    assert runs == ["nancy-1", "rennes-1", "nancy-2", "rennes-2"], "each host once"
    assert by_host([]) == []


def batched_hosts(order: list[VM]) -> list[list[str]]:
    return [list(group) for _, group in groupby(vm.host for vm in order)]


def test_reboot_window_is_the_boot_window_by_default() -> None:
    hosts = [Facts(cores=4, memory=0, kvm=False)] * 4
    assert reboot_window(Windows(), hosts, LABEL, real_cores=2) == SlotWindow(8)
    assert reboot_window(Windows(boot=5, sleep=3), hosts, LABEL) == RateWindow(5, 3)
    assert reboot_window(Windows(boot=5, sleep=3, reboot=7), hosts, LABEL) == SlotWindow(7)
    assert reboot_window(Windows(boot=5, reboot_sleep=10), hosts, LABEL) == RateWindow(5, 10)
    assert reboot_window(Windows(reboot=50, reboot_sleep=10), hosts, LABEL) == RateWindow(50, 10)


def test_the_window_for_checks() -> None:
    assert check_window(Windows(boot=50, sleep=10), 8) == SlotWindow(8)
    assert check_window(Windows(check=3, check_sleep=0.5), 3) == RateWindow(3, 0.5)


def test_number_of_checks_depends_on_cores_and_jump_host() -> None:
    assert [check_window_size(Windows(), cores) for cores in (1, 2, 32)] == [8, 8, 128]
    assert check_window_size(Windows(), 32, relayed=True) == 8, "others use the server in between, too"
    assert (
        check_window_size(Windows(check=3), 32) == check_window_size(Windows(check=3), 1, relayed=True) == 3
    )


@given(st.integers(0, 5000), st.integers(1, 256), st.sampled_from(["tcg", "kvm", "light"]), st.integers(1, 5))
def test_timeouts_grow_with_the_load(in_flight: int, cores: int, guest: str, attempt: int) -> None:
    wait = boot_timeout(in_flight, cores, guest=guest, attempt=attempt)
    assert wait >= 60
    assert boot_timeout(in_flight + 1, cores, guest=guest, attempt=attempt) >= wait
    assert boot_timeout(in_flight, cores + 1, guest=guest, attempt=attempt) <= wait
    assert boot_timeout(in_flight, cores, guest="tcg", attempt=attempt) >= wait
    assert boot_timeout(in_flight, cores, guest=guest, attempt=attempt + 1) > wait


def test_timeouts_fit_measured_boots() -> None:
    # 64 emulated VMs with Debian's kernel at once on 2 cores keep them busy for 64 × 6.8 / 2 s
    assert boot_timeout(64, 2, guest="tcg") > 2 * 64 * 6.8 / 2
    assert boot_timeout(8, 2, guest="tcg") == 200
    with pytest.raises(ValueError, match="invalid load"):
        boot_timeout(1, 0, guest="kvm")
