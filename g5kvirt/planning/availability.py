"""When machines, KaVLANs and sub-networks are in use, and the first slot in which a request fits. Pure.

The calendars come from the testbed (`g5kvirt.testbeds.grid5000.calendar`). Times are in seconds since the
epoch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network

__all__ = ["Calendar", "Need", "SiteCalendar", "candidate_starts", "first_slot", "free_hosts", "shortage"]

Busy = Sequence[tuple[float, float]]  #: intervals (from, to), in any order; they may overlap


@dataclass(frozen=True)
class SiteCalendar:
    """What a site has, and when each of these is in use."""

    hosts: Mapping[str, Busy]  #: by name: machines that OAR may give to jobs
    vlans: Mapping[int, Busy] = field(default_factory=dict)  #: global KaVLANs that the site's OAR gives
    subnets: Mapping[IPv4Network, Busy] = field(default_factory=dict)  #: the smallest sub-networks


@dataclass(frozen=True)
class Calendar:
    """The calendars of some sites from ``start`` to ``end``."""

    start: float
    end: float
    sites: Mapping[str, SiteCalendar]
    closed: Busy = ()  #: when no job of the types in question may run, at any site

    def is_open(self, start: float, walltime: float) -> bool:
        """Whether a job of these types may run from ``start`` on for ``walltime`` seconds."""
        return _free(self.closed, start, walltime)


@dataclass(frozen=True)
class Need:
    """What a request needs on one site."""

    machines: int
    among: Collection[str] | None = None  #: names of the machines that are acceptable; None: any
    prefix: int | None = None  #: prefix length of the sub-network; None: no sub-network
    vlan: bool = False  #: with a global KaVLAN


def _free(busy: Busy, start: float, walltime: float) -> bool:
    return all(end <= start or begin >= start + walltime for begin, end in busy)


def free_hosts(site: SiteCalendar, start: float, walltime: float) -> list[str]:
    """The machines that are free from ``start`` on, for ``walltime``."""
    return [name for name, busy in site.hosts.items() if _free(busy, start, walltime)]


def _free_subnets(site: SiteCalendar, prefix: int, start: float, walltime: float) -> int:
    """How many sub-networks of that size are entirely free."""
    blocks: Counter[IPv4Network] = Counter()
    for network, busy in site.subnets.items():
        if _free(busy, start, walltime):
            block = network.supernet(new_prefix=prefix) if network.prefixlen > prefix else network
            blocks[block] += network.num_addresses
    return sum(free >= 1 << (32 - prefix) for free in blocks.values())


def shortage(site: SiteCalendar, need: Need, start: float, walltime: float) -> str:
    """What is missing on the site in that slot, as a short text; empty if the need is met."""
    free = free_hosts(site, start, walltime)
    usable = free if need.among is None else [name for name in free if name in need.among]
    if len(usable) < need.machines:
        return f"{len(usable)} of {need.machines} machines"
    if need.vlan and not any(_free(busy, start, walltime) for busy in site.vlans.values()):
        return "no global KaVLAN"
    if need.prefix is not None and not _free_subnets(site, need.prefix, start, walltime):
        return f"no sub-network /{need.prefix}"
    return ""


def candidate_starts(calendar: Calendar, also: Iterable[float] = ()) -> list[float]:
    """Every time at which something becomes free or jobs may run again, from the calendar's start on."""
    ends = {
        end
        for site in calendar.sites.values()
        for kind in (site.hosts, site.vlans, site.subnets)
        for busy in kind.values()
        for _, end in busy
    } | {end for _, end in calendar.closed}
    within = {t for t in (*ends, *also) if calendar.start < t < calendar.end}
    return [calendar.start, *sorted(within)]


def first_slot(
    calendar: Calendar,
    needs: Mapping[str, Need],
    walltime: float,
    *,
    allowed: Callable[[float], bool] = lambda t: True,
    also: Iterable[float] = (),
) -> float | None:
    """The first time at which the needs of all sites are met for ``walltime`` seconds; None: there is none.

    ``allowed``: whether a job may start at a time; ``also`` are further times to try. Raises KeyError
    for a site that is not in the calendar.
    """
    for t in candidate_starts(calendar, also):
        if not calendar.is_open(t, walltime):
            continue
        missing = any(shortage(calendar.sites[site], need, t, walltime) for site, need in needs.items())
        if not missing and allowed(t):
            return t
    return None
