"""Addresses are unique, in a sub-network of their site, and never taken ones."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.errors import CapacityError, SpecError
from g5kvirt.inventory import SubNetwork
from g5kvirt.planning.addressing import (
    address_array,
    allocate_addresses,
    covering_network,
    free_addresses,
    neighbour_tables,
    subnetwork_prefix,
    subnetworks_by_site,
    usable_addresses,
)
from g5kvirt.planning.names import format_ips, format_macs, mac_of, vm_name, vm_names

NETWORKS = st.builds(
    lambda address, prefix: IPv4Network((address >> (32 - prefix) << (32 - prefix), prefix)),
    st.integers(0x0A000000, 0x0AFFFFFF),
    st.integers(20, 30),
)


@given(st.lists(NETWORKS, min_size=1, max_size=6))
def test_vm_network_is_the_smallest_that_contains_all_parts(networks: list[IPv4Network]) -> None:
    whole = covering_network(networks)
    assert all(n.subnet_of(whole) for n in networks)
    if whole.prefixlen < 32:
        assert not any(all(n.subnet_of(half) for n in networks) for half in whole.subnets())


def test_the_vm_network_of_two_real_sites() -> None:
    nancy, rennes = IPv4Network("10.144.4.0/22"), IPv4Network("10.156.0.0/22")
    assert covering_network([nancy]) == nancy
    assert covering_network([nancy, rennes]) == IPv4Network("10.144.0.0/12")
    with pytest.raises(SpecError, match="no sub-network"):
        covering_network([])


@st.composite
def sites_with_parts(draw: st.DrawFn) -> list[SubNetwork]:
    """Sub-networks that do not overlap, of up to three sites."""
    networks: list[IPv4Network] = []
    for network in draw(st.lists(NETWORKS, min_size=1, max_size=5)):
        if not any(network.overlaps(n) for n in networks):
            networks.append(network)
    sites = draw(st.lists(st.sampled_from("abc"), min_size=len(networks), max_size=len(networks)))
    gateways = draw(st.lists(st.booleans(), min_size=len(networks), max_size=len(networks)))
    return [
        SubNetwork(s, n, n.broadcast_address - 1 if g else None)
        for s, n, g in zip(sites, networks, gateways, strict=True)
    ]


@given(parts=sites_with_parts(), data=st.data())
def test_allocated_addresses_are_unique_free_and_of_their_site(
    parts: list[SubNetwork], data: st.DataObject
) -> None:
    by_site = subnetworks_by_site(parts)
    inside = [
        IPv4Address(int(p.network[0]) + i) for p in parts for i in (0, 1, 2, p.network.num_addresses - 1)
    ]
    taken = data.draw(st.lists(st.sampled_from(inside), max_size=8))
    wanted = {site: data.draw(st.integers(0, 40)) for site in by_site}
    room = {
        site: len(
            {a for p in own for a in list(p.network)[1:-2]}
            - set(taken)
            - {p.gateway for p in own if p.gateway}
        )
        for site, own in by_site.items()
    }
    if any(wanted[s] > room[s] for s in wanted):
        with pytest.raises(CapacityError) as error:
            allocate_addresses(wanted, parts, taken)
        assert error.value.requested > error.value.available
        assert str(error.value.requested) in str(error.value)
        return
    found = allocate_addresses(wanted, parts, taken)
    everything = [IPv4Address(int(a)) for own in found.values() for a in own]
    assert len(set(everything)) == len(everything) == sum(wanted.values())
    forbidden = set(taken)
    for part in parts:
        forbidden |= {
            part.network.network_address,
            part.network.broadcast_address,
            part.network.broadcast_address - 1,
        }
        forbidden |= {part.gateway} if part.gateway else set()
    assert not forbidden & set(everything)
    for site, own in found.items():
        assert len(own) == wanted[site]
        assert all(any(IPv4Address(int(a)) in p.network for p in by_site[site]) for a in own)


def test_allocation_uses_a_site_to_its_last_address() -> None:
    part = SubNetwork("nancy", IPv4Network("10.144.0.0/29"))
    found = free_addresses([part], address_array([]), 100)
    assert format_ips(found) == [f"10.144.0.{i}" for i in range(1, 6)]
    with pytest.raises(CapacityError, match=r"6 addresses are needed on nancy.*only 5 free") as error:
        allocate_addresses({"nancy": 6}, [part])
    assert (error.value.requested, error.value.available) == (6, 5)


def test_configured_gateway_is_not_allocated() -> None:
    part = SubNetwork("nancy", IPv4Network("10.144.0.0/29"), IPv4Address("10.144.0.2"))
    assert "10.144.0.2" not in format_ips(free_addresses([part], address_array([]), 9))


def test_site_without_subnetwork_is_refused() -> None:
    with pytest.raises(CapacityError, match=r"on rennes but its sub-networks \(none\)"):
        allocate_addresses({"rennes": 1}, [SubNetwork("nancy", IPv4Network("10.144.0.0/22"))])


def test_overlapping_sub_networks_raise() -> None:
    with pytest.raises(SpecError, match="overlap"):
        subnetworks_by_site(
            [SubNetwork("a", IPv4Network("10.0.0.0/22")), SubNetwork("b", IPv4Network("10.0.0.0/24"))]
        )


def test_large_network_is_not_enumerated_in_memory() -> None:
    part = SubNetwork("nancy", IPv4Network("0.0.0.0/0"))
    assert format_ips(free_addresses([part], address_array([]), 2)) == ["0.0.0.1", "0.0.0.2"]


@given(st.integers(0, 65533))
def test_subnetwork_prefix_is_the_smallest_sufficient(addresses: int) -> None:
    prefix = subnetwork_prefix(addresses)
    assert 16 <= prefix <= 22
    assert usable_addresses(IPv4Network((0, prefix))) >= addresses
    assert prefix == 22 or usable_addresses(IPv4Network((0, prefix + 1))) < addresses


def test_too_many_addresses_for_a_16_are_refused() -> None:
    with pytest.raises(CapacityError) as error:
        subnetwork_prefix(65534)
    assert error.value.available == 65533


@given(st.lists(st.integers(0, 2**32 - 1), max_size=30, unique=True))
def test_macs_and_addresses_are_formatted(numbers: list[int]) -> None:
    array = address_array(IPv4Address(n) for n in numbers)
    macs = format_macs(array)
    assert macs == [mac_of(IPv4Address(n)) for n in numbers]
    assert len(set(macs)) == len(macs)
    assert all(int(m[:2], 16) & 3 == 2 for m in macs), "locally administered, not multicast"
    assert format_ips(array) == [str(IPv4Address(n)) for n in numbers]


def test_names() -> None:
    assert mac_of(IPv4Address("10.144.0.1")) == "52:54:0a:90:00:01"
    assert vm_names(3) == [vm_name(1), vm_name(2), vm_name(3)] == ["vm-1", "vm-2", "vm-3"]


@given(st.integers(1, 1 << 24))
def test_neighbour_tables_hold_all_machines(machines: int) -> None:
    sizes = neighbour_tables(machines)
    for ip in ("ipv4", "ipv6"):
        first, second, third = (sizes[f"net.{ip}.neigh.default.gc_thresh{n}"] for n in (1, 2, 3))
        assert machines <= first < second < third
        assert first <= max(1024, 2 * machines), "no more than is needed"
        assert third < 1 << 31, "the kernel's own limit of such a number"
    assert len(sizes) == 6


def test_neighbour_tables_of_a_small_and_of_the_largest_experiment() -> None:
    small, large = (list(neighbour_tables(n).values())[:3] for n in (8 + 3, 4552 + 355 + 6))
    assert small == [1024, 2048, 4096]
    assert large == [8192, 16384, 32768]
