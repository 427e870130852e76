"""VMs, a cluster and a server for the tests of Kadeploy3; golden files."""

from __future__ import annotations

import os
from ipaddress import IPv4Address
from pathlib import Path

from g5kvirt.inventory import VM
from g5kvirt.provisioners.kadeploy3.configuration import NetbootFiles, NodeCluster, Server, nodes_of

GOLDEN = Path(__file__).parents[1] / "unit" / "golden" / "kadeploy3"
SERVER = Server(
    hostname="paradent-9.rennes.grid5000.fr",
    netboot=NetbootFiles("/var/lib/g5kvirt/www/kadeploy3", "10.158.0.1/kadeploy3"),
    password="0123456789abcdef0123456789abcdef",
)


def vms(number: int, hosts: int = 3) -> list[VM]:
    """VMs assigned to hosts in turn; the first half of the hosts is in nancy."""
    made = []
    for i in range(number):
        h = i % hosts
        site = "nancy" if h < hosts / 2 else "rennes"
        mac = f"52:54:00:00:{i >> 8:02x}:{i & 255:02x}"
        host = f"node-{h + 1}.{site}.grid5000.fr"
        made.append(VM(i + 1, f"vm-{i + 1}", host, site, IPv4Address(0x0A9E0101 + i), mac))
    return made


def cluster(number: int = 4, hosts: int = 3) -> NodeCluster:
    """So many VMs as a cluster."""
    return NodeCluster(nodes_of(vms(number, hosts)))


def addresses(of: NodeCluster) -> dict[str, str]:
    """Where the hosts of these VMs are reached, inside a VLAN."""
    return {node.vm.host: node.vm.host.replace(".", "-kavlan-14.", 1) for node in of.nodes}


def same_as_golden(name: str, text: str) -> None:
    """Compare with the golden file; ``GOLDEN=write`` in the environment writes it instead."""
    path = GOLDEN / name
    if os.environ.get("GOLDEN") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, (
        f"{path} differs: check the difference, then update it with GOLDEN=write"
    )
