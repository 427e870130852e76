"""Checks of a spec against what a testbed has: names, machines, room for the VMs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from g5kvirt.errors import CapacityError, SpecError
from g5kvirt.inventory import Host
from g5kvirt.planning.capacity import RULES, host_room
from g5kvirt.planning.group_placement import check_fits
from g5kvirt.planning.placement import STRATEGIES
from g5kvirt.planning.services import machines_per_site, services_per_site
from g5kvirt.spec.groups import sizes_in_words
from g5kvirt.spec.spec import Spec, suggest

__all__ = ["check_against", "check_names", "counted"]


def check_names(spec: Spec) -> None:
    """Raises SpecError if the placement strategy or the capacity rule is not registered."""
    if spec.placement not in STRATEGIES:
        raise SpecError(
            f"unknown placement strategy {spec.placement!r}", advice=suggest(spec.placement, STRATEGIES)
        )
    if spec.capacity.rule not in RULES:
        raise SpecError(
            f"unknown capacity rule {spec.capacity.rule!r}", advice=suggest(spec.capacity.rule, RULES)
        )


def check_against(spec: Spec, hosts_by_site: Mapping[str, Sequence[Host]]) -> None:
    """Check a spec against the machines that exist, before anything is reserved.

    Raises SpecError for an unknown site, cluster, strategy or rule; CapacityError,
    with the numbers and what would fit, for more machines than a site has or more VMs than its best machines
    can carry.
    Which machines OAR will give is not known yet: `place` checks again with those.
    """
    check_names(spec)
    _check_groups(spec, hosts_by_site)
    clusters = spec.clusters or {}
    fitting: dict[str, list[Host]] = {}
    for site in spec.sites:
        if site not in hosts_by_site:
            raise SpecError(f"unknown site {site!r}", advice=suggest(site, hosts_by_site))
        fitting[site] = list(hosts_by_site[site])
        if (cluster := clusters.get(site)) is not None:
            known = {h.cluster for h in fitting[site]}
            if cluster not in known:
                raise SpecError(f"unknown cluster {cluster!r} at {site}", advice=suggest(cluster, known))
            fitting[site] = [h for h in fitting[site] if h.cluster == cluster]
    _check_machines(spec, fitting)
    _check_vms(spec, fitting)


def _check_groups(spec: Spec, hosts_by_site: Mapping[str, Sequence[Host]]) -> None:
    """VMs of a group that is called like a cluster would have the names of machines; inventories and links
    know groups and sites by their names."""
    clusters = {host.cluster for hosts in hosts_by_site.values() for host in hosts} if spec.groups else set()
    for group in spec.groups:
        if group.name in spec.sites:
            raise SpecError(
                f"the group {group.name!r} has the name of a site: links and inventories could mean either",
                advice="give it another name",
            )
        if group.name in clusters:
            raise SpecError(
                f"the group {group.name!r} has the name of a cluster: its VMs would have names like machines",
                advice="give it another name",
            )


def _check_machines(spec: Spec, fitting: Mapping[str, Sequence[Host]]) -> None:
    services = services_per_site(spec.sites, spec.services)
    for site, needed in machines_per_site(spec).items():
        there = len(fitting[site])
        if needed <= there:
            continue
        where = (
            f"cluster {spec.clusters[site]} at {site}" if spec.clusters and site in spec.clusters else site
        )
        room = there - services[site]
        advice = (
            f"request at most {counted(room, 'host')} there" if room > 0 else "choose another site or cluster"
        )
        wanted = f"{counted(spec.sites[site], 'host')} and {counted(services[site], 'service machine')}"
        raise CapacityError(
            f"the specification needs {wanted} at {where}, which has {counted(there, 'machine')}",
            requested=needed,
            available=there,
            advice=advice,
        )


def _check_vms(spec: Spec, fitting: Mapping[str, Sequence[Host]]) -> None:
    best: dict[str, int] = {}
    chosen: list[Host] = []
    everything = 0
    for site, hosts in fitting.items():
        room = host_room(spec, hosts)
        order = np.argsort(-room, kind="stable")
        largest_first = room[order]
        chosen += [hosts[i] for i in order[: spec.sites[site]].tolist()]
        best[site] = int(largest_first[: spec.sites[site]].sum())
        # a service machine is one of them: the largest are taken for VMs in the best case
        spare = len(hosts) - services_per_site(spec.sites, spec.services)[site]
        everything += int(largest_first[:spare].sum())
    total = sum(best.values())
    if spec.vms <= total:
        return check_fits(spec, chosen)
    shares = ", ".join(f"{site} {number}" for site, number in best.items())
    if total == 0:
        advice = "request smaller VMs or change the capacity rule"
    elif everything > total:
        advice = f"request at most {total} VMs or more hosts (all machines of these sites carry {everything})"
    else:
        advice = f"request at most {total} VMs or more sites"
    raise CapacityError(
        f"{counted(spec.vms, 'VM')} {sizes_in_words(spec.kinds)} do not fit on "
        f"{counted(spec.hosts, 'host')}, which carry at most {total} ({shares})",
        requested=spec.vms,
        available=total,
        advice=advice,
    )


def counted(number: int, thing: str) -> str:
    """``1 host``, ``2 hosts``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
