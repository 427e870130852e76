"""A sample of the real reference API, one node of each cluster: read into hosts, and compared with our table.

The sample is kept beside the checkout, not in it; without it these tests are skipped.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from g5kvirt import data_tables
from g5kvirt.planning.inventories import Machine, natural_order, parse_machine, table

SAMPLE = Path(__file__).resolve().parents[4] / "shared" / "data" / "reference-api-2026.json.gz"
SITES = (
    *("bordeaux", "grenoble", "lille", "louvain", "luxembourg", "lyon"),
    *("nancy", "nantes", "rennes", "sophia", "strasbourg", "toulouse"),
)


@pytest.fixture(scope="module")
def sample() -> dict[str, Any]:
    if not SAMPLE.exists():
        pytest.skip(f"there is no sample of the reference API beside the checkout ({SAMPLE.name})")
    read: dict[str, Any] = json.loads(gzip.decompress(SAMPLE.read_bytes()))
    return read


@pytest.fixture(scope="module")
def machines(sample: dict[str, Any]) -> dict[str, Machine]:
    """Cluster, as site/cluster → its first machine."""
    found = {}
    for path, node in sample["nodes"].items():
        site, cluster, _ = path.split("/")
        found[f"{site}/{cluster}"] = parse_machine(site, cluster, node)
    return found


def test_every_node_is_a_host_with_the_name_that_oar_has(
    sample: dict[str, Any], machines: dict[str, Machine]
) -> None:
    assert len(machines) == len(sample["nodes"]) == 158
    for path in sample["nodes"]:
        site, cluster, uid = path.split("/")
        host = machines[f"{site}/{cluster}"].host
        assert (host.name, host.site, host.cluster) == (f"{uid}.{site}.grid5000.fr", site, cluster)
        assert natural_order(host) == (cluster, int(uid.rpartition("-")[2]))
        assert host.cores > 0
        assert host.memory >= 2 << 30
        assert host.nic_rate >= 1e9


def test_what_decides_whether_a_machine_can_carry_vms_is_known(machines: dict[str, Machine]) -> None:
    for name, machine in machines.items():
        known = (machine.x86, machine.deploy, machine.kavlan, machine.queues)
        assert None not in known, name
        # the API does not say it of machines of another architecture
        assert machine.virtual is not None or not machine.x86, name
    assert any(not machine.x86 for machine in machines.values())


def test_the_table_of_clusters_agrees(machines: dict[str, Machine]) -> None:
    ours = {f"{m.host.site}/{m.host.cluster}": m for own in table("2026").machines.values() for m in own}
    assert set(ours) == set(machines)
    for name, machine in machines.items():
        mine = ours[name]
        assert (mine.host.cores, mine.host.nic_rate) == (machine.host.cores, machine.host.nic_rate), name
        assert mine.host.memory == pytest.approx(machine.host.memory, rel=0.1), name
        assert (mine.x86, mine.exotic) == (machine.x86, machine.exotic), name


def test_the_sites_are_the_twelve_of_our_table(sample: dict[str, Any]) -> None:
    assert tuple(sorted(sample["sites"])) == SITES
    assert tuple(sorted(row["site"] for row in data_tables.rows("sites_2026.csv"))) == SITES
