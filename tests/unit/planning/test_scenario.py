"""The experiment of the 2013 slides on Grid'5000 as the tables of 2013 and of 2026 have it.

The numbers are those of docs/explanation/slides-2013.md.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from g5kvirt.inventory import MIB
from g5kvirt.phases.check import on_table
from g5kvirt.planning.capacity import capacity
from g5kvirt.planning.forecast import Plan
from g5kvirt.planning.inventories import exclusion_reason, table
from g5kvirt.planning.preflight import Preflight
from g5kvirt.prediction import expected_times
from g5kvirt.spec.spec import CapacityRule, Spec, VMSpec

ROOT = Path(__file__).parents[3]
SLIDES = Spec.load(ROOT / "data/scenarios/slides-2013.yaml")
PAGE = (ROOT / "docs/explanation/slides-2013.md").read_text(encoding="utf-8")

#: Cluster → VMs on one of its machines, for all that can carry any.
ROOM_2013 = {
    **dict.fromkeys(("chimint", "granduc", "hercule", "orion", "taurus", "griffon", "stremi"), 16),
    **dict.fromkeys(("paradent", "parapide", "parapluie", "suno"), 16),
    "graphene": 8,
    **dict.fromkeys(("chinqchint", "chirloute", "pastel"), 7),
    "sol": 3,
}
SITES_2013 = {
    "nancy": (236, 2624),
    "rennes": (129, 2064),
    "toulouse": (140, 980),
    "sophia": (95, 870),
    "reims": (44, 704),
    "lille": (74, 698),
    "lyon": (24, 384),
    "luxembourg": (22, 352),
}


def plan_of(found: Preflight) -> Plan:
    assert found.ok, found.findings
    assert found.plan is not None
    return found.plan


def test_scenario_requests_the_numbers_of_the_slides() -> None:
    assert (SLIDES.hosts, SLIDES.site_count, SLIDES.vms) == (355, 6, 4552)
    assert (SLIDES.vm.memory, SLIDES.vm.disk, SLIDES.capacity.max_per_host) == (350, 564, 16)


def test_which_clusters_of_2013_can_carry_it() -> None:
    room: dict[str, int] = {}
    sites: dict[str, tuple[int, int]] = {}
    for site, own in table("2013").machines.items():
        for host in (m.host for m in own if exclusion_reason(m, SLIDES) is None):
            vms = capacity(host.cores, host.memory, SLIDES.capacity, SLIDES.vm)
            assert room.setdefault(host.cluster, vms) == vms
            number, total = sites.get(site, (0, 0))
            sites[site] = number + 1, total + vms
    assert room == ROOM_2013
    assert sites == SITES_2013
    assert sum(number for number, _ in sites.values()) == 764
    for site, (number, total) in sites.items():
        assert re.search(rf"\| {site} \| {number} \| {total:,} \|", PAGE), site


@pytest.mark.parametrize(
    ("year", "room", "vms_per_host", "minutes"),
    [("2013", (3449, 4553), (3, 16), 22), ("2026", (5680, 5680), (12, 13), 20)],
)
def test_355_hosts_of_6_sites_carry_4552_vms(
    year: str, room: tuple[int, int], vms_per_host: tuple[int, int], minutes: int
) -> None:
    plan = plan_of(on_table(SLIDES, year, expect=expected_times))
    assert len(plan.sites) == 6
    assert sum(plan.sites.values()) == 355
    assert sum(plan.services.values()) == 6
    assert sum(demand.vms for demand in plan.addresses) == 4552
    assert plan.vms_per_host is not None
    least, most = plan.vms_per_host
    assert 2 <= least <= most <= 16, "as on the slides"
    assert (plan.room, plan.vms_per_host) == (room, vms_per_host)
    assert round(plan.seconds / 60) == minutes
    for words in (f"{room[0]:,}", f"{room[1]:,}", f"{least} to {most}", f"{minutes} minutes"):
        assert words in PAGE, words


@pytest.mark.parametrize("year", ["2013", "2026"])
def test_each_site_reserves_addresses_for_all_vms(year: str) -> None:
    plan = plan_of(on_table(SLIDES, year))
    for demand in plan.addresses:
        # how many VMs come to a site is not known yet: each has addresses for all of them
        assert demand.addresses == 4552 + demand.hosts + demand.services
        assert demand.prefix == 19
    assert sum(demand.hosts + demand.services for demand in plan.addresses) == 361
    assert "slash_19" in PAGE


def test_on_machines_of_2013_it_depends_on_which_ones_oar_gives() -> None:
    found = on_table(SLIDES, "2013", expect=expected_times)
    statuses = {row.what: row.status for row in found.findings}
    assert statuses["room for VMs"] == "warning"
    assert {status for what, status in statuses.items() if what != "room for VMs"} == {"ok"}


def test_clusters_without_virtualization_are_named_unless_properties_exclude_them() -> None:
    document = {**SLIDES.to_dict(), "properties": None}
    found = on_table(Spec.from_dict(document), "2013")
    todo = {row.subject: row.advice for row in found.findings if row.what == "clusters"}
    assert todo == {
        "lille": "exclude them: properties=\"cluster not in ('chicon')\"",
        "sophia": "exclude them: properties=\"cluster not in ('helios')\"",
    }


def test_capacity_allows_for_memory_that_a_running_system_does_not_have() -> None:
    """What the page says of machines with 16 GiB: 15,648 MiB suffice for 16 VMs."""
    rule, vm = CapacityRule(max_per_host=16), VMSpec(memory=350, disk=564)
    assert capacity(8, 15_648 * MIB, rule, vm) == 16
    assert capacity(8, 15_647 * MIB, rule, vm) == 15
    assert "15,648" in PAGE
