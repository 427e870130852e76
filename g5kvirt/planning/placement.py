"""Which host carries which VM, and every VM's address, MAC and name.

A strategy is a function from the hosts' capacities and sites to a number of VMs for each host,
registered under the name that `Spec.placement` gives; add another with `register_strategy`. A
`Placement` keeps columns (numpy) and makes `VM` objects when asked for them, so that a million VMs
are placed within a second. VMs are numbered host by host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network
from typing import Any, overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from g5kvirt.errors import CapacityError, SpecError
from g5kvirt.inventory import VM, Host, SubNetwork
from g5kvirt.planning.addressing import addresses_for, covering
from g5kvirt.planning.names import ip_texts, mac_of, mac_texts, vm_name, vm_names
from g5kvirt.planning.ranks import rank_within
from g5kvirt.spec.spec import suggest

__all__ = ["STRATEGIES", "Placement", "Strategy", "VMs", "distribute", "place", "register_strategy"]

Ints = NDArray[np.int64]

#: (capacity of each host, number of each host's site, VMs) → VMs of each host
Strategy = Callable[[Ints, Ints, int], Ints]

STRATEGIES: dict[str, Strategy] = {}


def register_strategy(name: str) -> Callable[[Strategy], Strategy]:
    """Decorator: make a strategy known under ``name``.

    It is called only when all VMs fit, and must return whole numbers that are not above the
    capacities and sum up to the VMs; `distribute` checks that.
    """

    def add(strategy: Strategy) -> Strategy:
        if name in STRATEGIES:
            raise ValueError(f"there is already a placement strategy {name!r}")
        STRATEGIES[name] = strategy
        return strategy

    return add


@register_strategy("balanced")
def balanced(capacity: Ints, site: Ints, vms: int) -> Ints:
    """Every host carries the same share of what it can (largest remainders, alternating sites)."""
    total = max(int(capacity.sum()), 1)
    counts = vms * capacity // total
    rest = vms - int(counts.sum())
    remainder = vms * capacity % total
    # a remainder above 0 means there is room for one more
    turn = np.lexsort((site, rank_within(site), -remainder))
    counts[turn[:rest]] += 1
    return counts


@register_strategy("packed")
def packed(capacity: Ints, site: Ints, vms: int) -> Ints:
    """Hosts are filled one after another, so that as few as possible are used."""
    before = np.cumsum(capacity) - capacity
    counts: Ints = np.clip(vms - before, 0, capacity)
    return counts


@register_strategy("round-robin-sites")
def round_robin_sites(capacity: Ints, site: Ints, vms: int) -> Ints:
    """VMs are dealt to the sites in turn, on a site to its hosts in turn; full ones are passed over."""
    of_site = np.bincount(site, weights=capacity).astype(np.int64)
    counts = np.zeros_like(capacity)
    for number, share in enumerate(_dealt(of_site, vms).tolist()):
        mine = np.flatnonzero(site == number)
        counts[mine] = _dealt(capacity[mine], share)
    return counts


def _dealt(capacity: Ints, number: int) -> Ints:
    """Deal one after another to each in turn until ``number`` are dealt; a full one is passed over."""
    low, high = 0, int(capacity.max(initial=0))
    while low < high:  # the most rounds that are complete
        middle = (low + high + 1) // 2
        if int(np.minimum(capacity, middle).sum()) <= number:
            low = middle
        else:
            high = middle - 1
    counts = np.minimum(capacity, low)
    counts[np.flatnonzero(capacity > low)[: number - int(counts.sum())]] += 1
    return counts


def distribute(strategy: str, capacity: Ints, site: Ints, vms: int) -> Ints:
    """How many of ``vms`` VMs each host carries.

    Raises SpecError if the strategy is unknown, CapacityError with the numbers if they do not fit.
    """
    if strategy not in STRATEGIES:
        raise SpecError(f"unknown placement strategy {strategy!r}: {suggest(strategy, STRATEGIES)}")
    total = int(capacity.sum())
    if vms > total:
        raise CapacityError(
            f"{vms} VMs do not fit on {len(capacity)} hosts that can carry {total} together: "
            f"ask for at most {total} VMs, for smaller ones or for more hosts",
            asked=vms,
            available=total,
        )
    counts = np.asarray(STRATEGIES[strategy](capacity, site, vms), np.int64)
    if (
        counts.shape != capacity.shape
        or int(counts.sum()) != vms
        or (counts < 0).any()
        or (counts > capacity).any()
    ):
        raise ValueError(f"the placement strategy {strategy!r} broke its promise: {counts}")
    return counts


@dataclass(frozen=True, eq=False)
class VMs(Sequence[VM]):
    """The VMs of a placement as a sequence; each is made when it is asked for."""

    placement: Placement

    def __len__(self) -> int:
        return len(self.placement.addresses)

    @overload
    def __getitem__(self, at: int) -> VM: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[VM, ...]: ...
    def __getitem__(self, at: int | slice) -> VM | tuple[VM, ...]:
        if isinstance(at, slice):
            return tuple(self._vm(i) for i in range(*at.indices(len(self))))
        if not -len(self) <= at < len(self):
            raise IndexError(f"there are {len(self)} VMs, none at {at}")
        return self._vm(at % len(self))

    def __iter__(self) -> Iterator[VM]:
        return (self._vm(i) for i in range(len(self)))

    def _vm(self, position: int) -> VM:
        host = self.placement.hosts[int(self.placement.host_of[position])]
        address = IPv4Address(int(self.placement.addresses[position]))
        index = position + 1
        return VM(index, vm_name(index), host.name, host.site, address, mac_of(address))


@dataclass(frozen=True, eq=False)
class Placement:
    """Where every VM runs and what it answers to; the VMs of a host stand together.

    ``host_of[i]`` is the position in ``hosts`` of the i-th VM's host, ``addresses[i]`` its IPv4 address.
    """

    hosts: tuple[Host, ...]
    counts: Ints  #: VMs of each host
    capacities: Ints  #: VMs that each host could carry
    host_of: Ints
    addresses: NDArray[np.uint32]
    network: IPv4Network  #: the VM network: all VMs are on-link in it

    @property
    def vms(self) -> VMs:
        """All VMs, as a sequence."""
        return VMs(self)

    def __len__(self) -> int:
        return len(self.addresses)

    @cached_property
    def macs(self) -> list[str]:
        """The MACs of all VMs."""
        return mac_texts(self.addresses)

    def by_host(self) -> dict[str, tuple[VM, ...]]:
        """The VMs of each host that carries any."""
        ends = np.cumsum(self.counts)
        vms = self.vms
        return {
            host.name: vms[int(end) - int(count) : int(end)]
            for host, count, end in zip(self.hosts, self.counts, ends, strict=True)
            if count
        }

    def by_site(self) -> dict[str, int]:
        """How many VMs each site carries; 0 for a site whose hosts carry none."""
        sums = dict.fromkeys((h.site for h in self.hosts), 0)
        for host, count in zip(self.hosts, self.counts.tolist(), strict=True):
            sums[host.site] += count
        return sums

    def frame(self) -> pd.DataFrame:
        """One row a VM: index, name, host, site, ip, mac."""
        hosts = np.array([h.name for h in self.hosts], dtype=object)
        sites = np.array([h.site for h in self.hosts], dtype=object)
        return pd.DataFrame(
            {
                "index": np.arange(1, len(self) + 1),
                "name": vm_names(len(self)),
                "host": hosts[self.host_of],
                "site": sites[self.host_of],
                "ip": ip_texts(self.addresses),
                "mac": self.macs,
            }
        )

    def to_plain(self) -> list[dict[str, Any]]:
        """The rows of `frame` as dictionaries: what the journal's place event holds."""
        frame = self.frame()
        columns = [frame[name].tolist() for name in frame.columns]
        return [dict(zip(frame.columns, row, strict=True)) for row in zip(*columns, strict=True)]


def place(
    vms: int,
    hosts: Sequence[Host],
    capacities: Sequence[int] | Ints,
    subnetworks: Iterable[SubNetwork],
    *,
    strategy: str = "balanced",
    taken: Iterable[IPv4Address] = (),
) -> Placement:
    """Place ``vms`` VMs on ``hosts`` and give each an address of its site, out of ``taken``'s way.

    ``taken``: addresses that hosts and service machines answer to. Raises CapacityError with the
    numbers if hosts or addresses are too few, SpecError if the strategy is unknown.
    """
    parts = list(subnetworks)
    sites = list(dict.fromkeys(h.site for h in hosts))
    number = {site: i for i, site in enumerate(sites)}
    site = np.fromiter((number[h.site] for h in hosts), np.int64, len(hosts))
    room = np.asarray(capacities, np.int64)
    if len(room) != len(hosts):
        raise ValueError(f"{len(hosts)} hosts but {len(room)} capacities")
    counts = distribute(strategy, room, site, vms)
    network = covering(p.network for p in parts)
    host_of = np.repeat(np.arange(len(hosts)), counts)
    site_of = site[host_of]
    wanted = np.bincount(site_of, minlength=len(sites))
    ends = (network.network_address, network.broadcast_address, network.broadcast_address - 1)
    by_site = addresses_for(
        {s: int(n) for s, n in zip(sites, wanted, strict=True) if n}, parts, [*taken, *ends]
    )
    addresses = np.empty(vms, np.uint32)
    for name, own in by_site.items():
        addresses[site_of == number[name]] = own
    return Placement(tuple(hosts), counts, room, host_of, addresses, network)
