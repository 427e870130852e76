"""The parts of a local testbed as plain data: sites, nodes, vlans, environments, names.

Standard library only. `g5kvirt.testbeds.described.description` makes these from description files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Literal

__all__ = [
    "DOMAIN",
    "Description",
    "KadeployEnvironment",
    "Kind",
    "NodeDescription",
    "SiteDescription",
    "SwitchKind",
    "Vlan",
]

DOMAIN = "grid5000.fr"

Kind = Literal["local", "routed", "global"]
SwitchKind = Literal["plain", "managed"]

_NODE_NAME = re.compile(r"([a-z]+[0-9]*-[1-9][0-9]*)(?:-kavlan-([1-9][0-9]*))?\.([a-z]+)\.grid5000\.fr")


@dataclass(frozen=True)
class KadeployEnvironment:
    """An environment that kadeploy3 knows by name."""

    name: str
    description: str = ""


@dataclass(frozen=True)
class Vlan:
    """A KaVLAN: each site has local (1–3) and routed ones (4–9), and a global one with a unique id."""

    id: int
    kind: Kind
    site: str
    network: IPv4Network
    gateway: IPv4Address


@dataclass(frozen=True)
class NodeDescription:
    """A machine of the testbed. Memory in bytes, rates in bits per second."""

    uid: str  #: "graphene-1"
    site: str
    cluster: str
    index: int  #: 1, 2, … within the site
    number: int  #: 1, 2, … within the cluster, as in the name
    fqdn: str  #: "graphene-1.nancy.grid5000.fr"
    mac: str
    ip: IPv4Address  #: in the site's production network
    cores: int
    memory: int
    nic_rate: float

    def kavlan_name(self, vlan: int) -> str:
        """Its name in KaVLAN ``vlan``: ``graphene-1-kavlan-14.nancy.grid5000.fr``."""
        return f"{self.uid}-kavlan-{vlan}.{self.site}.{DOMAIN}"


@dataclass(frozen=True)
class SiteDescription:
    """A site: its networks and its nodes. Rates in bits per second, latency in seconds (one way)."""

    name: str
    index: int  #: number of the site, the same in every description
    network: IPv4Network  #: production
    gateway: IPv4Address  #: router and frontend, as seen from the nodes of the site
    nodes: tuple[NodeDescription, ...]
    vlans: tuple[Vlan, ...]  #: local, routed, last the global one of the site
    subnet_network: IPv4Network  #: the network of all sub-networks of the site (a /14)
    subnet_gateway: IPv4Address
    subnet_pool: IPv4Network  #: the part that can be reserved with slash_NN here (a /18, sixteen /22)
    uplink_rate: float
    uplink_latency: float
    wan_ip: IPv4Address  #: address of the router in its /24 of the backbone
    wan_gateway: IPv4Address  #: address of the backbone in the same /24

    @property
    def fqdn(self) -> str:
        """The frontend's name: ``nancy.grid5000.fr``."""
        return f"{self.name}.{DOMAIN}"

    @property
    def clusters(self) -> tuple[str, ...]:
        """Names of the clusters, in the order of the description."""
        return tuple(dict.fromkeys(node.cluster for node in self.nodes))

    @property
    def global_vlan(self) -> Vlan:
        """The global KaVLAN of the site."""
        return self.vlans[-1]


@dataclass(frozen=True)
class Description:
    """A whole testbed."""

    name: str
    sites: tuple[SiteDescription, ...]
    environments: tuple[KadeployEnvironment, ...]
    switch: SwitchKind  #: what forwards broadcasts in KaVLANs; see `g5kvirt.testbeds.local.switch`
    _plain: str = field(repr=False)  #: `to_plain` as canonical JSON

    @cached_property
    def _sites(self) -> dict[str, SiteDescription]:
        return {site.name: site for site in self.sites}

    @cached_property
    def _nodes(self) -> dict[str, NodeDescription]:
        return {node.fqdn: node for node in self.nodes}

    @cached_property
    def _vlans(self) -> dict[tuple[str, int], Vlan]:
        return {(vlan.site, vlan.id): vlan for site in self.sites for vlan in site.vlans}

    @cached_property
    def _globals(self) -> dict[int, Vlan]:
        return {site.global_vlan.id: site.global_vlan for site in self.sites}

    @property
    def nodes(self) -> tuple[NodeDescription, ...]:
        """All nodes of all sites."""
        return tuple(node for site in self.sites for node in site.nodes)

    @property
    def version(self) -> str:
        """Forty hexadecimal digits, a hash of the description, like that of a commit."""
        return hashlib.sha256(self._plain.encode()).hexdigest()[:40]

    def site(self, name: str) -> SiteDescription:
        """The site ``name``; KeyError if there is none."""
        return self._sites[name]

    def node(self, name: str) -> NodeDescription:
        """The node with this name, or this KaVLAN name; KeyError if there is none."""
        match = _NODE_NAME.fullmatch(name)
        if match is None:
            raise KeyError(name)
        return self._nodes[f"{match[1]}.{match[3]}.{DOMAIN}"]

    def vlan(self, site: str, vlan: int) -> Vlan:
        """The vlan with this id on ``site``: its own, or a global one of any site; KeyError if none."""
        return self._vlans.get((site, vlan)) or self._globals[vlan]

    def vlans_of(self, site: str) -> tuple[Vlan, ...]:
        """All vlans that nodes of ``site`` can join: its local and routed ones, and all global ones."""
        return (*self._sites[site].vlans[:-1], *self._globals.values())

    def kavlan_ip(self, node: NodeDescription, vlan: int) -> IPv4Address:
        """Address of a node in a vlan; KeyError if the node cannot join it."""
        return _address_in(self.vlan(node.site, vlan), node.index, self._sites[node.site].index)

    def names(self) -> dict[str, IPv4Address]:
        """All host names of the testbed with their addresses."""
        return dict(self._names())

    def _names(self) -> Iterator[tuple[str, IPv4Address]]:
        for site in self.sites:
            for prefix in ("", "frontend.", "oardb.", "dns."):
                yield prefix + site.fqdn, site.gateway
            vlans = self.vlans_of(site.name)
            for vlan in vlans:
                if vlan.kind == "local":  # only reachable through its ssh gateway
                    yield f"kavlan-{vlan.id}.{site.fqdn}", site.gateway
            for node in site.nodes:
                yield node.fqdn, node.ip
                for vlan in vlans:
                    yield node.kavlan_name(vlan.id), _address_in(vlan, node.index, site.index)

    def to_plain(self) -> dict[str, Any]:
        """The complete contents of a description file, as JSON data; `from_plain` is the inverse."""
        plain: dict[str, Any] = json.loads(self._plain)
        return plain


def _address_in(vlan: Vlan, node_index: int, site_index: int) -> IPv4Address:
    part = 1024 * site_index if vlan.kind == "global" else 0
    return vlan.network[part + node_index]
