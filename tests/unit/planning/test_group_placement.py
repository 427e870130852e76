"""Groups of VMs of different sizes are all placed, and no host gets more than it can carry."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt import Group, Spec
from g5kvirt.errors import CapacityError, SpecError
from g5kvirt.inventory import GIB, MIB, Host, SubNetwork
from g5kvirt.planning.capacity import capacities, host_room
from g5kvirt.planning.checks import check_against
from g5kvirt.planning.group_placement import host_shares
from g5kvirt.planning.placement import STRATEGIES, Placement, distribute, place

PARTS = [SubNetwork(site, IPv4Network(f"10.{144 + 4 * i}.0.0/22")) for i, site in enumerate("abc")]
HOSTS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 24), st.integers(1, 64)), min_size=1, max_size=8
)
GROUPS = st.lists(
    st.tuples(st.integers(1, 12), st.integers(80, 6000), st.integers(0, 6000)), min_size=1, max_size=4
)


def hosts_of(drawn: list[tuple[str, int, int]]) -> list[Host]:
    return [Host(f"h-{i}.{s}", s, "h", cores, memory * GIB) for i, (s, cores, memory) in enumerate(drawn)]


def spec_of(groups: list[tuple[int, int, int]], **more: object) -> Spec:
    made = [Group(f"g{i}", n, memory=memory, disk=disk) for i, (n, memory, disk) in enumerate(groups)]
    return Spec.from_dict({"sites": {"a": 1}, "vms": made, **more})


def placed(spec: Spec, hosts: list[Host]) -> Placement:
    shares = host_shares(spec, hosts)
    room = host_room(spec, hosts)
    return place(spec.vms, hosts, room, PARTS, strategy=spec.placement, shares=shares)


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
@given(drawn=HOSTS, groups=GROUPS)
def test_every_vm_is_placed_and_no_host_is_over_its_capacity(
    strategy: str, drawn: list[tuple[str, int, int]], groups: list[tuple[int, int, int]]
) -> None:
    hosts, spec = hosts_of(drawn), spec_of(groups, placement=strategy)
    refused: CapacityError | None = None
    try:
        placement = placed(spec, hosts)
    except CapacityError as error:
        refused = error
    if refused is not None:
        assert refused.requested == spec.vms > refused.available
        return
    vms = list(placement.vms)
    for group in spec.groups:
        own = [vm.name for vm in vms if vm.group == group.name]
        assert own == [f"{group.name}-{n}" for n in range(1, group.count + 1)]
    assert len(vms) == spec.vms
    for host in hosts:
        own = [spec.size_of(vm.group) for vm in vms if vm.host == host.name]
        assert len(own) <= min(spec.capacity.max_per_host, spec.capacity.per_core * host.cores)
        if own:
            room = host.memory - spec.capacity.host_reserve * MIB
            assert sum((vm.memory + vm.disk) * MIB for vm in own) <= room
    assert [vm.host for vm in vms] == sorted((vm.host for vm in vms), key=[h.name for h in hosts].index)
    assert placement.to_plain() == placed(spec, hosts).to_plain(), "the same again"
    assert [row["group"] for row in placement.to_plain()] == [vm.group for vm in vms]


@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - {"grouped", "grouped-sites"}))
@given(drawn=HOSTS, number=st.integers(1, 60))
def test_one_group_is_placed_as_the_same_number_of_vms(
    strategy: str, drawn: list[tuple[str, int, int]], number: int
) -> None:
    hosts, spec = hosts_of(drawn), spec_of([(number, 160, 512)], placement=strategy)
    room = capacities([h.cores for h in hosts], [h.memory for h in hosts], spec.capacity, spec.vm)
    if room.sum() < number:
        with pytest.raises(CapacityError):
            host_shares(spec, hosts)
        return
    sites = list(dict.fromkeys(host.site for host in hosts))
    site = room * 0 + [sites.index(host.site) for host in hosts]
    expected = distribute(strategy, room, site, number)
    assert host_shares(spec, hosts)["g0"].tolist() == expected.tolist()


FOUR = hosts_of([("a", 8, 16), ("a", 8, 16), ("b", 8, 16), ("b", 8, 16)])


def on(placement: Placement) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for vm in placement.vms:
        found.setdefault(vm.group, set()).add(vm.host)
    return found


def test_groups_are_spread_or_kept_together() -> None:
    groups = [(2, 1024, 512), (4, 160, 512)]
    assert on(placed(spec_of(groups), FOUR)) == {"g0": {"h-0.a", "h-2.b"}, "g1": {h.name for h in FOUR}}
    assert on(placed(spec_of(groups, placement="grouped"), FOUR)) == {"g0": {"h-0.a"}, "g1": {"h-1.a"}}
    apart = placed(spec_of(groups, placement="grouped-sites"), FOUR)
    assert on(apart) == {"g0": {"h-0.a", "h-1.a"}, "g1": {"h-2.b", "h-3.b"}}


def test_a_group_that_does_not_fit_on_hosts_of_its_own_shares_them() -> None:
    found = on(placed(spec_of([(17, 300, 0), (30, 160, 0)], placement="grouped"), FOUR))
    assert found["g0"] == {"h-0.a", "h-1.a"}
    assert found["g1"] == {"h-2.b", "h-3.b"}
    crowded = on(placed(spec_of([(60, 300, 0), (4, 160, 0)], placement="grouped"), FOUR))
    assert crowded["g1"] == {"h-3.b"}


def test_large_vms_that_an_even_spread_would_leave_no_room_for_are_placed_all_the_same() -> None:
    two = hosts_of([("a", 8, 5), ("a", 8, 5)])  # 4 GiB each for VMs
    groups = [(3, 1500, 0), (2, 1200, 0)]
    placement = placed(spec_of(groups), two)
    assert placement.counts.sum() == 5


def test_what_does_not_fit_is_refused_with_the_group_that_does_not() -> None:
    spec = spec_of([(2, 8000, 0), (9, 6000, 0)])
    with pytest.raises(CapacityError) as error:
        host_shares(spec, FOUR)
    assert "of 9 g1 with 6000 MiB memory and 0 MiB disk, at most 6 do" in error.value.message
    # of the average size, all of them would fit
    one = spec_of([(3, 8000, 0), (9, 300, 0)], sites={"a": 2})
    with pytest.raises(CapacityError, match="the groups do not fit on 2 hosts: of 3 g0 with 8000 MiB"):
        check_against(one, {"a": [*FOUR[:2], replace(FOUR[2], site="a")]})


def test_smallest_group_must_boot_and_no_group_is_named_as_a_cluster() -> None:
    with pytest.raises(SpecError, match="does not boot in 79 MiB"):
        spec_of([(1, 160, 0), (1, 79, 0)])
    spec = Spec(sites={"a": 1}, vms=[Group("h", 2)])
    with pytest.raises(SpecError, match="the group 'h' has the name of a cluster"):
        check_against(spec, {"a": FOUR[:2]})
