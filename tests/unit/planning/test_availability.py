"""The first common slot: what is free when, and that no earlier one exists."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.planning.availability import (
    Calendar,
    Need,
    SiteCalendar,
    candidate_starts,
    first_slot,
    free_hosts,
    shortage,
)

POOL = [IPv4Network(f"10.144.{4 * i}.0/22") for i in range(4)]


def site(**hosts: list[tuple[float, float]]) -> SiteCalendar:
    return SiteCalendar(hosts, {14: []}, {network: [] for network in POOL})


def test_first_slot_waits_for_machines_of_all_sites() -> None:
    calendar = Calendar(
        0, 1000, {"nancy": site(a=[(0, 100)], b=[]), "rennes": site(c=[(0, 250)], d=[(300, 400)])}
    )
    assert first_slot(calendar, {"nancy": Need(1), "rennes": Need(1)}, 50) == 0
    assert first_slot(calendar, {"nancy": Need(2), "rennes": Need(1)}, 50) == 100
    assert first_slot(calendar, {"nancy": Need(2), "rennes": Need(2)}, 50) == 250
    assert first_slot(calendar, {"nancy": Need(2), "rennes": Need(2)}, 51) == 400, "a hole that is too short"
    assert first_slot(calendar, {"nancy": Need(3)}, 50) is None


def test_first_slot_waits_for_kavlan_and_subnetwork() -> None:
    taken = SiteCalendar({"a": []}, {14: [(0, 70)]}, {network: [(0, 30)] for network in POOL})
    calendar = Calendar(0, 1000, {"nancy": taken})
    assert first_slot(calendar, {"nancy": Need(1)}, 10) == 0
    assert first_slot(calendar, {"nancy": Need(1, prefix=22)}, 10) == 30
    assert first_slot(calendar, {"nancy": Need(1, prefix=22, vlan=True)}, 10) == 70
    assert (
        first_slot(Calendar(0, 9, {"nancy": SiteCalendar({"a": []})}), {"nancy": Need(1, vlan=True)}, 1)
        is None
    )


def test_a_large_subnetwork_needs_all_its_parts() -> None:
    one_taken = SiteCalendar({}, {}, {**dict.fromkeys(POOL, ()), POOL[2]: [(0, 50)]})
    assert not shortage(one_taken, Need(0, prefix=21), 0, 10)
    assert shortage(one_taken, Need(0, prefix=20), 0, 10) == "no sub-network /20"
    assert not shortage(one_taken, Need(0, prefix=20), 50, 10)
    assert shortage(one_taken, Need(0, prefix=19), 50, 10) == "no sub-network /19"


def test_only_acceptable_machines_count() -> None:
    calendar = Calendar(0, 1000, {"nancy": site(a=[], b=[(0, 60)])})
    assert first_slot(calendar, {"nancy": Need(1, among={"b"})}, 10) == 60
    assert shortage(calendar.sites["nancy"], Need(2, among={"b", "x"}), 100, 10) == "1 of 2 machines"


def test_first_slot_skips_starts_that_are_not_allowed() -> None:
    calendar = Calendar(0, 1000, {"nancy": site(a=[(0, 10)])})
    needs = {"nancy": Need(1)}
    assert first_slot(calendar, needs, 5, allowed=lambda t: t >= 40) is None
    assert first_slot(calendar, needs, 5, allowed=lambda t: t >= 40, also=[5, 40, 50]) == 40
    assert candidate_starts(calendar, [2000, -1]) == [0, 10]


def test_first_slot_raises_for_an_unknown_site() -> None:
    with pytest.raises(KeyError):
        first_slot(Calendar(0, 10, {}), {"nancy": Need(1)}, 1)


intervals = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 10)).map(lambda p: (p[0], p[0] + p[1])), max_size=4
)


@given(st.lists(intervals, min_size=1, max_size=4), st.integers(1, 4), st.integers(1, 12))
def test_first_slot_is_the_earliest_possible(
    busy: list[list[tuple[int, int]]], machines: int, walltime: int
) -> None:
    own = site(**{f"h{i}": [(float(a), float(b)) for a, b in one] for i, one in enumerate(busy)})
    found = first_slot(Calendar(0, 100, {"nancy": own}), {"nancy": Need(machines)}, walltime)
    enough = [t for t in range(60) if len(free_hosts(own, t, walltime)) >= machines]
    assert found == (enough[0] if enough else None)
