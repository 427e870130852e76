"""A site's machines, KaVLANs and sub-networks, read from OAR's list of resources. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

from g5kvirt.planning.inventories import LARGEST, SMALLEST, is_exotic
from g5kvirt.testbeds.grid5000 import documents

__all__ = ["RESOURCES", "Resources", "parse_resources", "state_of"]

#: Path in the REST API of all resources of a site's OAR.
RESOURCES = "/sites/{}/internal/oarapi/resources/details.json?limit=1073741824"


@dataclass(frozen=True)
class Resources:
    """The resources of a site's OAR."""

    properties: Mapping[str, Mapping[str, Any]]  #: machine → properties of its first core, with `state_of`
    usable: frozenset[str]  #: the machines that OAR may give to our jobs
    vlans: frozenset[int]  #: the global KaVLANs that it may give
    subnets: frozenset[IPv4Network]  #: the smallest sub-networks that it may give
    vlan_count: int | None  #: global KaVLANs in any state; None if the list has no KaVLANs at all
    largest: int | None  #: prefix length of the largest sub-network, in any state; None if not known


def parse_resources(
    rows: Iterable[Mapping[str, Any]], now: float, job_types: Collection[str] = ()
) -> Resources:
    """Read OAR's list (a row for each core, KaVLAN or /22) as of ``now``, seconds since the epoch.

    ``job_types``: those of the jobs for which machines are usable or not, besides ``deploy``. Raises
    ValueError for a KaVLAN or sub-network that is none.
    """
    properties: dict[str, Mapping[str, Any]] = {}
    usable: dict[str, bool] = {}
    vlans: dict[int, bool] = {}
    subnets: set[IPv4Network] = set()
    slashes: set[int] = set()
    any_vlan = False
    for row in rows:
        kind, name, state = str(row.get("type", "default")), row.get("network_address"), state_of(row, now)
        alive = state == "Alive"
        if kind == "default" and name:
            properties.setdefault(str(name), {**row, "state": state})
            usable[str(name)] = usable.get(str(name), True) and alive and _fits(row, job_types)
        elif kind == "subnet":
            slashes |= {p for p in range(LARGEST, SMALLEST + 1) if row.get(f"slash_{p}") is not None}
            if alive and row.get("subnet_address"):
                prefix = documents.number(row.get("subnet_prefix") or SMALLEST, "subnet_prefix")
                subnets.add(IPv4Network(f"{row['subnet_address']}/{prefix}"))
        elif kind.startswith("kavlan"):
            any_vlan = True
            if kind == "kavlan-global" and row.get("vlan") is not None:
                vlans[documents.number(row["vlan"], "vlan")] = alive
    return Resources(
        properties,
        usable=frozenset(name for name, good in usable.items() if good),
        vlans=frozenset(vlan for vlan, alive in vlans.items() if alive),
        subnets=frozenset(subnets),
        vlan_count=len(vlans) if any_vlan else None,
        largest=min(slashes, default=None),
    )


def _fits(row: Mapping[str, Any], job_types: Collection[str]) -> bool:
    """Whether OAR gives a resource to deploy jobs that are also of these types."""
    deployable = str(row.get("deploy") or "YES").upper() != "NO"
    return deployable and ("exotic" in job_types or not is_exotic(row))


def state_of(row: Mapping[str, Any], now: float) -> str:
    """OAR's state of a resource; OAR gives those that are "Alive" to jobs. Also "in maintenance".

    A machine that is switched off to save energy is Absent, with the time until which it may be woken: it
    starts for a job, and so counts as alive.
    """
    if str(row.get("maintenance") or "NO").upper() == "YES":
        return "in maintenance"
    state, until = str(row.get("state") or "unknown"), row.get("available_upto") or 0
    if state == "Absent" and isinstance(until, int | float | str):
        try:
            return "Alive" if float(until) > now else state
        except (ValueError, OverflowError):
            return state
    return state
