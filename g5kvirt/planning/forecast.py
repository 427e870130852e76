"""What would happen: which machines an experiment may get, how its VMs spread, addresses, time. Pure."""

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
from g5kvirt.planning.capacity import capacities
from g5kvirt.planning.estimates import PhaseEstimate, Workload, estimate_phases, total_seconds
from g5kvirt.planning.inventories import Inventory, Machine, unfit
from g5kvirt.planning.placement import distribute
from g5kvirt.planning.services import machines_per_site, services_per_site
from g5kvirt.planning.site_selection import choose
from g5kvirt.spec.spec import Spec

__all__ = ["Bill", "Forecast", "Plan", "candidates", "chosen", "room"]

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Bill:
    """The addresses of one site: what is asked of OAR, and what for."""

    site: str
    vms: int  #: that it would carry, if OAR gives the machines with the most room
    hosts: int
    services: int
    addresses: int  #: asked for: as many as if all VMs came here, since nobody knows yet how many will
    prefix: int | None  #: of the sub-network to reserve, 22 … 16; None: not even a /16 holds them


@dataclass(frozen=True)
class Plan:
    """What would happen. ``a_host`` is the least and the most VMs on one host; None if they do not fit."""

    sites: Mapping[str, int]  #: hosts
    services: Mapping[str, int]
    clusters: Mapping[str, Mapping[str, int]]  #: site → cluster → machines that can carry VMs
    room: tuple[int, int]  #: VMs that so many hosts carry: those with the least room, those with the most
    a_host: tuple[int, int] | None
    addresses: tuple[Bill, ...]
    expected: tuple[PhaseEstimate, ...]

    @property
    def seconds(self) -> float:
        """From the start of the jobs to the end of one deployment on all VMs."""
        return total_seconds(self.expected)


def candidates(spec: Spec, inventory: Inventory) -> dict[str, list[Machine]]:
    """Site → the machines that ``spec`` does not exclude itself, by its clusters and its properties."""
    clusters, meeting = spec.clusters or {}, inventory.meeting
    return {
        site: [
            m
            for m in own
            if clusters.get(site) in (None, m.host.cluster) and (meeting is None or m.host.name in meeting)
        ]
        for site, own in inventory.machines.items()
    }


def chosen(spec: Spec, inventory: Inventory, *, emulated: bool = False) -> Spec:
    """``spec`` with its sites chosen by `g5kvirt.planning.site_selection`, if it only says how many.

    Raises CapacityError and SpecError as `choose`.
    """
    if spec.sites:
        return spec
    fitting = {
        site: [m.host for m in own if unfit(m, spec, emulated=emulated) is None]
        for site, own in candidates(spec, inventory).items()
    }
    able = {site for site, number in inventory.vlans.items() if number}
    return spec.at(choose(spec, fitting, able or None))


def room(spec: Spec, hosts: Sequence[Host]) -> Ints:
    """VMs that each host can carry, in their order."""
    return capacities([h.cores for h in hosts], [h.memory for h in hosts], spec.capacity, spec.vm)


class Forecast:
    """A spec on an inventory. ``emulated``: on ``real_cores`` that all hosts share (None: real hosts).

    ``asked``: site → machines that the spec does not exclude; ``fit``: those of them that can carry VMs.
    """

    def __init__(self, spec: Spec, inventory: Inventory, real_cores: int | None = None) -> None:
        self.spec, self.inventory, self.real_cores = spec, inventory, real_cores
        self.needed = machines_per_site(spec)
        self.services = services_per_site(spec.sites, spec.services)
        found = candidates(spec, inventory)
        self.asked = {site: found.get(site, []) for site in spec.sites}
        self.fit = {site: [m.host for m in own if self.why(m) is None] for site, own in self.asked.items()}

    def why(self, machine: Machine) -> str | None:
        """Why a machine cannot carry VMs; None if it can."""
        return unfit(machine, self.spec, emulated=self.real_cores is not None)

    @cached_property
    def room(self) -> tuple[int, int]:
        """VMs that the hosts asked for carry, on the machines with the least room and with the most."""
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

    def most_on(self, hosts: int) -> int:
        """VMs that the ``hosts`` with the most room of `best` carry."""
        return int(np.sort(room(self.spec, self.best))[::-1][:hosts].sum())

    def plan(self) -> Plan:
        """What would happen on the machines with the most room."""
        spec, hosts = self.spec, self.best
        sites = list(spec.sites)
        place = np.fromiter((sites.index(h.site) for h in hosts), np.int64, len(hosts))
        capacity = room(spec, hosts)
        a_host, by_site = None, dict.fromkeys(sites, 0)
        if hosts and spec.vms <= int(capacity.sum()):
            counts = distribute(spec.placement, capacity, place, spec.vms)
            a_host = int(counts.min()), int(counts.max())
            sums = np.bincount(place, weights=counts, minlength=len(sites))
            by_site = {site: int(number) for site, number in zip(sites, sums, strict=True)}
        return Plan(
            sites=dict(spec.sites),
            services=self.services,
            clusters={site: dict(Counter(h.cluster for h in own)) for site, own in self.fit.items()},
            room=self.room,
            a_host=a_host,
            addresses=tuple(self._bills(by_site)),
            expected=estimate_phases(self._work()) if hosts else (),
        )

    def _bills(self, vms: Mapping[str, int]) -> Iterator[Bill]:
        for site, hosts in self.spec.sites.items():
            wanted = self.spec.vms + self.needed[site]
            try:
                prefix: int | None = subnetwork_prefix(wanted)
            except CapacityError:
                prefix = None
            yield Bill(site, vms[site], hosts, self.services[site], wanted, prefix)

    def _work(self) -> Workload:
        # A site with several service machines keeps one for DHCP and DNS alone.
        servers = sum(n - 1 if n > 1 else n for n in self.services.values())
        return Workload(
            vms=self.spec.vms,
            hosts=len(self.best),
            machines=sum(self.needed.values()),
            cores=self.real_cores or sum(h.cores for h in self.best),
            emulated=self.real_cores is not None,
            servers=max(1, servers),
            rate=min(h.nic_rate for h in self.best),
            windows=self.spec.windows,
        )
