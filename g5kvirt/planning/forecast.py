"""Forecast of an experiment: the machines that it may get, the spread of its VMs, its addresses. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from g5kvirt.errors import CapacityError
from g5kvirt.inventory import Host
from g5kvirt.planning.addressing import subnetwork_prefix
from g5kvirt.planning.capacity import host_room
from g5kvirt.planning.group_placement import check_fits, host_shares
from g5kvirt.planning.inventories import Inventory, Machine, exclusion_reason
from g5kvirt.planning.services import machines_per_site, services_per_site
from g5kvirt.planning.site_selection import select_sites
from g5kvirt.spec.spec import Spec

__all__ = [
    "SMALLEST",
    "AddressDemand",
    "Forecast",
    "PhaseEstimate",
    "Plan",
    "candidates",
    "room",
    "with_selected_sites",
]

Ints = NDArray[np.int64]

#: Guest → the smallest environment for it: what is expected is one deployment of that.
SMALLEST = {"vm": "mini", "light": "light"}


@dataclass(frozen=True)
class AddressDemand:
    """The addresses that one site needs, and the sub-network to reserve for them."""

    site: str
    vms: int  #: number of VMs, if OAR assigns the machines with the highest capacity
    hosts: int
    services: int
    addresses: int  #: number of addresses to reserve: enough for all VMs, as their distribution is not known
    prefix: int | None  #: prefix length of the sub-network to reserve, 22 … 16; None: a /16 is too small


@dataclass(frozen=True)
class PhaseEstimate:
    """The expected duration of a phase, and where it is from."""

    phase: str
    seconds: float
    why: str


@dataclass(frozen=True)
class Plan:
    """The plan of an experiment.

    ``vms_per_host``: the smallest and largest number of VMs on a host, None if they do not fit; ``services``:
    site → number of service machines; ``expected``: the expected duration of each phase, empty if unknown.
    """

    sites: Mapping[str, int]  #: site → number of hosts
    services: Mapping[str, int]
    clusters: Mapping[str, Mapping[str, int]]  #: site → cluster → number of machines that can carry VMs
    room: tuple[int, int]  #: capacity in VMs, if OAR assigns the machines with the lowest and the highest
    vms_per_host: tuple[int, int] | None
    addresses: tuple[AddressDemand, ...]
    expected: tuple[PhaseEstimate, ...] = ()

    @property
    def seconds(self) -> float:
        """From the start of the jobs to the end of one deployment on all VMs."""
        return sum(one.seconds for one in self.expected)


def candidates(spec: Spec, inventory: Inventory) -> dict[str, list[Machine]]:
    """Site → the machines that the spec's clusters and properties allow."""
    clusters, matching = spec.clusters or {}, inventory.matching
    return {
        site: [
            m
            for m in own
            if clusters.get(site) in (None, m.host.cluster) and (matching is None or m.host.name in matching)
        ]
        for site, own in inventory.machines.items()
    }


def with_selected_sites(spec: Spec, inventory: Inventory, *, emulated: bool = False) -> Spec:
    """``spec`` with its sites selected by `g5kvirt.planning.site_selection`, if it only gives a number.

    Raises CapacityError and SpecError as `select_sites`.
    """
    if spec.sites:
        return spec
    fitting = {
        site: [m.host for m in own if exclusion_reason(m, spec, emulated=emulated) is None]
        for site, own in candidates(spec, inventory).items()
    }
    able = {site for site, number in inventory.vlans.items() if number}
    return spec.at(select_sites(spec, fitting, able or None))


def room(spec: Spec, hosts: Sequence[Host]) -> Ints:
    """VMs that each host can carry, in their order."""
    return host_room(spec, hosts)


class Forecast:
    """A spec on an inventory. ``real_cores``: cores that all (emulated) hosts share; None: real hosts.

    ``candidates``: site → machines that the spec allows; ``fit``: those of them that can carry VMs.
    """

    def __init__(self, spec: Spec, inventory: Inventory, real_cores: int | None = None) -> None:
        self.spec, self.inventory, self.real_cores = spec, inventory, real_cores
        self.needed = machines_per_site(spec)
        self.services = services_per_site(spec.sites, spec.services)
        found = candidates(spec, inventory)
        self.candidates = {site: found.get(site, []) for site in spec.sites}
        self.fit = {
            site: [m.host for m in own if self.exclusion_reason(m) is None]
            for site, own in self.candidates.items()
        }

    def exclusion_reason(self, machine: Machine) -> str | None:
        """Why a machine cannot carry VMs; None if it can."""
        return exclusion_reason(machine, self.spec, emulated=self.real_cores is not None)

    @cached_property
    def room(self) -> tuple[int, int]:
        """VMs that the spec's hosts carry, on the machines with the least room and with the most."""
        least = most = 0
        for site, hosts in self.fit.items():
            rising = np.sort(room(self.spec, hosts))
            number = min(self.spec.sites[site], len(rising))
            least += int(rising[:number].sum())
            most += int(rising[len(rising) - number :].sum())
        return least, most

    @cached_property
    def best(self) -> list[Host]:
        """The hosts if OAR gives those with the most room."""
        found = []
        for site, hosts in self.fit.items():
            order = np.argsort(-room(self.spec, hosts), kind="stable")[: self.spec.sites[site]]
            found += [hosts[i] for i in sorted(order.tolist())]
        return found

    @cached_property
    def misfit(self) -> str:
        """Why the groups do not fit on `best`, though VMs of their average size would; empty if they do."""
        try:
            check_fits(self.spec, self.best)
        except CapacityError as error:
            return error.message
        return ""

    def most_on(self, hosts: int) -> int:
        """VMs that the ``hosts`` largest machines of `best` carry."""
        return int(np.sort(room(self.spec, self.best))[::-1][:hosts].sum())

    def plan(self) -> Plan:
        """What would happen on the machines with the most room."""
        spec, hosts = self.spec, self.best
        sites = list(spec.sites)
        place = np.fromiter((sites.index(h.site) for h in hosts), np.int64, len(hosts))
        capacity = room(spec, hosts)
        vms_per_host, by_site = None, dict.fromkeys(sites, 0)
        if hosts and spec.vms <= int(capacity.sum()) and not self.misfit:
            counts = np.sum(list(host_shares(spec, hosts).values()), axis=0)
            vms_per_host = int(counts.min()), int(counts.max())
            sums = np.bincount(place, weights=counts, minlength=len(sites))
            by_site = {site: int(number) for site, number in zip(sites, sums, strict=True)}
        return Plan(
            sites=dict(spec.sites),
            services=self.services,
            clusters={site: dict(Counter(h.cluster for h in own)) for site, own in self.fit.items()},
            room=self.room,
            vms_per_host=vms_per_host,
            addresses=tuple(self._address_demands(by_site)),
        )

    def _address_demands(self, vms: Mapping[str, int]) -> Iterator[AddressDemand]:
        for site, hosts in self.spec.sites.items():
            wanted = self.spec.vms + self.needed[site]
            try:
                prefix: int | None = subnetwork_prefix(wanted)
            except CapacityError:
                prefix = None
            yield AddressDemand(site, vms[site], hosts, self.services[site], wanted, prefix)
