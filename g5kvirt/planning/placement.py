"""Placement of VMs on hosts, with the address, MAC and name of every VM.

A strategy is a function from the capacities and sites of the hosts to a number of VMs for each host,
registered under a name for `Spec.placement`; add another with `register_strategy`. Groups are distributed by
`g5kvirt.planning.group_placement`, each by the strategy. A `Placement` stores
columns (numpy) and creates `VM` objects on demand, so that a million VMs are placed within a second. VMs are
numbered host by host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network
from typing import Any, overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from g5kvirt.errors import CapacityError, SpecError
from g5kvirt.inventory import VM, Host, SubNetwork
from g5kvirt.planning.addressing import allocate_addresses, covering_network
from g5kvirt.planning.names import format_ips, format_macs, mac_of, vm_name, vm_names
from g5kvirt.planning.ranks import rank_within
from g5kvirt.spec.spec import suggest

__all__ = ["STRATEGIES", "Placement", "Strategy", "VMs", "distribute", "place", "register_strategy"]

Ints = NDArray[np.int64]

#: (capacity of each host, number of each host's site, VMs) → VMs of each host
Strategy = Callable[[Ints, Ints, int], Ints]

STRATEGIES: dict[str, Strategy] = {}


def register_strategy(name: str) -> Callable[[Strategy], Strategy]:
    """Decorator: register a strategy under ``name``.

    It is called only if all VMs fit, and has to return integers that do not exceed the capacities and
    whose sum is the number of VMs; `distribute` checks that.
    """

    def add(strategy: Strategy) -> Strategy:
        if name in STRATEGIES:
            raise ValueError(f"there is already a placement strategy {name!r}")
        STRATEGIES[name] = strategy
        return strategy

    return add


@register_strategy("balanced")
def balanced(capacity: Ints, site: Ints, vms: int) -> Ints:
    """Every host gets the same share of its capacity (largest remainders, alternating sites)."""
    total = max(int(capacity.sum()), 1)
    counts = vms * capacity // total
    rest = vms - int(counts.sum())
    remainder = vms * capacity % total
    # a remainder above 0 means that one more VM fits
    turn = np.lexsort((site, rank_within(site), -remainder))
    counts[turn[:rest]] += 1
    return counts


@register_strategy("packed")
def packed(capacity: Ints, site: Ints, vms: int) -> Ints:
    """Hosts are filled one after another, to use as few as possible."""
    before = np.cumsum(capacity) - capacity
    counts: Ints = np.clip(vms - before, 0, capacity)
    return counts


@register_strategy("grouped")
def grouped(capacity: Ints, site: Ints, vms: int) -> Ints:
    """Each group on as few hosts as possible, which have no other group as far as they suffice."""
    return packed(capacity, site, vms)


@register_strategy("grouped-sites")
def grouped_sites(capacity: Ints, site: Ints, vms: int) -> Ints:
    """Each group at a site of its own as far as they suffice, and there the same share of every host."""
    return balanced(capacity, site, vms)


@register_strategy("round-robin-sites")
def round_robin_sites(capacity: Ints, site: Ints, vms: int) -> Ints:
    """VMs go to the sites in turn, and on each site to its hosts in turn; full ones are skipped."""
    of_site = np.bincount(site, weights=capacity).astype(np.int64)
    counts = np.zeros_like(capacity)
    for number, share in enumerate(_deal(of_site, vms).tolist()):
        mine = np.flatnonzero(site == number)
        counts[mine] = _deal(capacity[mine], share)
    return counts


def _deal(capacity: Ints, number: int) -> Ints:
    """Distribute ``number`` items one by one to each in turn, skipping full ones."""
    low, high = 0, int(capacity.max(initial=0))
    while low < high:  # the number of complete rounds
        middle = (low + high + 1) // 2
        if int(np.minimum(capacity, middle).sum()) <= number:
            low = middle
        else:
            high = middle - 1
    counts = np.minimum(capacity, low)
    counts[np.flatnonzero(capacity > low)[: number - int(counts.sum())]] += 1
    return counts


def distribute(strategy: str, capacity: Ints, site: Ints, vms: int) -> Ints:
    """The number of the ``vms`` VMs on each host.

    Raises SpecError if the strategy is unknown, CapacityError with the numbers if the VMs do not fit.
    """
    if strategy not in STRATEGIES:
        raise SpecError(f"unknown placement strategy {strategy!r}", advice=suggest(strategy, STRATEGIES))
    total = int(capacity.sum())
    if vms > total:
        raise CapacityError(
            f"{vms} VMs do not fit on {len(capacity)} hosts that can carry {total} in total",
            requested=vms,
            available=total,
            advice=f"request at most {total} VMs, smaller ones or more hosts",
        )
    counts = np.asarray(STRATEGIES[strategy](capacity, site, vms), np.int64)
    if (
        counts.shape != capacity.shape
        or int(counts.sum()) != vms
        or (counts < 0).any()
        or (counts > capacity).any()
    ):
        raise ValueError(f"the placement strategy {strategy!r} returned invalid counts: {counts}")
    return counts


@dataclass(frozen=True, eq=False)
class VMs(Sequence[VM]):
    """The VMs of a placement as a sequence; each is created on access."""

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
            raise IndexError(f"index {at} is out of range for {len(self)} VMs")
        return self._vm(at % len(self))

    def __iter__(self) -> Iterator[VM]:
        return (self._vm(i) for i in range(len(self)))

    def _vm(self, position: int) -> VM:
        host = self.placement.hosts[int(self.placement.host_of[position])]
        address = IPv4Address(int(self.placement.addresses[position]))
        group = self.placement.group_at(position)
        name = self.placement.names[position] if group else vm_name(position + 1)
        return VM(position + 1, name, host.name, host.site, address, mac_of(address), group)


@dataclass(frozen=True, eq=False)
class Placement:
    """The host and the address of every VM; the VMs of a host are consecutive, and on it those of a group.

    ``host_of[i]`` is the position in ``hosts`` of the i-th VM's host, ``addresses[i]`` its IPv4 address;
    ``group_of[i]`` the position in ``groups`` of its group, if there are any.
    """

    hosts: tuple[Host, ...]
    counts: Ints  #: VMs of each host
    capacities: Ints  #: VMs that each host can carry
    host_of: Ints
    addresses: NDArray[np.uint32]
    network: IPv4Network  #: the VM network: all VMs are on-link in it
    groups: tuple[str, ...] = ()
    group_of: Ints | None = None

    @property
    def vms(self) -> VMs:
        """All VMs, as a sequence."""
        return VMs(self)

    def __len__(self) -> int:
        return len(self.addresses)

    def group_at(self, position: int) -> str:
        """The group of a VM; empty without groups."""
        return "" if self.group_of is None else self.groups[int(self.group_of[position])]

    @cached_property
    def names(self) -> list[str]:
        """The names of all VMs; those of a group are numbered in their order."""
        if self.group_of is None:
            return vm_names(len(self))
        numbers = (rank_within(self.group_of) + 1).tolist()
        pairs = zip(numbers, self.group_of.tolist(), strict=True)
        return [vm_name(number, self.groups[group]) for number, group in pairs]

    @cached_property
    def macs(self) -> list[str]:
        """The MAC addresses of all VMs."""
        return format_macs(self.addresses)

    def by_site(self) -> dict[str, int]:
        """The number of VMs of each site; 0 for a site whose hosts have none."""
        sums = dict.fromkeys((h.site for h in self.hosts), 0)
        for host, count in zip(self.hosts, self.counts.tolist(), strict=True):
            sums[host.site] += count
        return sums

    def frame(self) -> pd.DataFrame:
        """One row per VM: index, name, host, site, ip, mac; with groups, group after the name."""
        hosts = np.array([h.name for h in self.hosts], dtype=object)
        sites = np.array([h.site for h in self.hosts], dtype=object)
        own = {}
        if self.group_of is not None:
            own["group"] = np.array(self.groups, dtype=object)[self.group_of]
        return pd.DataFrame(
            {
                "index": np.arange(1, len(self) + 1),
                "name": self.names,
                **own,
                "host": hosts[self.host_of],
                "site": sites[self.host_of],
                "ip": format_ips(self.addresses),
                "mac": self.macs,
            }
        )

    def to_plain(self) -> list[dict[str, Any]]:
        """The rows of `frame` as dictionaries, for the place event in the journal."""
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
    shares: Mapping[str, Ints] | None = None,
) -> Placement:
    """Place ``vms`` VMs on ``hosts`` and allocate each an address of its site that is not ``taken``.

    ``taken``: addresses of hosts and service machines. ``shares``: group → its VMs on each host, distributed
    before (`g5kvirt.planning.group_placement`). Raises CapacityError with the numbers if there are
    too few hosts or addresses, SpecError if the strategy is unknown.
    """
    parts = list(subnetworks)
    sites = list(dict.fromkeys(h.site for h in hosts))
    number = {site: i for i, site in enumerate(sites)}
    site = np.fromiter((number[h.site] for h in hosts), np.int64, len(hosts))
    room = np.asarray(capacities, np.int64)
    if len(room) != len(hosts):
        raise ValueError(f"{len(hosts)} hosts but {len(room)} capacities")
    if shares is None:
        counts = distribute(strategy, room, site, vms)
    else:
        counts = np.sum(list(shares.values()), axis=0)
    network = covering_network(p.network for p in parts)
    host_of = np.repeat(np.arange(len(hosts)), counts)
    site_of = site[host_of]
    wanted = np.bincount(site_of, minlength=len(sites))
    ends = (network.network_address, network.broadcast_address, network.broadcast_address - 1)
    by_site = allocate_addresses(
        {s: int(n) for s, n in zip(sites, wanted, strict=True) if n}, parts, [*taken, *ends]
    )
    addresses = np.empty(vms, np.uint32)
    for name, own in by_site.items():
        addresses[site_of == number[name]] = own
    groups, group_of = _groups(shares)
    return Placement(tuple(hosts), counts, room, host_of, addresses, network, groups, group_of)


def _groups(shares: Mapping[str, Ints] | None) -> tuple[tuple[str, ...], Ints | None]:
    """The groups, and that of each VM: host by host, on each host group by group."""
    if shares is None:
        return (), None
    by_host = np.stack(list(shares.values()), axis=1)
    numbers = np.tile(np.arange(len(shares)), len(by_host))
    return tuple(shares), np.repeat(numbers, by_host.ravel())
