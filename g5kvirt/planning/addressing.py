"""Which addresses VMs and service machines get.

All sites' sub-networks lie in one VM network, the smallest that holds them all: every VM is on-link
with every other in the global KaVLAN, while its address still tells its site. Of each sub-network the
first address (network), the last (broadcast) and the last but one (gateway) stay free, as in 2013.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network

import numpy as np
from numpy.typing import NDArray

from g5kvirt.errors import CapacityError, SpecError
from g5kvirt.inventory import SubNetwork

__all__ = [
    "addresses_for",
    "as_array",
    "covering",
    "free_addresses",
    "neighbour_tables",
    "parts_by_site",
    "subnetwork_prefix",
    "usable",
]

Addresses = NDArray[np.uint32]

_LEFT_OUT = 3  #: network, gateway, broadcast


def covering(networks: Iterable[IPv4Network]) -> IPv4Network:
    """The smallest network that holds all ``networks``; SpecError if there is none."""
    all_of_them = list(networks)
    if not all_of_them:
        raise SpecError("there is no sub-network: reserve at least one for each site that carries VMs")
    low = min(int(n.network_address) for n in all_of_them)
    high = max(int(n.broadcast_address) for n in all_of_them)
    prefix = 32 - (low ^ high).bit_length()
    return IPv4Network((low >> (32 - prefix) << (32 - prefix), prefix))


def usable(network: IPv4Network) -> int:
    """How many addresses of a sub-network can be given away."""
    return max(0, network.num_addresses - _LEFT_OUT)


def subnetwork_prefix(addresses: int) -> int:
    """The size of sub-network to reserve on a site for so many VMs and services: 22 … 16.

    OAR gives one of them as ``slash_22=1``. Raises CapacityError if not even a /16 holds them.
    """
    for prefix in range(22, 15, -1):
        if addresses <= (room := usable(IPv4Network((0, prefix)))):
            return prefix
    raise CapacityError(
        f"{addresses} addresses at one site are more than its largest sub-network has (a /16: {room})",
        asked=addresses,
        available=room,
        advice="ask for fewer VMs or spread them over more sites",
    )


def as_array(addresses: Iterable[IPv4Address]) -> Addresses:
    """Addresses as numbers."""
    return np.fromiter((int(a) for a in addresses), dtype=np.uint32)


def parts_by_site(subnetworks: Iterable[SubNetwork]) -> dict[str, list[SubNetwork]]:
    """The sub-networks of each site, in order of address.

    Raises SpecError if two of them overlap: addresses would be given twice.
    """
    parts: dict[str, list[SubNetwork]] = {}
    last: SubNetwork | None = None
    for part in sorted(subnetworks, key=lambda s: s.network):
        if last is not None and part.network.overlaps(last.network):
            raise SpecError(
                f"the sub-networks {last.network} ({last.site}) and {part.network} ({part.site}) overlap: "
                "reserve sub-networks that do not"
            )
        parts.setdefault(part.site, []).append(part)
        last = part
    return parts


def free_addresses(parts: Sequence[SubNetwork], taken: Addresses, at_most: int) -> Addresses:
    """Up to ``at_most`` addresses of one site's sub-networks, in order.

    Left out: each sub-network's network, gateway and broadcast address, the gateway it names (wherever
    that lies) and ``taken``.
    """
    out: list[Addresses] = []
    missing = at_most
    gateways = [int(p.gateway) for p in parts if p.gateway is not None]
    excluded = np.unique(np.concatenate([taken, np.asarray(gateways, np.uint32)]))
    for part in parts:
        if missing <= 0:
            break
        first = int(part.network.network_address) + 1
        last = int(part.network.broadcast_address) - 2
        if last < first:
            continue
        inside = excluded[(excluded >= first) & (excluded <= last)]
        # no more than can be asked for: a /8 must not cost 64 MB for ten VMs
        stop = min(last, first + missing + len(inside) - 1)
        candidates = np.arange(first, stop + 1, dtype=np.uint32)
        free = candidates[~np.isin(candidates, inside)][:missing] if len(inside) else candidates[:missing]
        out.append(free)
        missing -= len(free)
    return np.concatenate(out) if out else np.empty(0, np.uint32)


def addresses_for(
    wanted: Mapping[str, int], subnetworks: Iterable[SubNetwork], taken: Iterable[IPv4Address] = ()
) -> dict[str, Addresses]:
    """So many addresses for each site (``wanted``: site → number), all different, none of ``taken``.

    Raises CapacityError with the numbers if a site's sub-networks hold too few.
    """
    parts = parts_by_site(subnetworks)
    reserved = as_array(taken)
    found: dict[str, Addresses] = {}
    for site, number in wanted.items():
        own = parts.get(site, [])
        found[site] = free_addresses(own, reserved, number)
        if len(found[site]) < number:
            held = ", ".join(str(p.network) for p in own) or "none"
            left_out = sum(usable(p.network) for p in own) - len(found[site])
            raise CapacityError(
                f"{number} addresses are needed on {site} but its sub-networks ({held}) have only "
                f"{len(found[site])} free: reserve room for {number + max(0, left_out)} addresses there",
                asked=number,
                available=len(found[site]),
            )
    return found


def neighbour_tables(machines: int) -> dict[str, int]:
    """Kernel settings with which a machine remembers the MAC addresses of ``machines`` others (at least 1).

    On one flat network a service machine hears from every VM, and any machine may speak with any other. Up
    to gc_thresh1 entries the kernel forgets none by itself; above gc_thresh2 it drops whatever was not used
    for five seconds; at gc_thresh3 it refuses new ones ("neighbor table overflow") and packets are lost
    (Linux, Documentation/networking/ip-sysctl.rst). So the first is the next power of two that holds them
    all, but not less than the kernel's own hard limit, 1024; the second leaves as much room again for the
    machines' further addresses, and for neighbours that do not answer, the third twice that. One table
    for IPv4 and one for IPv6: a VM's firmware asks for a router there.
    """
    first = max(1024, 1 << (machines - 1).bit_length())
    sizes = {"gc_thresh1": first, "gc_thresh2": 2 * first, "gc_thresh3": 4 * first}
    return {f"net.{ip}.neigh.default.{key}": size for ip in ("ipv4", "ipv6") for key, size in sizes.items()}
