"""Description of a testbed: read from a file, or made by one call.

A description is a small YAML file (`load`; ``default.yaml`` beside this module shows every key) with the
numbers and sizes of machines. The addresses are those of the real sites, from ``data/sites_2026.csv``.
Addresses of a node, whose ``index`` counts from 1 within its site:

==================================  =========================================================
network                             address
==================================  =========================================================
production, local and routed vlans  network + index; these vlans take the site's own nodes
global vlans (of any site)          network + 1024 × site's index + index: all sites' nodes
==================================  =========================================================

The last usable address of each network is its gateway; in production it is also the frontend.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, get_args

from g5kvirt.errors import CapacityError, SpecError
from g5kvirt.inventory import GIB
from g5kvirt.testbeds.described.model import (
    DOMAIN,
    Description,
    KadeployEnvironment,
    Kind,
    NodeDescription,
    SiteDescription,
    SwitchKind,
    Vlan,
)
from g5kvirt.testbeds.described.site_networks import CLUSTER_NAME, SiteNetworks, site_networks

__all__ = [
    "DOMAIN",
    "MAX_NODES",
    "Description",
    "KadeployEnvironment",
    "NodeDescription",
    "SiteDescription",
    "Vlan",
    "from_plain",
    "load",
    "make",
]

MAX_NODES = 1000  #: of a site: each site's part of a global vlan holds 1024 addresses
DEFAULT_FILE = Path(__file__).with_name("default.yaml")

_DEFAULTS: dict[str, float] = {
    "cores": 4,
    "memory_gib": 8,
    "nic_gbps": 1,
    "uplink_gbps": 10,
    "uplink_latency_ms": 0,
}
_ENVIRONMENTS = {"debian12-min": "Debian 12 (bookworm), minimal"}
_SITE_KEYS = ("uplink_gbps", "uplink_latency_ms")
_NODE_KEYS = ("cores", "memory_gib", "nic_gbps")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_ENVIRONMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


def load(path: str | Path | None = None) -> Description:
    """Read a description file; None means the default one.

    :raises SpecError: no such file, not YAML, or not a description (see `from_plain`).
    """
    from g5kvirt.spec.yaml_files import load_yaml  # only here: the rest needs only the standard library

    file = DEFAULT_FILE if path is None else Path(path)
    plain = load_yaml(file)
    try:
        return from_plain(plain)
    except CapacityError as error:
        raise CapacityError(
            f"{file}: {error.message}",
            requested=error.requested,
            available=error.available,
            advice=error.advice,
        ) from error
    except SpecError as error:
        raise SpecError(f"{file}: {error.message}", advice=error.advice) from error


def make(
    sites: Mapping[str, int] | None = None,
    *,
    name: str = "local",
    environments: Mapping[str, str] | None = None,
    switch: SwitchKind = "plain",
    **values: float,
) -> Description:
    """Make a description from nodes per site, e.g. ``make({"nancy": 4, "rennes": 2}, cores=8)``.

    ``values``: ``cores``, ``memory_gib``, ``nic_gbps``, ``uplink_gbps``, ``uplink_latency_ms`` of all sites.

    :raises SpecError: as `from_plain`.
    """
    plain: dict[str, Any] = {
        "name": name,
        "switch": switch,
        "defaults": values,
        "sites": dict(sites or {"nancy": 3, "rennes": 3}),
    }
    if environments is not None:
        plain["environments"] = dict(environments)
    return from_plain(plain)


def from_plain(plain: object) -> Description:
    """Make a description from the contents of a file or from `Description.to_plain`.

    A site may be just a number of nodes: they form one cluster, named as the largest one of that site.

    :raises SpecError: an unknown key or site, an invalid number or name.
    :raises CapacityError: more nodes on a site than there are addresses.
    """
    top = _mapping(plain, "the description", ("name", "switch", "defaults", "sites", "environments"))
    name = top.get("name", "local")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SpecError(
            f"{name!r} is not a valid testbed name",
            advice="use at most 32 lower-case letters, digits and hyphens",
        )
    switch = top.get("switch", "plain")
    if switch not in get_args(SwitchKind):
        raise SpecError(f"switch must be one of {', '.join(get_args(SwitchKind))}, not {switch!r}")
    defaults = _numbers(
        _mapping(top.get("defaults") or {}, "defaults", tuple(_DEFAULTS)), "defaults", _DEFAULTS
    )
    raw = top.get("sites")
    if not isinstance(raw, Mapping) or not raw:
        raise SpecError("sites must be a mapping with at least one site, such as {nancy: 3}")
    owner: dict[str, str] = {}
    sites = []
    full: dict[str, Any] = {}
    for site_name, value in raw.items():
        site, full[str(site_name)] = _site(site_name, value, defaults, owner)
        sites.append(site)
    environments = _environments(top.get("environments", _ENVIRONMENTS))
    canonical = {
        "name": name,
        "switch": switch,
        "sites": full,
        "environments": {e.name: e.description for e in environments},
    }
    return Description(name, tuple(sites), environments, switch, json.dumps(canonical))


def _mapping(value: object, label: str, keys: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SpecError(f"{label} must be a mapping of {', '.join(keys)}, not {value!r}")
    for key in value:
        if key not in keys:
            raise SpecError(
                f"{label} has the unknown key {key!r}", advice=f"valid keys are {', '.join(keys)}"
            )
    return value


_NO_LIMIT = 1e9
_BOUNDS: dict[str, tuple[float, float]] = {
    "cores": (1, 4096),
    "memory_gib": (0.0625, 65536),
    "nic_gbps": (0.001, 1000),
    "uplink_gbps": (0.001, 1000),
    "uplink_latency_ms": (0, 1000),
    "nodes": (1, _NO_LIMIT),
}


def _number(value: object, key: str, label: str) -> float:
    low, high = _BOUNDS[key]
    whole = key in ("cores", "nodes")
    if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
        if not whole:
            return float(value)
        if value == int(value):
            return int(value)
    bounds = f"of at least {low:g}" if high == _NO_LIMIT else f"from {low:g} to {high:g}"
    raise SpecError(f"{label}: {key} must be a {'whole ' if whole else ''}number {bounds}, not {value!r}")


def _numbers(values: Mapping[str, object], label: str, defaults: Mapping[str, float]) -> dict[str, float]:
    return {key: _number(values.get(key, default), key, label) for key, default in defaults.items()}


def _site(
    name: object, value: object, defaults: Mapping[str, float], owner: dict[str, str]
) -> tuple[SiteDescription, dict[str, Any]]:
    networks = site_networks().get(name) if isinstance(name, str) else None
    if networks is None or not isinstance(name, str):
        raise SpecError(f"site {name!r} is unknown", advice=f"valid sites are {', '.join(site_networks())}")
    label = f"site {name}"
    if not isinstance(value, Mapping):
        value = {"clusters": {networks.cluster: {"nodes": value}}}
    values = _mapping(value, label, ("clusters", *_SITE_KEYS))
    uplink = _numbers(values, label, {key: defaults[key] for key in _SITE_KEYS})
    raw = values.get("clusters")
    if not isinstance(raw, Mapping) or not raw:
        raise SpecError(f"{label} needs clusters, such as {{{networks.cluster}: {{nodes: 3}}}}")
    full: dict[str, Any] = {"clusters": {}, **uplink}
    nodes: list[NodeDescription] = []
    for cluster, cluster_value in raw.items():
        if not isinstance(cluster, str) or not CLUSTER_NAME.fullmatch(cluster):
            raise SpecError(
                f"{label}: {cluster!r} is not a valid cluster name",
                advice="use lower-case letters, then digits",
            )
        if (other := owner.setdefault(cluster, name)) != name:
            raise SpecError(
                f"cluster {cluster} is on both {other} and {name}", advice="give them different names"
            )
        cluster_label = f"cluster {cluster} of {name}"
        if not isinstance(cluster_value, Mapping):
            cluster_value = {"nodes": cluster_value}
        numbers = _mapping(cluster_value, cluster_label, ("nodes", *_NODE_KEYS))
        count = int(_number(numbers.get("nodes"), "nodes", cluster_label))
        if len(nodes) + count > MAX_NODES:
            raise CapacityError(
                f"{label} has {len(nodes) + count} or more nodes; there are addresses for {MAX_NODES}",
                requested=len(nodes) + count,
                available=MAX_NODES,
            )
        size = _numbers(numbers, cluster_label, {key: defaults[key] for key in _NODE_KEYS})
        full["clusters"][cluster] = {"nodes": count, **size}
        nodes += _nodes(name, networks, cluster, count, size, len(nodes))
    return _site_of(name, networks, tuple(nodes), uplink), full


def _nodes(
    site: str, networks: SiteNetworks, cluster: str, count: int, size: Mapping[str, float], before: int
) -> Iterator[NodeDescription]:
    for number in range(1, count + 1):
        index = before + number
        uid = f"{cluster}-{number}"
        yield NodeDescription(
            uid=uid,
            site=site,
            cluster=cluster,
            index=index,
            number=number,
            fqdn=f"{uid}.{site}.{DOMAIN}",
            mac=f"02:67:35:{networks.index:02x}:{index >> 8:02x}:{index & 255:02x}",
            ip=networks.production[index],
            cores=int(size["cores"]),
            memory=int(size["memory_gib"] * GIB),
            nic_rate=size["nic_gbps"] * 1e9,
        )


def _site_of(
    name: str, networks: SiteNetworks, nodes: tuple[NodeDescription, ...], uplink: Mapping[str, float]
) -> SiteDescription:
    kinds: tuple[tuple[Kind, tuple[tuple[int, IPv4Network], ...]], ...] = (
        ("local", networks.local),
        ("routed", networks.routed),
        ("global", (networks.global_,)),
    )
    return SiteDescription(
        name=name,
        index=networks.index,
        network=networks.production,
        gateway=networks.production[-2],
        nodes=nodes,
        vlans=tuple(Vlan(i, kind, name, net, net[-2]) for kind, pairs in kinds for i, net in pairs),
        subnet_network=networks.subnets,
        subnet_gateway=networks.subnets_gateway,
        subnet_pool=next(networks.subnets.subnets(new_prefix=18)),
        uplink_rate=uplink["uplink_gbps"] * 1e9,
        uplink_latency=uplink["uplink_latency_ms"] / 1e3,
        wan_ip=IPv4Address(f"10.0.{networks.index}.2"),
        wan_gateway=IPv4Address(f"10.0.{networks.index}.1"),
    )


def _environments(value: object) -> tuple[KadeployEnvironment, ...]:
    if not isinstance(value, Mapping) or not value:
        raise SpecError(
            "environments must be a mapping of names to descriptions with at least one environment"
        )
    for name in value:
        if not isinstance(name, str) or not _ENVIRONMENT.fullmatch(name):
            raise SpecError(
                f"{name!r} is not a valid environment name", advice="use letters, digits and . _ + -"
            )
    return tuple(KadeployEnvironment(name, str(text or "")) for name, text in value.items())
