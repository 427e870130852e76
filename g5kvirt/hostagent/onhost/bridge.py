"""The host's bridge: the NIC becomes its port, addresses and routes move to it, and back at the end."""

from __future__ import annotations

import json
import os

from .interfaces import interface_names, ip_json
from .processes import run, run_checked
from .records import load_record, read_text, write_setting, write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .records import Record


def create_bridge(home: str, bridge: str, nic: str | None = None) -> Record:
    """Put the default NIC into a bridge that keeps its MAC; addresses and routes move in one ``ip -batch``.

    One batch, because the ssh connection of this request comes in through that very NIC.
    """
    known = load_record(f"{home}/bridge.json")
    every_route, links = ip_json("route show", "addr show")
    exists = any(link["ifname"] == bridge for link in links)
    link = link_named(links, nic) if nic else None
    if exists:
        ports = [link["ifname"] for link in links if link.get("master") == bridge]
        if known.get("nic") in ports or (link and link["ifname"] in ports):
            return {"unchanged": True, **known}
        if link is None and default_nic(every_route, links, bridge) == bridge:  # made by somebody else
            return {"unchanged": True, "bridge": bridge, "foreign": True}
    link = link or link_named(links, default_nic(every_route, links, bridge))
    nic = link["ifname"]
    addresses = [
        f"{a['local']}/{a['prefixlen']}"
        for a in link["addr_info"]
        if a["scope"] == "global" and not a.get("temporary")
    ]
    routes = [r for r in every_route if r.get("dev") == nic and r.get("protocol") != "kernel"]
    batch = [] if exists else [f"link add {bridge} type bridge"]
    batch += [
        f"link set {bridge} address {link['address']} mtu {link.get('mtu', 1500)}",
        f"link set {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        f"link set {bridge} up",
        f"link set {nic} master {bridge}",
        f"link set {nic} up",
        f"addr flush dev {nic} scope global",
        *assign_commands(bridge, addresses, without_metrics(routes)),
    ]
    record = {"bridge": bridge, "nic": nic, "mac": link["address"], "addresses": addresses, "routes": routes}
    write_text(f"{home}/bridge.json", json.dumps(record))
    try:
        run_checked(["ip", "-batch", "-"], "\n".join(batch) + "\n")
    except OSError:
        remove_bridge(home)
        raise
    return record


def remove_bridge(home: str) -> bool:
    """Give addresses and routes back to the NIC and remove the bridge; False if there is none of g5kvirt."""
    known = load_record(f"{home}/bridge.json")
    if not known:
        return False
    bridge, nic = known["bridge"], known["nic"]
    if bridge in interface_names() and nic in interface_names():
        batch = [f"link set {nic} nomaster", f"addr flush dev {bridge}", f"link del {bridge}"]
        run(
            ["ip", "-force", "-batch", "-"],
            "\n".join(batch + assign_commands(nic, known["addresses"], known["routes"])) + "\n",
        )
    os.remove(f"{home}/bridge.json")
    return True


def add_addresses(bridge: str, addresses: list[str]) -> Record:
    """Further addresses on the bridge (a service machine's address in the VM network)."""
    (links,) = ip_json(f"addr show dev {bridge}")
    there = {f"{a['local']}/{a['prefixlen']}" for a in links[0]["addr_info"]}
    missing = [a for a in addresses if a not in there]
    if any(":" in address for address in missing):
        enable_ipv6(bridge)
    if missing:
        run_checked(["ip", "-batch", "-"], "\n".join(assign_commands(bridge, missing, [])) + "\n")
    return {"unchanged": not missing, "addresses": list(addresses)}


def enable_ipv6(interface: str) -> None:
    """On a host without it: this one interface has it from here on."""
    path = f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"
    if read_text(path, "0").strip() != "0":
        write_setting(path, "0")


def link_named(links: list[Record], name: str) -> Record:
    """The interface of this name, or of this alternative name. Raises OSError."""
    for link in links:
        if name in (link["ifname"], *link.get("altnames", ())):
            return link
    raise OSError(f"this host has no interface {name}")


def default_nic(routes: list[Record], links: list[Record], bridge: str) -> str:
    """The interface of the default route, else the first Ethernet interface with an IPv4 address."""
    for route in routes:
        if route["dst"] == "default" and "dev" in route:
            return str(route["dev"])
    for link in links:
        has_address = any(address["family"] == "inet" for address in link["addr_info"])
        if link.get("link_type") == "ether" and has_address and link["ifname"] != bridge:
            return str(link["ifname"])
    raise OSError("this host has no default route and no Ethernet interface with an IPv4 address")


def without_metrics(routes: list[Record]) -> list[Record]:
    """The routes without their metric, unless two to the same destination differ only by it.

    The NIC's DHCP client is still there, and may set the earlier routes again, with their metric:
    then they would lead into a port of the bridge, and the host would be lost. Without one ours win.
    """
    places = [route["dst"] for route in routes]
    return [
        {k: v for k, v in route.items() if k != "metric" or places.count(route["dst"]) > 1}
        for route in routes
    ]


def assign_commands(device: str, addresses: Iterable[str], routes: Iterable[Record]) -> list[str]:
    """Batch lines that give ``device`` these addresses and routes."""
    lines = [f"addr replace {a} {'nodad' if ':' in a else 'brd +'} dev {device}" for a in addresses]
    for route in sorted(routes, key=lambda r: "gateway" in r):  # on-link routes first: gateways need them
        words = ["route replace", route["dst"]]
        for key, word in (("gateway", "via"), ("prefsrc", "src"), ("metric", "metric"), ("scope", "scope")):
            if key in route:
                words += [word, str(route[key])]
        lines.append(
            " ".join(words + ["dev", device] + (["onlink"] if "onlink" in route.get("flags", []) else []))
        )
    return lines
