from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local import oarsql


def rows(sql: str) -> list[dict[str, str]]:
    """The inserted rows, parsed from the SQL."""
    found = []
    for columns, values in re.findall(r"INSERT INTO resources \((.*?)\) VALUES\n(.*?);", sql, re.DOTALL):
        for line in values.split(",\n"):
            fields = [field.strip("'") for field in line.strip("()").split(", ")]
            found.append(dict(zip(columns.split(", "), fields, strict=True)))
    return found


@given(st.integers(1, 30), st.integers(1, 12))
def test_cores_are_numbered_within_the_site(nodes: int, cores: int) -> None:
    site = make({"nancy": nodes}, cores=cores).sites[0]
    found = [row for row in rows(oarsql.resources(site)) if row["type"] == "default"]
    assert [int(row["core"]) for row in found] == list(range(1, nodes * cores + 1))
    assert {row["network_address"] for row in found} == {node.fqdn for node in site.nodes}
    for node in site.nodes:
        mine = [row for row in found if row["host"] == node.fqdn]
        assert [row["cpuset"] for row in mine] == [str(core) for core in range(cores)]
        assert len({row["cpu"] for row in mine}) in (1, 2)
    cpus = {(row["cpu"], row["host"]) for row in found}
    assert len(cpus) == len({cpu for cpu, _ in cpus})  # no cpu is on two nodes


def test_vlans_and_subnets_are_available_to_deploy_jobs() -> None:
    site = make().site("rennes")
    found = rows(oarsql.resources(site))
    assert {row["deploy"] for row in found} == {"YES"}
    assert {row["maintenance"] for row in found} == {"NO"}
    vlans = {(row["type"], row["vlan"]) for row in found if row["type"].startswith("kavlan")}
    assert vlans == {
        *(("kavlan-local", str(vlan)) for vlan in (1, 2, 3)),
        *(("kavlan", str(vlan)) for vlan in range(4, 10)),
        ("kavlan-global", "16"),
    }
    subnets = [row for row in found if row["type"] == "subnet"]
    assert [row["slash_22"] for row in subnets] == [str(i) for i in range(1, 17)]
    assert [row["slash_20"] for row in subnets] == [str(1 + i // 4) for i in range(16)]
    assert {row["slash_18"] for row in subnets} == {"1"}
    assert subnets[-1]["subnet_address"] == "10.156.60.0"


def test_every_column_is_one_of_oar_or_of_the_schema() -> None:
    oar = {"type", "network_address", "deploy", "cpuset"}
    inserted = rows(oarsql.resources(make().sites[0]))
    assert inserted
    for row in inserted:
        assert set(row) <= oar | set(oarsql.PROPERTIES)
    for name in oarsql.PROPERTIES:
        assert f"ADD COLUMN IF NOT EXISTS {name} " in oarsql.schema()


def test_many_nodes_are_inserted_in_several_statements() -> None:
    sql = oarsql.resources(make({"nancy": 400}).sites[0])
    assert sql.count("INSERT INTO resources") == 4
    assert len(rows(sql)) == 1600 + 10 + 16
