"""The output of g5k-subnets for the subnets of a job. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from typing import Any

from g5kvirt.testbeds.described.model import SiteDescription

__all__ = ["subnet_lines", "subnet_mac"]


def subnet_mac(address: IPv4Address) -> str:
    """The unique MAC address that belongs to an address of a subnet."""
    return "00:16:3E:" + ":".join(f"{byte:02X}" for byte in address.packed[1:])


def subnet_lines(
    site: SiteDescription, subnets: Sequence[IPv4Network], options: Mapping[str, Any]
) -> Iterator[str]:
    """The lines of g5k-subnets: one per subnet, or with ``ips`` one per address; tab-separated fields."""
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
                yield "\t".join(
                    [str(address), *ending, *([subnet_mac(address)] if options.get("macs") else [])]
                )
        elif options.get("ip-prefix") or everything:
            yield "\t".join([str(subnet), *ending])
        else:
            yield "\t".join(ending or [str(subnet.network_address)])
