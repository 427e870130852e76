"""Every site is served, from as near as can be, at addresses that nobody else has."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.errors import CapacityError, SpecError
from g5kvirt.inventory import GIB, Host, SubNetwork
from g5kvirt.planning.placement import place
from g5kvirt.planning.services import (
    ROLES,
    machines_per_site,
    service_layout,
    services_per_site,
    split_machines,
)
from g5kvirt.spec.spec import Spec

SITES = ("a", "b", "c", "d")
PARTS = [SubNetwork(s, n) for s, n in zip(SITES, IPv4Network("10.144.0.0/20").subnets(2), strict=True)]


def machine(site: str, number: int) -> Host:
    return Host(f"m-{number}.{site}", site, "m", 8, 16 * GIB)


COUNTS = st.dictionaries(st.sampled_from(SITES), st.integers(1, 30), min_size=1)


@given(sites=COUNTS, services=st.integers(1, 12))
def test_service_machines_are_distributed_over_sites(sites: dict[str, int], services: int) -> None:
    given_to = services_per_site(sites, services)
    assert list(given_to) == list(sites)
    assert sum(given_to.values()) == services
    if services >= len(sites):
        assert min(given_to.values()) >= 1
    else:
        assert max(given_to.values()) == 1
        with_one = [sites[s] for s in sites if given_to[s]]
        assert min(with_one) >= max(sites[s] for s in sites if not given_to[s])


def test_machines_to_reserve() -> None:
    spec = Spec(sites={"nancy": 2, "rennes": 5}, vms=1)
    assert machines_per_site(spec) == {"nancy": 2, "rennes": 6}


@given(sites=COUNTS, services=st.integers(1, 8))
def test_machines_are_split(sites: dict[str, int], services: int) -> None:
    spec = Spec(sites=sites, vms=1, services=services)
    machines = [machine(s, i) for s, n in machines_per_site(spec).items() for i in range(n)]
    first, rest = split_machines(spec, machines)
    assert len(first) == services
    assert sorted(h.name for h in (*first, *rest)) == sorted(h.name for h in machines)
    for site, number in sites.items():
        assert sum(h.site == site for h in rest) == number


def test_missing_machines_reduce_hosts_before_services() -> None:
    spec = Spec(sites={"a": 3}, vms=1, services=1)
    services, hosts = split_machines(spec, [machine("a", 1), machine("a", 2)])
    assert (len(services), len(hosts)) == (1, 1)
    with pytest.raises(CapacityError, match="1 of 4 machines"):
        split_machines(spec, [machine("a", 1)])


@given(
    where=st.lists(st.sampled_from(SITES), min_size=1, max_size=7),
    load=st.dictionaries(st.sampled_from(SITES), st.integers(0, 100), min_size=1),
)
def test_every_site_is_served(where: list[str], load: dict[str, int]) -> None:
    machines = [machine(site, i) for i, site in enumerate(where)]
    taken = [IPv4Address("10.144.0.1"), IPv4Address("10.144.4.1")]
    layout = service_layout(machines, load, PARTS, taken)
    assert len(set(layout.taken)) == len(layout.taken)
    assert not set(taken) & set(layout.taken)
    part = {p.site: p.network for p in PARTS}
    for site in load:
        assert len(layout.servers("dhcp", site)) == 1, "two DHCP servers would both answer"
        for role in ROLES:
            servers = layout.servers(role, site)
            assert layout.server(role, site, len(servers)) == servers[0]
            for server in servers:
                assert server.addresses[site] in part[site]
                assert server.addresses[site] in layout.network
                assert site not in where or server.host.site == site, "a site's own machines serve it"
    for one in layout.machines:
        assert one.roles
        assert set(one.sites) <= set(load)
    assert [m.host for m in sorted(layout.machines, key=lambda m: m.host.name)] == sorted(
        machines, key=lambda m: m.name
    )


def test_single_machine_has_all_roles() -> None:
    layout = service_layout([machine("a", 1)], {"a": 2, "b": 2}, PARTS)
    (only,) = layout.machines
    assert only.roles == ROLES
    assert {s: str(a) for s, a in only.addresses.items()} == {"a": "10.144.0.1", "b": "10.144.4.1"}
    assert layout.address("http", "b") == IPv4Address("10.144.4.1")


def test_several_machines_of_a_site_share_the_work() -> None:
    layout = service_layout([machine("a", i) for i in range(3)], {"a": 2}, PARTS)
    assert [m.roles for m in layout.machines] == [("dhcp",), ("http",), ("http",)]
    assert layout.server("http", "a", 0) != layout.server("http", "a", 1)


def test_site_without_machine_is_served_by_the_least_loaded() -> None:
    layout = service_layout([machine("a", 1), machine("b", 2)], {"a": 90, "b": 10, "c": 50, "d": 5}, PARTS)
    assert {m.host.site: set(m.sites) for m in layout.machines} == {"a": {"a"}, "b": {"b", "c", "d"}}


def test_a_site_with_more_machines_takes_more() -> None:
    machines = [machine("a", 1), machine("a", 2), machine("a", 3), machine("b", 4)]
    layout = service_layout(machines, {"a": 60, "b": 30, "c": 30}, PARTS)
    assert {m.host.site for m in layout.servers("http", "c")} == {"a"}  # 90 on three, not 60 on one


def test_vms_and_services_share_no_address() -> None:
    layout = service_layout([machine("a", 1), machine("a", 2)], {"a": 1, "b": 1}, PARTS)
    placement = place(20, [machine("a", 3), machine("b", 4)], [10, 10], PARTS, taken=layout.taken)
    addresses = [*(vm.ip for vm in placement.vms), *layout.taken]
    assert len(addresses) == len(set(addresses)) == 20 + 2 * 2


@given(vms=st.integers(1, 60), room=st.lists(st.integers(1, 12), min_size=6, max_size=6))
def test_every_vm_goes_to_its_own_site_and_servers_of_a_site_share_its_vms_evenly(
    vms: int, room: list[int]
) -> None:
    """a has two machines for HTTP, b and c one for all."""
    machines = [machine(site, i) for i, site in enumerate("aaabc")]
    hosts = [machine(site, 10 + i) for i, site in enumerate("aabbcc")]
    layout = service_layout(machines, {"a": 2, "b": 2, "c": 2}, PARTS)
    placement = place(min(vms, sum(room)), hosts, room, PARTS, taken=layout.taken)
    shares: dict[str, dict[str, int]] = {}
    for vm in placement.vms:
        for role in ROLES:
            server = layout.server(role, vm.site, vm.index)
            assert server.host.site == vm.site
            assert layout.address(role, vm.site, vm.index) == server.addresses[vm.site]
        names = shares.setdefault(vm.site, {m.host.name: 0 for m in layout.servers("http", vm.site)})
        names[layout.server("http", vm.site, vm.index).host.name] += 1
    assert sum(number for names in shares.values() for number in names.values()) == len(placement.vms) > 0
    for site, names in shares.items():
        assert len(names) == (2 if site == "a" else 1)
        assert max(names.values()) - min(names.values()) <= 1


def test_invalid_layouts_raise() -> None:
    with pytest.raises(SpecError, match="no service machine"):
        service_layout([], {"a": 1}, PARTS)
    with pytest.raises(CapacityError, match="on z"):
        service_layout([machine("a", 1)], {"z": 1}, PARTS)
    with pytest.raises(SpecError, match="no service machine has the role 'dhcp' for b"):
        service_layout([machine("a", 1)], {"a": 1}, PARTS).servers("dhcp", "b")
