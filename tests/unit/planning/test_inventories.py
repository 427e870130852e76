"""Machines in the tables and in the reference API, and which of them can carry VMs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from g5kvirt.errors import SpecError
from g5kvirt.inventory import GIB, Host
from g5kvirt.planning.inventories import (
    Machine,
    exclusion_reason,
    natural_order,
    parse_machine,
    read_machines,
    table,
)
from g5kvirt.spec.spec import Spec

HOST = Host("gros-1.nancy.grid5000.fr", "nancy", "gros", 18, 96 * GIB)
ABLE = Machine(HOST, virtual=True, deploy=True, kavlan=True, x86=True, queues=("default",))
SPEC = Spec(sites={"nancy": 1}, vms=1)


def test_table_of_2013_has_its_machines_and_pools() -> None:
    inventory = table("2013")
    machines = [m for own in inventory.machines.values() for m in own]
    assert len(machines) == 1195
    assert len(inventory.machines) == 10
    assert sum(m.virtual is True and m.kavlan is True for m in machines) == 764
    # 2x69|16x10: so many machines with so much memory
    memory = [m.host.memory // GIB for m in inventory.machines["lyon"] if m.host.cluster == "sagittaire"]
    assert (memory.count(2), memory.count(16)) == (69, 10)
    assert {m.host.nic_rate for m in machines if m.host.cluster == "taurus"} == {10e9}
    assert "bordeaux" not in inventory.largest  # the table knows no pool of it
    assert inventory.largest["nancy"] == 16


def test_table_of_2026_has_its_machines() -> None:
    inventory = table("2026")
    machines = [m for own in inventory.machines.values() for m in own]
    assert len(machines) == 939
    found = [
        m for m in machines if m.virtual and m.x86 and not m.exotic and m.queues and "default" in m.queues
    ]
    assert len({(m.host.site, m.host.cluster) for m in found}) == 20
    assert len(found) == 472
    assert sum(m.host.cores for m in found) == 12_988
    assert sum(m.host.memory for m in found) // GIB == 84_448
    assert (
        sum(exclusion_reason(m, SPEC) is None for m in machines) == 462
    )  # one of the clusters cannot join a KaVLAN


def test_unknown_year_is_refused_with_the_nearest() -> None:
    with pytest.raises(SpecError, match="no table of the clusters of 2014: did you mean '2013'"):
        table("2014")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, None),
        ({"deploy": False}, "cannot be deployed"),
        ({"x86": False}, "not x86_64"),
        ({"virtual": False}, "cannot virtualize"),
        ({"kavlan": False}, "cannot join a KaVLAN"),
        ({"exotic": True}, "exotic"),
        ({"queues": ("production",)}, "not in the queue default"),
        # what is not known does not exclude it
        ({"deploy": None, "x86": None, "virtual": None, "kavlan": None, "queues": None}, None),
    ],
)
def test_exclusion_reason_of_a_machine(change: dict[str, Any], why: str | None) -> None:
    assert exclusion_reason(replace(ABLE, **change), SPEC) == why


@pytest.mark.parametrize(
    ("node", "properties", "exotic"),
    [
        ({}, None, False),
        ({"exotic": True}, None, True),
        ({"exotic": False}, {"exotic": "NO"}, False),
        ({"exotic": False}, {"exotic": "YES"}, True),  # only OAR says so
    ],
)
def test_exotic_by_the_reference_api_or_oar(
    node: dict[str, Any], properties: dict[str, Any] | None, exotic: bool
) -> None:
    plain = {"uid": "a-1", "architecture": {"nb_cores": 4}, "main_memory": {"ram_size": 1 << 30}}
    assert parse_machine("nancy", "a", {**plain, **node}, properties).exotic is exotic


def test_exclusion_depends_on_the_queue_and_on_emulation() -> None:
    production = Spec(sites={"nancy": 1}, vms=1, queue="production")
    assert exclusion_reason(ABLE, production) == "not in the queue production"
    assert exclusion_reason(replace(ABLE, virtual=False), SPEC, emulated=True) is None
    exotic = Spec(sites={"nancy": 1}, vms=1, job_types=["exotic"])
    assert exclusion_reason(replace(ABLE, exotic=True), exotic) is None
    light = Spec(sites={"nancy": 1}, vms=1, guest="light")
    assert exclusion_reason(replace(ABLE, virtual=False), light) is None


NODE: dict[str, Any] = {
    "uid": "graphene-12",
    "architecture": {"nb_cores": 4},
    "main_memory": {"ram_size": 17 << 30},
    "network_adapters": [
        {"device": "bmc", "mounted": True, "management": True},
        {"device": "eth1", "mounted": False},
        {"device": "eth0", "mounted": True, "rate": 10**10, "switch": "sgraphene1"},
    ],
}


def read(**words: Any) -> Machine:
    """The machine of a document with these fields."""
    return parse_machine("nancy", "graphene", {**NODE, **words})


def test_parse_machine_reads_a_host() -> None:
    host = read().host
    assert host == Host("graphene-12.nancy.grid5000.fr", "nancy", "graphene", 4, 17 << 30, 1e10, "sgraphene1")
    assert host.uid == "graphene-12"


def test_parse_machine_without_a_network_card() -> None:
    host = read(network_adapters=[]).host
    assert (host.nic_rate, host.switch) == (1e9, "")


def test_natural_order_is_by_number() -> None:
    hosts = [replace(HOST, name=f"c-{i}.nancy.grid5000.fr") for i in (10, 2, 1)]
    assert [h.uid for h in sorted(hosts, key=natural_order)] == ["c-1", "c-2", "c-10"]


@pytest.mark.parametrize(
    ("word", "able"), [("ivt", True), ("amd-v", True), ("none", False), (False, False), (None, False)]
)
def test_parse_machine_reads_virtualization(word: object, able: bool) -> None:
    node = {"supported_job_types": {"virtual": word, "deploy": True, "queues": ["default"]}}
    assert read(**node).virtual is able


def test_parse_machine_uses_the_mounted_card() -> None:
    management = {"mounted": True, "management": True, "kavlan": True}
    other = {"mounted": False, "kavlan": True}
    node = {"network_adapters": [management, other, {"mounted": True, "kavlan": False}]}
    assert read(**node).kavlan is False
    assert read().kavlan is None
    assert read(architecture={"nb_cores": 4, "platform_type": "aarch64"}).x86 is False
    assert parse_machine("nancy", "graphene", NODE, {"state": "Suspected"}).state == "Suspected"


def test_a_machine_that_is_described_wrongly_costs_no_other() -> None:
    good = {"uid": "a-2", "architecture": {"nb_cores": 4}, "main_memory": {"ram_size": 1 << 34}}
    bad = [
        {**good, "uid": "a-10", "architecture": {}},
        {**good, "uid": "a 11"},
        {**good, "uid": "a-12", "main_memory": {"ram_size": "much"}},
        {**good, "uid": "a-13", "network_adapters": {"eth0": {}}},
    ]
    machines, unreadable = read_machines("nancy", {"a": [*bad, good]})
    assert [machine.host.name for machine in machines] == ["a-2.nancy.grid5000.fr"]
    assert unreadable == [
        ("a-10", "its nb_cores is missing"),
        ("a 11", "its name is 'a 11.nancy.grid5000.fr'"),
        ("a-12", "its ram_size is 'much'"),
        ("a-13", "its network_adapters is {'eth0': {}}"),
    ]
