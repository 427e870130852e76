"""When machines, KaVLANs and sub-networks are taken, and the first slot in which all that is asked is free.

Pure: what is taken comes from the testbed (`g5kvirt.testbeds.grid5000.calendar`). Times in seconds
since the epoch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network

__all__ = ["Agenda", "Need", "SiteAgenda", "first_slot", "free_hosts", "lacking", "moments"]

Busy = Sequence[tuple[float, float]]  #: from … to, in any order, also overlapping


@dataclass(frozen=True)
class SiteAgenda:
    """What a site has, and when each of these is taken."""

    hosts: Mapping[str, Busy]  #: name of a machine that works
    vlans: Mapping[int, Busy] = field(default_factory=dict)  #: global KaVLANs that the site's OAR gives
    subnets: Mapping[IPv4Network, Busy] = field(default_factory=dict)  #: the smallest ones it gives


@dataclass(frozen=True)
class Agenda:
    """What is known of some sites from ``start`` to ``end``."""

    start: float
    end: float
    sites: Mapping[str, SiteAgenda]


@dataclass(frozen=True)
class Need:
    """What is asked of one site."""

    machines: int
    among: Collection[str] | None = None  #: names of the machines that will do; None: any
    prefix: int | None = None  #: prefix length of the sub-network; None: none is asked
    vlan: bool = False  #: with a global KaVLAN


def _free(busy: Busy, start: float, walltime: float) -> bool:
    return all(end <= start or begin >= start + walltime for begin, end in busy)


def free_hosts(site: SiteAgenda, start: float, walltime: float) -> list[str]:
    """The machines that nobody has from ``start`` on, for ``walltime``."""
    return [name for name, busy in site.hosts.items() if _free(busy, start, walltime)]


def _free_subnets(site: SiteAgenda, prefix: int, start: float, walltime: float) -> int:
    """How many networks of that size are wholly free."""
    blocks: Counter[IPv4Network] = Counter()
    for network, busy in site.subnets.items():
        if _free(busy, start, walltime):
            block = network.supernet(new_prefix=prefix) if network.prefixlen > prefix else network
            blocks[block] += network.num_addresses
    return sum(free >= 1 << (32 - prefix) for free in blocks.values())


def lacking(site: SiteAgenda, need: Need, start: float, walltime: float) -> str:
    """What a site does not have free in that time, in a few words; empty if it has all that is asked."""
    free = free_hosts(site, start, walltime)
    usable = free if need.among is None else [name for name in free if name in need.among]
    if len(usable) < need.machines:
        return f"{len(usable)} of {need.machines} machines"
    if need.vlan and not any(_free(busy, start, walltime) for busy in site.vlans.values()):
        return "no global KaVLAN"
    if need.prefix is not None and not _free_subnets(site, need.prefix, start, walltime):
        return f"no sub-network /{need.prefix}"
    return ""


def moments(agenda: Agenda, also: Iterable[float] = ()) -> list[float]:
    """Every time at which something may have become free, in order; the agenda's start is the first."""
    ends = {
        end
        for site in agenda.sites.values()
        for kind in (site.hosts, site.vlans, site.subnets)
        for busy in kind.values()
        for _, end in busy
    }
    within = {t for t in (*ends, *also) if agenda.start < t < agenda.end}
    return [agenda.start, *sorted(within)]


def first_slot(
    agenda: Agenda,
    needs: Mapping[str, Need],
    walltime: float,
    *,
    allowed: Callable[[float], bool] = lambda t: True,
    also: Iterable[float] = (),
) -> float | None:
    """When all that is asked of all sites is free at once for ``walltime`` seconds; None: not in this time.

    ``allowed`` says whether a job may start at a time, ``also`` gives further times to try. Raises KeyError
    for a site that the agenda does not know.
    """
    for t in moments(agenda, also):
        missing = any(lacking(agenda.sites[site], need, t, walltime) for site, need in needs.items())
        if not missing and allowed(t):
            return t
    return None
