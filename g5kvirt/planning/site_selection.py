"""Selects the sites of a specification that only gives a number of hosts. Pure.

Sites whose machines carry the most VMs come first; hosts are spread over the selected sites as evenly as
their machines allow, and moved to where they carry more only if the VMs would not fit otherwise. Without a
number of sites, as few as possible are selected.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations, islice

import numpy as np
from numpy.typing import NDArray

from g5kvirt.errors import CapacityError, SpecError
from g5kvirt.inventory import Host
from g5kvirt.planning.capacity import host_room
from g5kvirt.planning.checks import check_names, counted
from g5kvirt.planning.services import services_per_site
from g5kvirt.spec.groups import sizes_in_words
from g5kvirt.spec.spec import Spec, suggest

__all__ = ["select_sites"]

# Grid'5000 has nine sites, so at most 126 combinations of one size: all are tried. Of more, the best are.
_EXAMINED = 20_000
_TRIED = 200

_Room = Mapping[str, NDArray[np.int64]]  # site → VMs that each of its machines carries, the most first


def select_sites(
    spec: Spec,
    candidates: Mapping[str, Sequence[Host]],
    vlan_sites: Collection[str] | None = None,
    condition: str = "",
) -> dict[str, int]:
    """Site → hosts, for a specification without sites; the first site holds the global KaVLAN.

    :param candidates: site → the machines that may be used.
    :param vlan_sites: the sites that can give a global KaVLAN; None: all.
    :param condition: why these are the candidates, such as "free at that time"; for the errors.
    Raises SpecError for an unknown cluster, strategy or rule, and CapacityError with the numbers and what
    would fit if no selection does.
    """
    check_names(spec)
    rooms = _rooms(spec, candidates)
    counts = [spec.site_count] if spec.site_count else range(1, min(spec.hosts, len(rooms)) + 1)
    for count in counts:
        for chosen in _combinations(spec, rooms, count, vlan_sites):
            hosts = _spread(spec, {site: rooms[site] for site in chosen})
            if hosts and _carried(hosts, rooms) >= spec.vms:
                with_vlan = [site for site in hosts if vlan_sites is None or site in vlan_sites]
                return {site: hosts[site] for site in dict.fromkeys([*with_vlan, *hosts])}
    raise _refused(spec, rooms, vlan_sites, condition)


def _rooms(spec: Spec, candidates: Mapping[str, Sequence[Host]]) -> dict[str, NDArray[np.int64]]:
    """Machines on which at least one VM fits; sites without any are left out."""
    rooms = {}
    clusters = dict(spec.clusters or {})
    for site in clusters:
        if site not in candidates:
            raise SpecError(f"clusters names an unknown site {site!r}", advice=suggest(site, candidates))
    for site, hosts in candidates.items():
        usable = [h for h in hosts if clusters.get(site) in (None, h.cluster)]
        room = host_room(spec, usable)
        room = np.sort(room[room > 0])[::-1]
        if len(room):
            rooms[site] = room
    return rooms


def _by_vms(spec: Spec, rooms: _Room) -> list[str]:
    return sorted(rooms, key=lambda s: (-int(rooms[s][: spec.hosts].sum()), -len(rooms[s]), s))


def _by_machines(spec: Spec, rooms: _Room) -> list[str]:
    return sorted(rooms, key=lambda s: (-len(rooms[s]), -int(rooms[s][: spec.hosts].sum()), s))


def _combinations(
    spec: Spec, rooms: _Room, count: int, vlan_sites: Collection[str] | None
) -> Iterator[tuple[str, ...]]:
    """Combinations of ``count`` sites, the best first: one has a KaVLAN, and they have enough machines."""
    orders = (_by_vms(spec, rooms), _by_machines(spec, rooms))
    able = set(rooms if vlan_sites is None else vlan_sites)
    for order in orders:
        possible = (
            some
            for some in islice(combinations(order, count), _EXAMINED)
            if able.intersection(some)
            and sum(len(rooms[site]) for site in some) >= spec.hosts + spec.services
        )
        yield from islice(possible, _TRIED)


def _spread(spec: Spec, rooms: _Room) -> dict[str, int] | None:
    """Hosts for each of these sites, service machines beside them; None if there are too few machines."""
    caps = {site: len(room) for site, room in rooms.items()}
    while True:
        hosts = _evenly(spec.hosts, caps)
        if hosts is None:
            return None
        _towards_room(spec, hosts, caps, rooms)
        services = services_per_site(hosts, spec.services)
        over = [site for site in rooms if hosts[site] + services[site] > len(rooms[site])]
        if not over:
            return hosts
        for site in over:  # each time one host fewer at least: this ends
            caps[site] = min(hosts[site] - 1, len(rooms[site]) - services[site])


def _evenly(total: int, caps: Mapping[str, int]) -> dict[str, int] | None:
    """``total`` over the sites, each at least one and at most its cap, as evenly as that goes."""
    if min(caps.values()) < 1 or not len(caps) <= total <= sum(caps.values()):
        return None
    given: dict[str, int] = {}
    left = total
    for rank, site in enumerate(sorted(caps, key=lambda s: caps[s])):  # small ones first: others fill up
        given[site] = min(caps[site], left // (len(caps) - rank))
        left -= given[site]
    return {site: given[site] for site in caps}


def _towards_room(spec: Spec, hosts: dict[str, int], caps: Mapping[str, int], rooms: _Room) -> None:
    """Move hosts, one by one, to where they carry the most, until the VMs fit or nothing is gained."""
    while _carried(hosts, rooms) < spec.vms:
        open_sites = [site for site in hosts if hosts[site] < caps[site]]
        others = [site for site in hosts if hosts[site] > 1]
        if not open_sites or not others:
            return
        best = max(open_sites, key=lambda s: int(rooms[s][hosts[s]]))
        worst = min(others, key=lambda s: int(rooms[s][hosts[s] - 1]))
        if rooms[best][hosts[best]] <= rooms[worst][hosts[worst] - 1]:
            return
        hosts[best] += 1
        hosts[worst] -= 1


def _carried(hosts: Mapping[str, int], rooms: _Room) -> int:
    return sum(int(rooms[site][:number].sum()) for site, number in hosts.items())


def _refused(spec: Spec, rooms: _Room, vlan_sites: Collection[str] | None, condition: str) -> CapacityError:
    """What is available, in numbers, and what would fit."""
    such = f" {condition}" if condition else ""
    order = _by_machines(spec, rooms)
    if not order:
        return CapacityError(
            f"no machine{such} can carry such a VM",
            requested=spec.hosts + spec.services,
            available=0,
            advice="request smaller VMs, other properties or another start",
        )
    if spec.site_count and spec.site_count > len(order):
        return CapacityError(
            f"the specification needs {spec.site_count} sites, but only {len(order)} have machines{such} that"
            " can carry such a VM",
            requested=spec.site_count,
            available=len(order),
            advice="request fewer sites or smaller VMs",
        )
    if rooms and vlan_sites is not None and not set(rooms) & set(vlan_sites):
        return CapacityError(
            f"no site has a global KaVLAN{such}", requested=1, available=0, advice="request another start"
        )
    count = spec.site_count or min(spec.hosts, len(order))
    best = order[:count]
    machines = sum(len(rooms[site]) for site in best)
    where = f"the {count} largest sites" if spec.site_count else f"all {count} sites"
    needed = spec.hosts + spec.services
    if machines < needed:
        room = machines - spec.services
        shares = ", ".join(f"{site} {len(rooms[site])}" for site in best)
        fewer = (
            f"request at most {counted(room, 'host')}" if room > 0 else "request smaller VMs or another start"
        )
        return CapacityError(
            f"the specification needs {counted(spec.hosts, 'host')} and"
            f" {counted(spec.services, 'service machine')}, but {where} have only"
            f" {counted(machines, 'machine')}{such} that can carry such a VM ({shares})",
            requested=needed,
            available=machines,
            advice=fewer + (" or for more sites" if spec.site_count and len(order) > count else ""),
        )
    everything = np.sort(np.concatenate([rooms[site] for site in _by_vms(spec, rooms)[:count]]))[::-1]
    carried = int(everything[: spec.hosts].sum())
    return CapacityError(
        f"{spec.vms} VMs {sizes_in_words(spec.kinds)} do not fit on"
        f" {spec.hosts} hosts, which carry at most {carried} on {where}{such}",
        requested=spec.vms,
        available=carried,
        advice="request fewer VMs or more hosts",
    )
