"""What a testbed has that decides whether an experiment can run there: machines, sub-networks, KaVLANs.

An inventory is built from the reference API's documents (`parse_machine`), or from the tables of Grid'5000
that come with the project (`table`), so that an experiment can be checked without any testbed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any

from g5kvirt import data_tables
from g5kvirt.errors import SpecError
from g5kvirt.inventory import GIB, MIB, Host
from g5kvirt.run.printable import short
from g5kvirt.spec.spec import Spec, suggest

__all__ = [
    "TABLES",
    "Inventory",
    "Machine",
    "exclusion_reason",
    "is_exotic",
    "natural_order",
    "parse_machine",
    "read_machines",
    "table",
]

_NAME = re.compile(r"(?=.{1,200}$)[A-Za-z0-9][A-Za-z0-9-]*(\.[A-Za-z0-9-]+)*")

#: Year of a table → the column with the number of nodes of a cluster.
TABLES = {"2013": "nodes_2013_02_15", "2026": "nodes"}
#: OAR gives sub-networks of these sizes: ``slash_16`` … ``slash_22``.
LARGEST, SMALLEST = 16, 22


@dataclass(frozen=True)
class Machine:
    """A machine and what it can do; None: not known."""

    host: Host
    virtual: bool | None = None  #: its processors have hardware virtualization
    deploy: bool | None = None  #: Kadeploy3 may deploy it
    kavlan: bool | None = None  #: its mounted network card can join a KaVLAN
    x86: bool | None = None  #: x86_64, like the VMs
    exotic: bool = False  #: OAR gives it only to jobs of the type "exotic"
    queues: tuple[str, ...] | None = None
    state: str | None = None  #: OAR's current state: Alive, Absent, Suspected, Dead
    properties: Mapping[str, Any] = field(
        default_factory=dict, hash=False
    )  #: its properties in OAR, as far as known

    @property
    def resource(self) -> Mapping[str, Any]:
        """Its row among OAR's resources, for `g5kvirt.planning.properties`."""
        return {**self.properties, "type": "default", "network_address": self.host.name}


@dataclass(frozen=True)
class Inventory:
    """All machines of each site, and what else OAR gives there. A missing entry is not known."""

    name: str
    machines: Mapping[str, tuple[Machine, ...]]
    largest: Mapping[str, int] = field(default_factory=dict)  #: site → prefix of its largest sub-network
    vlans: Mapping[str, int] = field(default_factory=dict)  #: site → global KaVLANs
    matching: frozenset[str] | None = None  #: machines that meet the spec's properties; None: no filter
    unanswered: frozenset[str] = frozenset()  #: sites that exist, but whose machines could not be read


def exclusion_reason(machine: Machine, spec: Spec, *, emulated: bool = False) -> str | None:
    """Why ``machine`` cannot carry the VMs of ``spec``, in a few words; None if it can, as far as known.

    ``emulated``: guests are emulated there anyway, so the processors need no virtualization.
    """
    if machine.deploy is False:
        return "cannot be deployed"
    if machine.x86 is False:
        return "not x86_64"
    if machine.virtual is False and not emulated and spec.guest == "vm":
        return "cannot virtualize"
    if machine.kavlan is False:
        return "cannot join a KaVLAN"
    if machine.exotic and "exotic" not in spec.job_types:
        return "exotic"
    if machine.queues is not None and (spec.queue or "default") not in machine.queues:
        return f"not in the queue {spec.queue or 'default'}"
    return None


def is_exotic(row: Mapping[str, Any]) -> bool:
    """Whether OAR gives a resource only to jobs of the type "exotic"."""
    return str(row.get("exotic") or "NO").upper() == "YES"


def parse_machine(
    site: str, cluster: str, node: Mapping[str, Any], properties: Mapping[str, Any] | None = None
) -> Machine:
    """A machine from its document in the reference API, and its properties in OAR (of one of its cores).

    Raises ValueError, with a clause that says what is wrong, for a document that describes no machine.
    """
    jobs, architecture = _section(node, "supported_job_types"), _section(node, "architecture")
    cards = [c for c in _adapters(node) if c.get("mounted") and not c.get("management")]
    nic: Mapping[str, Any] = cards[0] if cards else {}
    name = nic.get("network_address") or f"{node.get('uid')}.{site}.grid5000.fr"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"its name is {short(repr(name), 80)}")
    kavlan, platform, queues = nic.get("kavlan"), architecture.get("platform_type"), jobs.get("queues")
    if queues is not None and not isinstance(queues, list):
        raise ValueError(f"its queues are {short(repr(queues), 80)}")
    return Machine(
        Host(
            name=name,
            site=site,
            cluster=cluster,
            cores=int(_number(architecture, "nb_cores", 1 << 20)),
            memory=int(_number(_section(node, "main_memory"), "ram_size", 1 << 60)),
            nic_rate=float(_number(nic, "rate", 10**15) if nic.get("rate") else 1e9),
            switch=str(nic.get("switch") or ""),
        ),
        virtual=_has_virtualization(jobs.get("virtual")) if "virtual" in jobs else None,
        deploy=bool(jobs["deploy"]) if "deploy" in jobs else None,
        kavlan=None if kavlan is None else bool(kavlan),
        x86=None if platform is None else platform == "x86_64",
        exotic=bool(node.get("exotic")) or is_exotic(properties or {}),
        queues=None if queues is None else tuple(map(str, queues)),
        state=None if properties is None else str(properties.get("state") or "") or None,
        properties=properties or {},
    )


def _section(node: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = node.get(name) or {}
    if not isinstance(found, Mapping):
        raise ValueError(f"its {name} is {short(repr(found), 80)}")
    return found


def _adapters(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = node.get("network_adapters") or []
    if not isinstance(found, list) or not all(isinstance(card, Mapping) for card in found):
        raise ValueError(f"its network_adapters is {short(repr(found), 80)}")
    return found


def _number(section: Mapping[str, Any], name: str, limit: int) -> float:
    """A number above 0 and below ``limit``; older documents have some as text."""
    found = section.get(name)
    try:
        number = float(found) if isinstance(found, int | float | str) else 0.0
    except (ValueError, OverflowError):
        number = 0.0
    if not 1 <= number < limit:
        raise ValueError(f"its {name} is {'missing' if found is None else short(repr(found), 80)}")
    return number


def read_machines(
    site: str,
    nodes: Mapping[str, Sequence[Mapping[str, Any]]],
    properties: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[tuple[Machine, ...], list[tuple[str, str]]]:
    """A site's machines in their order, and those that cannot be read, as (name, why).

    ``nodes``: cluster → documents of the reference API. ``properties``: machine → those in OAR. One machine
    that is described wrongly costs no other.
    """
    machines, unreadable = [], []
    for cluster, documents in nodes.items():
        for node in documents:
            try:
                machine = parse_machine(site, cluster, node)
                known = (properties or {}).get(machine.host.name)
                machines.append(parse_machine(site, cluster, node, known) if known else machine)
            except ValueError as error:
                unreadable.append((short(str(node.get("uid")), 60), short(str(error))))
    return tuple(sorted(machines, key=lambda machine: natural_order(machine.host))), unreadable


def natural_order(host: Host) -> tuple[str, int]:
    """Sort key of a site's machines: by cluster, then by number."""
    found = re.match(r"\w+-(\d+)", host.name)
    return host.cluster, int(found[1]) if found else 0


def _has_virtualization(word: object) -> bool:
    """Whether the API's value means virtualization: ``ivt``, ``amd-v``; not ``none``, ``NO``, false, null."""
    return bool(word) and str(word).lower() not in ("none", "no", "false")


def table(year: str) -> Inventory:
    """Grid'5000 as the tables of that year have it: "2013" (15 February) or "2026".

    The tables have the installed memory (a running system has a few percent less) and neither switches nor
    states. Raises SpecError for another year.
    """
    if year not in TABLES:
        raise SpecError(f"there is no table of the clusters of {year}", advice=suggest(year, TABLES))
    machines: dict[str, tuple[Machine, ...]] = {}
    for row in data_tables.rows(f"clusters_{year}.csv"):
        own = tuple(_machines(row, int(row[TABLES[year]] or 0)))
        machines[row["site"]] = machines.get(row["site"], ()) + own
    pools = {
        row["site"]: row["g5ksubnet"] for row in data_tables.rows(f"sites_{year}.csv") if row["g5ksubnet"]
    }
    largest = {site: max(LARGEST, IPv4Network(pool).prefixlen) for site, pool in pools.items()}
    # Since KaVLAN spans sites, each site that has KaVLANs has a global one.
    vlans = {
        row["site"]: int(bool(row["kavlan_ip_range"] if year == "2013" else row["kavlan_global"]))
        for row in data_tables.rows(f"sites_{year}.csv")
    }
    return Inventory(f"Grid'5000 of {year}", machines, largest, vlans)


def _machines(row: Mapping[str, str], count: int) -> Iterator[Machine]:
    memory = _per_machine(row["ram_gib"], count)
    site, cluster = row["site"], row["cluster"]
    # The table of 2013 has neither column: all of it was x86_64, and nothing was exotic.
    arch, queues = row.get("arch"), row.get("queues")
    for number in range(1, count + 1):
        host = Host(
            name=f"{cluster}-{number}.{site}.grid5000.fr",
            site=site,
            cluster=cluster,
            cores=int(row["cores_per_node"]),
            memory=int(memory[number - 1] * GIB),
            nic_rate=float(row["main_nic_gbps"]) * 1e9,
        )
        yield Machine(
            host,
            virtual=row["virtualization"] in ("ivt", "amd-v"),
            deploy=row["deploy"] == "true",
            kavlan=(row.get("kavlan") or row.get("kavlan_main_nic")) == "true",
            x86=arch in (None, "x86_64"),
            exotic=row.get("exotic") == "true",
            queues=None if queues is None else tuple(queues.split("+")),
            properties={"cluster": cluster, "host": host.name, "memnode": host.memory // MIB},
        )


def _per_machine(text: str, count: int) -> Sequence[float]:
    """A value for each of ``count`` machines: ``16``, or ``2x69|16x10`` (2 for 69 of them, 16 for 10)."""
    if "x" not in text:
        return [float(text)] * count
    values = [
        float(value)
        for value, _, number in (part.partition("x") for part in text.split("|"))
        for _ in range(int(number))
    ]
    return (values + values[-1:] * count)[:count]
