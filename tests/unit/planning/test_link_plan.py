"""Links between VMs: every pair gets the first link that holds for it, however a host is told so."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.errors import SpecError
from g5kvirt.inventory import VM
from g5kvirt.planning.links import LinkPlan, check_links, plan_links, vms_at
from g5kvirt.planning.names import mac_of
from g5kvirt.spec.links import Link

GROUPS, SITES = ("g0", "g1", "g2", ""), ("nancy", "rennes")
ENDS = st.sampled_from([*GROUPS[:3], *SITES])
LINKS = st.lists(
    st.builds(
        lambda first, second, rate, symmetric: Link(first, second, rate=rate, symmetric=symmetric),
        ENDS,
        ENDS,
        st.integers(10_000, 10**9),
        st.booleans(),
    ),
    max_size=5,
)
VMS = st.lists(st.tuples(st.sampled_from(GROUPS), st.sampled_from(SITES), st.integers(0, 3)), max_size=25)


def vms_of(drawn: list[tuple[str, str, int]]) -> list[VM]:
    found = []
    for number, (group, site, gap) in enumerate(drawn):
        address = IPv4Address(0x0A900000 + 40 * number * (gap == 0) + number)
        host = f"h-{number % 3}"
        found.append(VM(number + 1, f"vm-{number}", host, site, address, mac_of(address), group))
    return found


def cell_of(plan: LinkPlan, address: IPv4Address) -> int | None:
    """The cell of a source address, as nftables finds it."""
    for first, last, cell in plan.ranges:
        if IPv4Address(first) <= address <= IPv4Address(last):
            return cell
    return None


def rate_of(plan: LinkPlan, source: VM, target: VM) -> float | None:
    """What the tap of ``target`` does with packets of ``source``."""
    host = plan.of_host(target.host)
    cell = host.vms.get(target.mac)
    if cell is None:
        return None
    found = [one["rate"] for one in host.classes[cell] if cell_of(plan, source.ip) in one["from"]]
    assert len(found) <= 1
    return found[0] if found else None


def is_at(vm: VM, end: str) -> bool:
    return end in (vm.group, vm.site)


@given(drawn=VMS, links=LINKS)
def test_every_pair_has_the_first_link_that_holds(
    drawn: list[tuple[str, str, int]], links: list[Link]
) -> None:
    vms = vms_of(drawn)
    plan = plan_links(links, vms)
    for source in vms:
        for target in vms:
            held = next(
                (
                    link.rate
                    for link in links
                    if (is_at(source, link.first) and is_at(target, link.second))
                    or (link.symmetric and is_at(source, link.second) and is_at(target, link.first))
                ),
                None,
            )
            assert rate_of(plan, source, target) == held


def test_hosts_are_told_ranges_and_only_their_own_vms() -> None:
    vms = [
        VM(n + 1, f"vm-{n}", f"h-{n // 400}", "nancy", IPv4Address(0x0A900001 + n), f"m-{n}", group)
        for n, group in enumerate(["g0"] * 1500 + ["g1"] * 2000)
    ]
    plan = plan_links([Link("g0", "g1", rate="1mbit")], vms)
    assert plan.ranges == [("10.144.0.1", "10.144.5.220", 1), ("10.144.5.221", "10.144.13.172", 2)]
    own = plan.of_host("h-8")
    assert set(own.vms) == {f"m-{n}" for n in range(3200, 3500)}
    assert own.classes == {2: [{"rate": 1e6, "latency": None, "loss": None, "from": [1]}]}
    assert plan_links([], vms).of_host("h-8").vms == {}
    assert [vm.name for vm in vms_at("g0", vms)][-1] == "vm-1499"


def test_what_the_kernels_lack_is_refused() -> None:
    check_links([Link("a", "b", rate="1mbit")], netem=False)
    check_links([Link("a", "b", loss=0.5)], netem=None)
    with pytest.raises(SpecError, match="a–b has a latency or a loss, but the kernel of these hosts"):
        check_links([Link("a", "b", loss=0.5)], netem=False)
