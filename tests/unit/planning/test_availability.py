"""The first common slot: what is free when, and that nothing earlier would have done."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.planning.availability import Agenda, Need, SiteAgenda, first_slot, free_hosts, lacking, moments

POOL = [IPv4Network(f"10.144.{4 * i}.0/22") for i in range(4)]


def site(**hosts: list[tuple[float, float]]) -> SiteAgenda:
    return SiteAgenda(hosts, {14: []}, {network: [] for network in POOL})


def test_the_slot_waits_for_machines_of_all_sites() -> None:
    agenda = Agenda(
        0, 1000, {"nancy": site(a=[(0, 100)], b=[]), "rennes": site(c=[(0, 250)], d=[(300, 400)])}
    )
    assert first_slot(agenda, {"nancy": Need(1), "rennes": Need(1)}, 50) == 0
    assert first_slot(agenda, {"nancy": Need(2), "rennes": Need(1)}, 50) == 100
    assert first_slot(agenda, {"nancy": Need(2), "rennes": Need(2)}, 50) == 250
    assert first_slot(agenda, {"nancy": Need(2), "rennes": Need(2)}, 51) == 400, "a hole that is too short"
    assert first_slot(agenda, {"nancy": Need(3)}, 50) is None


def test_a_kavlan_and_a_sub_network_count_as_machines_do() -> None:
    taken = SiteAgenda({"a": []}, {14: [(0, 70)]}, {network: [(0, 30)] for network in POOL})
    agenda = Agenda(0, 1000, {"nancy": taken})
    assert first_slot(agenda, {"nancy": Need(1)}, 10) == 0
    assert first_slot(agenda, {"nancy": Need(1, prefix=22)}, 10) == 30
    assert first_slot(agenda, {"nancy": Need(1, prefix=22, vlan=True)}, 10) == 70
    assert (
        first_slot(Agenda(0, 9, {"nancy": SiteAgenda({"a": []})}), {"nancy": Need(1, vlan=True)}, 1) is None
    )


def test_a_larger_sub_network_needs_all_its_parts() -> None:
    one_taken = SiteAgenda({}, {}, {**dict.fromkeys(POOL, ()), POOL[2]: [(0, 50)]})
    assert not lacking(one_taken, Need(0, prefix=21), 0, 10)
    assert lacking(one_taken, Need(0, prefix=20), 0, 10) == "no sub-network /20"
    assert not lacking(one_taken, Need(0, prefix=20), 50, 10)
    assert lacking(one_taken, Need(0, prefix=19), 50, 10) == "no sub-network /19"


def test_only_machines_that_will_do_are_counted() -> None:
    agenda = Agenda(0, 1000, {"nancy": site(a=[], b=[(0, 60)])})
    assert first_slot(agenda, {"nancy": Need(1, among={"b"})}, 10) == 60
    assert lacking(agenda.sites["nancy"], Need(2, among={"b", "x"}), 100, 10) == "1 of 2 machines"


def test_a_start_that_is_not_allowed_is_passed_over() -> None:
    agenda = Agenda(0, 1000, {"nancy": site(a=[(0, 10)])})
    needs = {"nancy": Need(1)}
    assert first_slot(agenda, needs, 5, allowed=lambda t: t >= 40) is None
    assert first_slot(agenda, needs, 5, allowed=lambda t: t >= 40, also=[5, 40, 50]) == 40
    assert moments(agenda, [2000, -1]) == [0, 10]


def test_a_site_that_is_not_in_the_agenda_is_no_site_without_wishes() -> None:
    with pytest.raises(KeyError):
        first_slot(Agenda(0, 10, {}), {"nancy": Need(1)}, 1)


intervals = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 10)).map(lambda p: (p[0], p[0] + p[1])), max_size=4
)


@given(st.lists(intervals, min_size=1, max_size=4), st.integers(1, 4), st.integers(1, 12))
def test_it_is_the_first_of_all_times(
    busy: list[list[tuple[int, int]]], machines: int, walltime: int
) -> None:
    own = site(**{f"h{i}": [(float(a), float(b)) for a, b in one] for i, one in enumerate(busy)})
    found = first_slot(Agenda(0, 100, {"nancy": own}), {"nancy": Need(machines)}, walltime)
    enough = [t for t in range(60) if len(free_hosts(own, t, walltime)) >= machines]
    assert found == (enough[0] if enough else None)
