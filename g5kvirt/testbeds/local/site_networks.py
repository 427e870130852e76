"""The networks of the real sites and the name of each one's largest cluster, from the project's tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv4Network

from g5kvirt import data_tables

__all__ = ["CLUSTER_NAME", "SiteNetworks", "site_networks"]

CLUSTER_NAME = re.compile(r"[a-z]{1,24}[0-9]{0,6}")  #: what execo takes for a cluster: no hyphen


@dataclass(frozen=True)
class SiteNetworks:
    """What Grid'5000 gives a site."""

    index: int  #: the line of the table, from 1
    production: IPv4Network
    subnets: IPv4Network
    subnets_gateway: IPv4Address
    local: tuple[tuple[int, IPv4Network], ...]
    routed: tuple[tuple[int, IPv4Network], ...]
    global_: tuple[int, IPv4Network]
    cluster: str  #: the site's largest cluster


def _pairs(text: str) -> tuple[tuple[int, IPv4Network], ...]:
    """``"4=10.16.0.0/18 5=10.16.64.0/18"`` → ids with their networks."""
    return tuple((int(i), IPv4Network(n)) for i, _, n in (word.partition("=") for word in text.split()))


def _largest_clusters() -> dict[str, str]:
    """The largest cluster of 2013, where the site had one (the large VM runs used those), else of 2026."""
    found: dict[str, str] = {}
    for table, column in (("clusters_2013.csv", "nodes_2013_07_01"), ("clusters_2026.csv", "nodes")):
        largest: dict[str, tuple[int, str]] = {}
        for row in data_tables.rows(table):
            size = int(row[column] or 0)
            if CLUSTER_NAME.fullmatch(row["cluster"]) and size > largest.get(row["site"], (0, ""))[0]:
                largest[row["site"]] = (size, row["cluster"])
        found = {site: name for site, (_, name) in largest.items()} | found
    return found


@cache
def site_networks() -> dict[str, SiteNetworks]:
    """The sites that have networks and a cluster, by name; do not change the mapping."""
    clusters = _largest_clusters()
    found = {}
    for index, row in enumerate(data_tables.rows("sites_2026.csv"), 1):
        # Of the repository's two production networks, which differ for Louvain, the one no other site has.
        if not row["prod_network_ipv4yaml"] or row["site"] not in clusters:
            continue
        found[row["site"]] = SiteNetworks(
            index=index,
            production=IPv4Network(row["prod_network_ipv4yaml"]),
            subnets=IPv4Network(row["g5ksubnet"]),
            subnets_gateway=IPv4Address(row["g5ksubnet_gateway"]),
            local=_pairs(row["kavlan_local"]),
            routed=_pairs(row["kavlan_routed"]),
            global_=_pairs(row["kavlan_global"])[0],
            cluster=clusters[row["site"]],
        )
    return found
