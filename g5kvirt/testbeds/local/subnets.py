"""What g5k-subnets prints about a job's subnets. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from typing import Any

from g5kvirt.testbeds.local.model import SiteDescription

__all__ = ["mac_of", "subnet_lines"]


def mac_of(address: IPv4Address) -> str:
    """The MAC address that goes with an address of a subnet: each has one of its own."""
    return "00:16:3E:" + ":".join(f"{byte:02X}" for byte in address.packed[1:])


def subnet_lines(
    site: SiteDescription, subnets: Sequence[IPv4Network], options: Mapping[str, Any]
) -> Iterator[str]:
    """What g5k-subnets prints: a line a subnet, or with ``ips`` a line an address; fields by tabs."""
    if options.get("summary"):
        subnets = list(collapse_addresses(subnets))
    network = site.subnet_network
    everything = options.get("all")
    tail = {
        "broadcast": [str(network.broadcast_address)],
        "netmask": [str(network.netmask)],
        "gateway": [str(site.subnet_gateway)],
        "network": [str(network.network_address)],
        "dns": [f"dns.{site.fqdn}", str(site.gateway)],
    }
    ending = [field for name, fields in tail.items() if options.get(name) or everything for field in fields]
    for subnet in subnets:
        if options.get("ips"):
            for address in subnet.hosts():
                yield "\t".join([str(address), *ending, *([mac_of(address)] if options.get("macs") else [])])
        elif options.get("ip-prefix") or everything:
            yield "\t".join([str(subnet), *ending])
        else:
            yield "\t".join(ending or [str(subnet.network_address)])
