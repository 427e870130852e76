"""Documents of the reference API for a local testbed, made from its description. Pure.

`documents` returns every document by its path; `g5kvirt.testbeds.local.rest` serves them. They contain the
fields that execo_g5k reads (api_utils, planning, topology, utils) in the format of the real API. The network
is described as it is built: the nodes of a site are connected to one router, the routers to one backbone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from g5kvirt.testbeds.described.model import Description, NodeDescription, SiteDescription

__all__ = ["QUEUES", "ROOT", "collection", "cpu_count", "documents", "link"]

ROOT = "/3.0"  #: prefix of all links; exactly one path component, because execo strips one
QUEUES = ("admin", "default", "besteffort")
# A node of a local testbed is a share of this machine. The value is not measured: execo only compares nodes
# by it, so it is plainly one billion per core.
_FLOPS_PER_CORE = 10**9
_ROUTER_BACKPLANE = 10**12

Document = dict[str, Any]


def link(*parts: object, rel: str = "self") -> Document:
    """A link to the document at ``parts``."""
    return {"rel": rel, "href": "/".join((ROOT, *map(str, parts))), "type": "application/json"}


def collection(items: Sequence[Document], version: str, *path: object) -> Document:
    """A document that lists several others."""
    return {
        "items": list(items),
        "total": len(items),
        "offset": 0,
        "links": [link(*path)],
        "version": version,
    }


def cpu_count(node: NodeDescription) -> int:
    """Number of CPUs of a node: two if it has more than four cores and an even number of them."""
    return 2 if node.cores > 4 and node.cores % 2 == 0 else 1


def documents(description: Description) -> dict[str, Document]:
    """Every reference document by its path below `ROOT`: ``""``, ``"sites"``, ``"sites/nancy"`` and so on."""
    version = description.version
    by_path: dict[str, Document] = {}

    def add(items: list[Document], *path: str) -> None:
        base = "/".join(path)
        by_path[base] = collection(items, version, *path)
        for item in items:
            item["version"] = version
            item["links"] = [link(*path, item["uid"])]
            by_path[f"{base}/{item['uid']}"] = item

    add([_site(site) for site in description.sites], "sites")
    for site in description.sites:
        at = ("sites", site.name)
        add([_cluster(name) for name in site.clusters], *at, "clusters")
        for cluster in site.clusters:
            nodes = [_node(node, site) for node in site.nodes if node.cluster == cluster]
            add(nodes, *at, "clusters", cluster, "nodes")
        add([_router(site)], *at, "network_equipments")
        vlans = [{"uid": str(v.id), "type": _oar_type(v.kind), "network": str(v.network)} for v in site.vlans]
        add(vlans, *at, "vlans")
        add([_dns(site)], *at, "servers")
    add(_backbone(description), "network_equipments")
    by_path[""] = {
        "uid": "grid5000",
        "type": "grid",
        "version": version,
        "links": [link(), link("sites", rel="sites")],
    }
    return by_path


def _oar_type(kind: str) -> str:
    return "kavlan" if kind == "routed" else f"kavlan-{kind}"


def _site(site: SiteDescription) -> Document:
    networks = {"default": {"network": str(site.network), "gateway": str(site.gateway)}}
    for vlan in site.vlans:
        networks[str(vlan.id)] = {"network": str(vlan.network), "gateway": str(vlan.gateway)}
    return {
        "uid": site.name,
        "type": "site",
        "name": site.name.title(),
        "production": True,
        "frontend_ip": str(site.gateway),
        "g5ksubnet": {"network": str(site.subnet_network), "gateway": str(site.subnet_gateway)},
        "kavlans": networks,
        # enoslib numbers its networks by it, although there is no IPv6 here
        "ipv6": {"site_index": site.index},
        "compute_nodes": len(site.nodes),
    }


def _dns(site: SiteDescription) -> Document:
    return {
        "uid": "dns",
        "type": "server",
        "kind": "virtual",
        "network_adapters": {"default": {"ip": str(site.gateway)}},
    }


def _cluster(name: str) -> Document:
    return {
        "uid": name,
        "type": "cluster",
        "model": "g5kvirt local testbed",
        "queues": list(QUEUES),
        "exotic": False,
        "kavlan": True,
    }


def _node(node: NodeDescription, site: SiteDescription) -> Document:
    return {
        "uid": node.uid,
        "type": "node",
        "architecture": {
            "nb_cores": node.cores,
            "nb_procs": cpu_count(node),
            "nb_threads": node.cores,
            "platform_type": "x86_64",
        },
        "main_memory": {"ram_size": node.memory},
        "performance": {
            "core_flops": _FLOPS_PER_CORE,
            "node_flops": _FLOPS_PER_CORE * node.cores,
        },
        "supported_job_types": {"deploy": True, "besteffort": True, "queues": list(QUEUES)},
        "exotic": False,
        "network_adapters": [
            {
                "device": "eth0",
                "name": "eth0",
                "interface": "Ethernet",
                "management": False,
                "mountable": True,
                "mounted": True,
                "enabled": True,
                "kavlan": True,
                "rate": int(node.nic_rate),
                "mac": node.mac,
                "ip": str(node.ip),
                "network_address": node.fqdn,
                "switch": _router_name(site),
                "switch_port": f"1/{node.index}",
            }
        ],
    }


def _router_name(site: SiteDescription) -> str:
    return f"gw-{site.name}"


def _router(site: SiteDescription) -> Document:
    ports: list[Document] = [
        {"uid": node.uid, "port": "eth0", "kind": "node", "rate": int(node.nic_rate)} for node in site.nodes
    ]
    ports.append({"uid": f"renater-{site.name}", "kind": "virtual", "rate": int(site.uplink_rate)})
    return {
        "uid": _router_name(site),
        "type": "network_equipment",
        "kind": "router",
        "model": "g5kvirt local testbed",
        "site": site.name,
        "ip": str(site.gateway),
        "backplane_bps": _ROUTER_BACKPLANE,
        "channels": {},
        # Only the vlans of this site, which its OAR schedules: execo's planning considers a listed vlan to be
        # free if it is in no job of this site.
        "vlans": {
            str(vlan.id): {
                "name": f"kavlan-{vlan.id}",
                "addresses": [f"{vlan.network.network_address}/{vlan.network.prefixlen}"],
                "gateway": str(vlan.gateway),
            }
            for vlan in site.vlans
        },
        "linecards": [
            {
                "rate": max(int(port["rate"]) for port in ports),
                "backplane_bps": _ROUTER_BACKPLANE,
                "kind": "node",
                "ports": ports,
            }
        ],
    }


def _backbone(description: Description) -> list[Document]:
    def equipment(uid: str, ports: list[Document]) -> Document:
        return {
            "uid": uid,
            "type": "network_equipment",
            "kind": "virtual",
            "site": None,
            "backplane_bps": _ROUTER_BACKPLANE,
            "linecards": [{"rate": max(int(port["rate"]) for port in ports), "ports": ports}],
        }

    def port(uid: str, site: SiteDescription) -> Document:
        return {"uid": uid, "kind": "renater", "rate": int(site.uplink_rate), "latency": site.uplink_latency}

    hub = f"renater-{description.name}"
    if hub.removeprefix("renater-") in {site.name for site in description.sites}:
        hub += "-backbone"
    equipments = [equipment(hub, [port(f"renater-{site.name}", site) for site in description.sites])]
    equipments += [equipment(f"renater-{site.name}", [port(hub, site)]) for site in description.sites]
    return equipments
