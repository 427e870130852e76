"""What a local testbed consists of, as plain data: sites, nodes, vlans, environments, names.

Standard library only. `g5kvirt.testbeds.local.description` makes these from files and words.
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

__all__ = ["DOMAIN", "Description", "Environment", "Kind", "Node", "SiteDescription", "Vlan"]

DOMAIN = "grid5000.fr"

Kind = Literal["local", "routed", "global"]

_NODE_NAME = re.compile(r"([a-z]+[0-9]*-[1-9][0-9]*)(?:-kavlan-([1-9][0-9]*))?\.([a-z]+)\.grid5000\.fr")
_FRONTEND = re.compile(r"(?:(?:frontend|oardb|dns|kavlan-\d)\.)?([a-z]+)\.grid5000\.fr")


@dataclass(frozen=True)
class Environment:
    """An operating system that kadeploy3 knows by name."""

    name: str
    description: str = ""


@dataclass(frozen=True)
class Vlan:
    """A KaVLAN: each site has local (1–3) and routed ones (4–9), and a global one with an id of its own."""

    id: int
    kind: Kind
    site: str
    network: IPv4Network
    gateway: IPv4Address


@dataclass(frozen=True)
class Node:
    """A machine of the testbed. Memory in bytes, rates in bits per second."""

    uid: str  #: "graphene-1"
    site: str
    cluster: str
    index: int  #: 1, 2, … over the site
    number: int  #: 1, 2, … over the cluster, as in the name
    fqdn: str  #: "graphene-1.nancy.grid5000.fr"
    mac: str
    ip: IPv4Address  #: in the site's production network
    cores: int
    memory: int
    nic_rate: float

    def kavlan_name(self, vlan: int) -> str:
        """Its name once it is in KaVLAN ``vlan``: ``graphene-1-kavlan-14.nancy.grid5000.fr``."""
        return f"{self.uid}-kavlan-{vlan}.{self.site}.{DOMAIN}"

    def kavlan_ip(self, description: Description, vlan: int) -> IPv4Address:
        """Its address in KaVLAN ``vlan``.

        :raises KeyError: this node cannot be in that vlan.
        """
        return description.kavlan_ip(self, vlan)


@dataclass(frozen=True)
class SiteDescription:
    """A site: its networks and its nodes. Rates in bits per second, latency in seconds (one way)."""

    name: str
    index: int  #: the site's own number, the same in every description
    network: IPv4Network  #: production
    gateway: IPv4Address  #: router and frontend, seen from the site's nodes
    nodes: tuple[Node, ...]
    vlans: tuple[Vlan, ...]  #: local, routed, then the site's global one
    subnet_network: IPv4Network  #: all that may ever be reserved with slash_NN (a /14)
    subnet_gateway: IPv4Address
    subnet_pool: IPv4Network  #: what this testbed offers of it (a /18, sixteen /22)
    uplink_rate: float
    uplink_latency: float
    wan_ip: IPv4Address  #: of the router on its /24 of the backbone
    wan_gateway: IPv4Address  #: the backbone's end of the same /24

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
        """The site's own global KaVLAN."""
        return self.vlans[-1]


@dataclass(frozen=True)
class Description:
    """A whole testbed."""

    name: str
    sites: tuple[SiteDescription, ...]
    environments: tuple[Environment, ...]
    _plain: str = field(repr=False)  #: `to_plain` as canonical JSON

    @cached_property
    def _sites(self) -> dict[str, SiteDescription]:
        return {site.name: site for site in self.sites}

    @cached_property
    def _nodes(self) -> dict[str, Node]:
        return {node.fqdn: node for node in self.nodes}

    @cached_property
    def _vlans(self) -> dict[tuple[str, int], Vlan]:
        return {(vlan.site, vlan.id): vlan for site in self.sites for vlan in site.vlans}

    @cached_property
    def _globals(self) -> dict[int, Vlan]:
        return {site.global_vlan.id: site.global_vlan for site in self.sites}

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes of all sites."""
        return tuple(node for site in self.sites for node in site.nodes)

    @property
    def version(self) -> str:
        """Forty hexadecimal digits that differ between descriptions, as a commit's do."""
        return hashlib.sha256(self._plain.encode()).hexdigest()[:40]

    def site(self, name: str) -> SiteDescription:
        """The site ``name``; KeyError if there is none."""
        return self._sites[name]

    def node(self, name: str) -> Node:
        """The node called ``name``, which may be its KaVLAN name; KeyError if there is none."""
        match = _NODE_NAME.fullmatch(name)
        if match is None:
            raise KeyError(name)
        return self._nodes[f"{match[1]}.{match[3]}.{DOMAIN}"]

    def vlan(self, site: str, vlan: int) -> Vlan:
        """The vlan that ``site`` knows by this id: its own, or any site's global one; KeyError if none."""
        return self._vlans.get((site, vlan)) or self._globals[vlan]

    def vlans_of(self, site: str) -> tuple[Vlan, ...]:
        """All vlans that nodes of ``site`` may join: its local and routed ones, and every global one."""
        return (*self._sites[site].vlans[:-1], *self._globals.values())

    def kavlan_ip(self, node: Node, vlan: int) -> IPv4Address:
        """Address of a node in a vlan; KeyError if it cannot be in it."""
        return _address_in(self.vlan(node.site, vlan), node.index, self._sites[node.site].index)

    def names(self) -> dict[str, IPv4Address]:
        """Every name of the testbed with its address, as `resolve` gives it."""
        return dict(self._names())

    def _names(self) -> Iterator[tuple[str, IPv4Address]]:
        for site in self.sites:
            for prefix in ("", "frontend.", "oardb.", "dns."):
                yield prefix + site.fqdn, site.gateway
            vlans = self.vlans_of(site.name)
            for vlan in vlans:
                if vlan.kind == "local":  # nothing leads into it but an ssh gateway of its own
                    yield f"kavlan-{vlan.id}.{site.fqdn}", site.gateway
            for node in site.nodes:
                yield node.fqdn, node.ip
                for vlan in vlans:
                    yield node.kavlan_name(vlan.id), _address_in(vlan, node.index, site.index)

    def resolve(self, name: str) -> IPv4Address:
        """Address of a frontend or node, by its production or KaVLAN name.

        :raises KeyError: the testbed has no such name.
        """
        if match := _FRONTEND.fullmatch(name):
            return self._sites[match[1]].gateway
        node = self.node(name)
        match = _NODE_NAME.fullmatch(name)
        if match is None or match[2] is None:
            return node.ip
        return self.kavlan_ip(node, int(match[2]))

    def to_plain(self) -> dict[str, Any]:
        """What a description file would say, complete, fit for JSON; `from_plain` turns it back."""
        plain: dict[str, Any] = json.loads(self._plain)
        return plain


def _address_in(vlan: Vlan, node_index: int, site_index: int) -> IPv4Address:
    part = 1024 * site_index if vlan.kind == "global" else 0
    return vlan.network[part + node_index]
