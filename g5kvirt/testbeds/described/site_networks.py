"""The networks of the real sites and the name of their largest cluster, from the tables in ``data/``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv4Network

from g5kvirt import data_tables

__all__ = ["CLUSTER_NAME", "SiteNetworks", "site_networks"]

CLUSTER_NAME = re.compile(r"[a-z]{1,24}[0-9]{0,6}")  #: valid cluster names for execo: no hyphen


@dataclass(frozen=True)
class SiteNetworks:
    """The networks that Grid'5000 assigns to a site."""

    index: int  #: row of the table, from 1
    production: IPv4Network
    subnets: IPv4Network
    subnets_gateway: IPv4Address
    local: tuple[tuple[int, IPv4Network], ...]
    routed: tuple[tuple[int, IPv4Network], ...]
    global_: tuple[int, IPv4Network]
    cluster: str  #: the site's largest cluster


def _pairs(text: str) -> tuple[tuple[int, IPv4Network], ...]:
    """``"4=10.16.0.0/18 5=10.16.64.0/18"`` → ids with their networks."""
    return tuple((int(i), IPv4Network(n)) for i, _, n in (pair.partition("=") for pair in text.split()))


def _largest_clusters() -> dict[str, str]:
    """The largest cluster of each site in 2013 (as in the large VM runs), or in 2026 if it had none then."""
    clusters: dict[str, str] = {}
    for table, column in (("clusters_2013.csv", "nodes_2013_07_01"), ("clusters_2026.csv", "nodes")):
        largest: dict[str, tuple[int, str]] = {}
        for row in data_tables.rows(table):
            size = int(row[column] or 0)
            if CLUSTER_NAME.fullmatch(row["cluster"]) and size > largest.get(row["site"], (0, ""))[0]:
                largest[row["site"]] = (size, row["cluster"])
        clusters = {site: name for site, (_, name) in largest.items()} | clusters
    return clusters


@cache
def site_networks() -> dict[str, SiteNetworks]:
    """The sites that have networks and a cluster, by name; the mapping is shared, do not modify it."""
    clusters = _largest_clusters()
    sites = {}
    for index, row in enumerate(data_tables.rows("sites_2026.csv"), 1):
        # The repository has two production networks, which differ for Louvain: use the one no other site has.
        if not row["prod_network_ipv4yaml"] or row["site"] not in clusters:
            continue
        sites[row["site"]] = SiteNetworks(
            index=index,
            production=IPv4Network(row["prod_network_ipv4yaml"]),
            subnets=IPv4Network(row["g5ksubnet"]),
            subnets_gateway=IPv4Address(row["g5ksubnet_gateway"]),
            local=_pairs(row["kavlan_local"]),
            routed=_pairs(row["kavlan_routed"]),
            global_=_pairs(row["kavlan_global"])[0],
            cluster=clusters[row["site"]],
        )
    return sites
