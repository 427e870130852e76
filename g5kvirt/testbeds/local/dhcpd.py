"""The DHCP server of each KaVLAN: ISC dhcpd on the bridge of its gateway, in the site's container.

Its configuration has the form of Grid'5000's: authoritative for the network of the KaVLAN, without a range,
one host entry for the MAC address of each node that may join (in a global KaVLAN, the nodes of all sites). So
it has no address for a VM; but it refuses (DHCPNAK) whatever address of another network a machine requests,
also one that another server has offered. The nodes' addresses here are set without it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from g5kvirt.testbeds.described.model import DOMAIN, Description, NodeDescription, Vlan
from g5kvirt.testbeds.local import network
from g5kvirt.testbeds.local.spawner import Container

__all__ = ["DIRECTORY", "DhcpServers", "configuration", "service_name"]

#: In the site's container: configurations, leases (always empty, as all addresses are fixed) and pid files.
DIRECTORY = "/run/dhcpd"


def _members(description: Description, vlan: Vlan) -> tuple[NodeDescription, ...]:
    return description.nodes if vlan.kind == "global" else description.site(vlan.site).nodes


def configuration(description: Description, vlan: Vlan) -> str:
    """dhcpd.conf(5) of a KaVLAN."""
    hosts = "".join(
        f"host {node.uid}.{node.site} {{\n"
        f"  hardware ethernet {node.mac};\n"
        f"  fixed-address {description.kavlan_ip(node, vlan.id)};\n"
        f'  option host-name "{node.kavlan_name(vlan.id).partition(".")[0]}";\n'
        f'  option domain-name "{node.site}.{DOMAIN}";\n'
        "}\n"
        for node in _members(description, vlan)
    )
    return f"""\
# KaVLAN {vlan.id} of {vlan.site}
authoritative;
ddns-update-style none;
default-lease-time 86400;
max-lease-time 86400;

subnet {vlan.network.network_address} netmask {vlan.network.netmask} {{
  option subnet-mask {vlan.network.netmask};
  option broadcast-address {vlan.network.broadcast_address};
  option routers {vlan.gateway};
  option domain-name-servers {vlan.gateway};
}}

{hosts}"""


def service_name(vlan: Vlan) -> str:
    """What the site's container calls the server of a KaVLAN."""
    return f"dhcpd {network.bridge_name(vlan.id)}"


def _command(vlan: Vlan) -> list[str]:
    """In the foreground, its log on standard error."""
    bridge = network.bridge_name(vlan.id)
    files = [("-cf", "conf"), ("-lf", "leases"), ("-pf", "pid")]
    options = [word for flag, kind in files for word in (flag, f"{DIRECTORY}/{bridge}.{kind}")]
    return ["/usr/sbin/dhcpd", "-4", "-f", "-d", *options, bridge]


def _folder(container: Container) -> Path:
    """`DIRECTORY`, as seen from the daemon."""
    return Path(f"/proc/{container.pid}/root{DIRECTORY}")


class DhcpServers:
    """The servers of all KaVLANs that exist; one that dies is started again by its container. Thread-safe."""

    def __init__(self, description: Description, router: Callable[[str], Container]) -> None:
        self._description = description
        self._router = router  # site name → its container
        self._lock = threading.Lock()
        self._running: set[tuple[str, int]] = set()

    def start(self, vlan: Vlan) -> None:
        """Start the server of a KaVLAN, whose bridge exists, unless it runs. Raises TestbedError, OSError."""
        with self._lock:
            if (vlan.site, vlan.id) in self._running:
                return
            container = self._router(vlan.site)
            folder = _folder(container)
            folder.mkdir(exist_ok=True)
            bridge = network.bridge_name(vlan.id)
            (folder / f"{bridge}.conf").write_text(configuration(self._description, vlan))
            (folder / f"{bridge}.leases").touch()
            container.call(service=[service_name(vlan), _command(vlan), "root"])
            self._running.add((vlan.site, vlan.id))

    def stop(self, vlan: Vlan) -> None:
        """Stop the server of a KaVLAN, if it runs. Raises TestbedError."""
        with self._lock:
            if (vlan.site, vlan.id) in self._running:
                self._router(vlan.site).call(stop=service_name(vlan))
                self._running.discard((vlan.site, vlan.id))
