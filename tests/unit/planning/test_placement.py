"""VMs are all placed, no host is overfull, and every VM's data fits together."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.errors import CapacityError, SpecError
from g5kvirt.inventory import GIB, Host, SubNetwork
from g5kvirt.planning.names import mac_of
from g5kvirt.planning.placement import STRATEGIES, Placement, distribute, place, register_strategy

PARTS = [
    SubNetwork("a", IPv4Network("10.144.0.0/22")),
    SubNetwork("b", IPv4Network("10.156.0.0/22")),
    SubNetwork("c", IPv4Network("10.164.0.0/22")),
]
HOSTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 18)), min_size=1, max_size=15)


def hosts_of(drawn: list[tuple[str, int]]) -> list[Host]:
    return [Host(f"h-{i}.{site}.grid5000.fr", site, "h", 4, 8 * GIB) for i, (site, _) in enumerate(drawn)]


def make(drawn: list[tuple[str, int]], vms: int, strategy: str = "balanced") -> Placement:
    return place(vms, hosts_of(drawn), [c for _, c in drawn], PARTS, strategy=strategy)


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
@given(drawn=HOSTS, data=st.data())
def test_all_vms_are_placed_within_the_capacities(
    strategy: str, drawn: list[tuple[str, int]], data: st.DataObject
) -> None:
    total = sum(c for _, c in drawn)
    vms = data.draw(st.integers(0, total))
    placement = make(drawn, vms, strategy)
    assert int(placement.counts.sum()) == len(placement) == vms
    assert all(0 <= n <= c for n, (_, c) in zip(placement.counts, drawn, strict=True))
    assert len(placement.vms) == len(placement.frame()) == vms
    assert len({vm.ip for vm in placement.vms}) == vms
    assert len({vm.mac for vm in placement.vms}) == vms
    part = {p.site: p.network for p in PARTS}
    for number, vm in enumerate(placement.vms, start=1):
        assert vm.index == number
        assert vm.ip in part[vm.site]
        assert vm.ip in placement.network
        assert vm.mac == mac_of(vm.ip)
        assert vm.host.split(".")[1] == vm.site
    hosts = [h.name for h, n in zip(placement.hosts, placement.counts, strict=True) for _ in range(n)]
    assert [vm.host for vm in placement.vms] == hosts, "the VMs of a host are consecutive"
    assert sum(placement.by_site().values()) == vms


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
@given(drawn=HOSTS, more=st.integers(1, 100))
def test_place_refuses_more_vms_than_fit(strategy: str, drawn: list[tuple[str, int]], more: int) -> None:
    total = sum(c for _, c in drawn)
    with pytest.raises(CapacityError) as error:
        make(drawn, total + more, strategy)
    assert (error.value.requested, error.value.available) == (total + more, total)
    assert f"at most {total} VMs" in str(error.value)


@given(drawn=HOSTS, data=st.data())
def test_balanced_loads_differ_by_less_than_a_vm(drawn: list[tuple[str, int]], data: st.DataObject) -> None:
    total = sum(c for _, c in drawn)
    vms = data.draw(st.integers(0, total))
    counts = make(drawn, vms).counts
    for count, (_, capacity) in zip(counts, drawn, strict=True):
        assert abs(count - vms * capacity / max(total, 1)) < 1


def test_balanced_uses_other_sites_before_a_second_host() -> None:
    placement = make([("a", 4), ("a", 4), ("b", 4), ("b", 4)], 2)
    assert placement.by_site() == {"a": 1, "b": 1}


@given(drawn=HOSTS, data=st.data())
def test_packed_leaves_at_most_one_host_partly_filled(
    drawn: list[tuple[str, int]], data: st.DataObject
) -> None:
    vms = data.draw(st.integers(0, sum(c for _, c in drawn)))
    counts = make(drawn, vms, "packed").counts.tolist()
    left = vms
    for count, (_, capacity) in zip(counts, drawn, strict=True):
        assert count == min(capacity, left)
        left -= count


@given(drawn=HOSTS, data=st.data())
def test_round_robin_deals_to_sites_in_turn(drawn: list[tuple[str, int]], data: st.DataObject) -> None:
    """The same as dealing one VM after another, which is slow and plainly right."""
    vms = data.draw(st.integers(0, sum(c for _, c in drawn)))
    sites = list(dict.fromkeys(s for s, _ in drawn))
    free = [c for _, c in drawn]
    expected = [0] * len(drawn)
    left = vms
    while left:
        for site in sites:
            open_hosts = [i for i, (s, _) in enumerate(drawn) if s == site and free[i]]
            if left and open_hosts:
                chosen = min(open_hosts, key=lambda i: (expected[i], i))
                expected[chosen] += 1
                free[chosen] -= 1
                left -= 1
    assert make(drawn, vms, "round-robin-sites").counts.tolist() == expected


def test_placement_is_deterministic() -> None:
    drawn = [("a", 3), ("b", 7), ("a", 5)]
    assert make(drawn, 11).to_plain() == make(drawn, 11).to_plain()


def test_taken_addresses_are_not_allocated() -> None:
    hosts = [Host("h.a", "a", "h", 4, 8 * GIB)]
    taken = [IPv4Address("10.144.0.1"), IPv4Address("10.144.0.3")]
    placement = place(2, hosts, [8], PARTS, taken=taken)
    assert [str(vm.ip) for vm in placement.vms] == ["10.144.0.2", "10.144.0.4"]


def test_place_refuses_too_few_addresses() -> None:
    hosts = [Host("h.a", "a", "h", 4, 8 * GIB)]
    small = [SubNetwork("a", IPv4Network("10.144.0.0/29"))]
    with pytest.raises(CapacityError, match="6 addresses are needed on a"):
        place(6, hosts, [8], small)


def test_vms_behave_as_a_sequence() -> None:
    vms = make([("a", 3), ("b", 3)], 6).vms
    assert vms[-1] == vms[5]
    assert vms[1:3] == (vms[1], vms[2])
    assert vms[0] in vms
    with pytest.raises(IndexError):
        vms[6]


def test_plan_fits_the_journal() -> None:
    rows = make([("a", 3), ("b", 3)], 4).to_plain()
    assert json.loads(json.dumps(rows)) == rows
    assert rows[0] == {
        "index": 1,
        "name": "vm-1",
        "host": "h-0.a.grid5000.fr",
        "site": "a",
        "ip": "10.144.0.1",
        "mac": "52:54:0a:90:00:01",
    }


def test_unknown_strategy_is_refused_with_a_suggestion() -> None:
    with pytest.raises(SpecError, match="did you mean 'balanced'"):
        make([("a", 3)], 1, "balance")


def test_registered_strategy_is_used_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("g5kvirt.planning.placement.STRATEGIES", dict(STRATEGIES))

    @register_strategy("last-first")
    def last_first(capacity, site, vms):  # type: ignore[no-untyped-def]
        return STRATEGIES["packed"](capacity[::-1], site, vms)[::-1]

    assert make([("a", 3), ("b", 3)], 4, "last-first").counts.tolist() == [1, 3]
    with pytest.raises(ValueError, match="already"):
        register_strategy("last-first")(last_first)


def test_invalid_counts_of_a_strategy_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("g5kvirt.planning.placement.STRATEGIES", {"greedy": lambda c, s, n: c + 1})
    with pytest.raises(ValueError, match="returned invalid counts"):
        distribute("greedy", np.array([1, 2]), np.array([0, 0]), 2)
