"""Address allocation for VMs and service machines.

The sub-networks of all sites are in one VM network, the smallest that contains them all: in the global KaVLAN
every VM is on-link with every other, and its address still shows its site. In each sub-network the first
address (network), the last (broadcast) and the last but one (gateway) remain unused, as in 2013.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network

import numpy as np
from numpy.typing import NDArray

from g5kvirt.errors import CapacityError, SpecError
from g5kvirt.inventory import SubNetwork

__all__ = [
    "address_array",
    "allocate_addresses",
    "covering_network",
    "free_addresses",
    "neighbour_tables",
    "subnetwork_prefix",
    "subnetworks_by_site",
    "usable_addresses",
]

Addresses = NDArray[np.uint32]

_UNUSABLE = 3  #: network, gateway, broadcast


def covering_network(networks: Iterable[IPv4Network]) -> IPv4Network:
    """The smallest network that contains all ``networks``; SpecError if they are empty."""
    parts = list(networks)
    if not parts:
        raise SpecError("there is no sub-network", advice="reserve at least one for each site with VMs")
    low = min(int(n.network_address) for n in parts)
    high = max(int(n.broadcast_address) for n in parts)
    prefix = 32 - (low ^ high).bit_length()
    return IPv4Network((low >> (32 - prefix) << (32 - prefix), prefix))


def usable_addresses(network: IPv4Network) -> int:
    """Number of addresses in a sub-network that can be allocated."""
    return max(0, network.num_addresses - _UNUSABLE)


def subnetwork_prefix(addresses: int) -> int:
    """Prefix length of the sub-network to reserve on a site for so many VMs and services: 22 … 16.

    For example, ``slash_22=1`` requests one from OAR. Raises CapacityError if a /16 is too small.
    """
    for prefix in range(22, 15, -1):
        if addresses <= (room := usable_addresses(IPv4Network((0, prefix)))):
            return prefix
    raise CapacityError(
        f"{addresses} addresses at one site are more than its largest sub-network has (a /16: {room})",
        requested=addresses,
        available=room,
        advice="request fewer VMs or spread them over more sites",
    )


def address_array(addresses: Iterable[IPv4Address]) -> Addresses:
    """Addresses as an array of integers."""
    return np.fromiter((int(a) for a in addresses), dtype=np.uint32)


def subnetworks_by_site(subnetworks: Iterable[SubNetwork]) -> dict[str, list[SubNetwork]]:
    """The sub-networks of each site, in address order.

    Raises SpecError if two of them overlap, because addresses would be allocated twice.
    """
    parts: dict[str, list[SubNetwork]] = {}
    last: SubNetwork | None = None
    for part in sorted(subnetworks, key=lambda s: s.network):
        if last is not None and part.network.overlaps(last.network):
            raise SpecError(
                f"the sub-networks {last.network} ({last.site}) and {part.network} ({part.site}) overlap",
                advice="reserve disjoint sub-networks",
            )
        parts.setdefault(part.site, []).append(part)
        last = part
    return parts


def free_addresses(parts: Sequence[SubNetwork], taken: Addresses, at_most: int) -> Addresses:
    """Up to ``at_most`` addresses of the sub-networks of one site, in order.

    Excluded are the network, gateway and broadcast address of each sub-network, its configured gateway
    (which may be anywhere) and ``taken``.
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
        # limited to the number needed: a /8 must not cost 64 MB for ten VMs
        stop = min(last, first + missing + len(inside) - 1)
        candidates = np.arange(first, stop + 1, dtype=np.uint32)
        free = candidates[~np.isin(candidates, inside)][:missing] if len(inside) else candidates[:missing]
        out.append(free)
        missing -= len(free)
    return np.concatenate(out) if out else np.empty(0, np.uint32)


def allocate_addresses(
    wanted: Mapping[str, int], subnetworks: Iterable[SubNetwork], taken: Iterable[IPv4Address] = ()
) -> dict[str, Addresses]:
    """Addresses for each site (``wanted``: site → number), all distinct, none of ``taken``.

    Raises CapacityError with the numbers if the sub-networks of a site have too few.
    """
    parts = subnetworks_by_site(subnetworks)
    reserved = address_array(taken)
    allocated: dict[str, Addresses] = {}
    for site, number in wanted.items():
        own = parts.get(site, [])
        allocated[site] = free_addresses(own, reserved, number)
        if len(allocated[site]) < number:
            networks = ", ".join(str(p.network) for p in own) or "none"
            excluded = sum(usable_addresses(p.network) for p in own) - len(allocated[site])
            raise CapacityError(
                f"{number} addresses are needed on {site} but its sub-networks ({networks}) have only "
                f"{len(allocated[site])} free",
                requested=number,
                available=len(allocated[site]),
                advice=f"reserve {number + max(0, excluded)} addresses there",
            )
    return allocated


def neighbour_tables(machines: int) -> dict[str, int]:
    """Kernel settings for neighbour tables that keep the MAC addresses of ``machines`` others (at least 1).

    On one flat network every VM contacts a service machine, and any machine may communicate with any other.
    Up to gc_thresh1 entries the kernel discards none; above gc_thresh2 it drops entries unused for five
    seconds; at gc_thresh3 it rejects new ones ("neighbor table overflow") and packets are lost (Linux,
    Documentation/networking/ip-sysctl.rst). Therefore the first is the next power of two that is sufficient,
    but at least the default hard limit of the kernel, 1024; the second is twice that, for further addresses
    of the machines and for neighbours that do not respond; the third is four times the first. They apply to
    IPv4 and to IPv6, where the firmware of a VM solicits a router.
    """
    first = max(1024, 1 << (machines - 1).bit_length())
    sizes = {"gc_thresh1": first, "gc_thresh2": 2 * first, "gc_thresh3": 4 * first}
    return {f"net.{ip}.neigh.default.{key}": size for ip in ("ipv4", "ipv6") for key, size in sizes.items()}
