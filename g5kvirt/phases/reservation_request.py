"""From a specification to the request for a testbed: sites selected, machines and sub-networks in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from g5kvirt.errors import CapacityError, TestbedError
from g5kvirt.inventory import Host
from g5kvirt.planning.addressing import subnetwork_prefix
from g5kvirt.planning.availability import Calendar, Need, candidate_starts, free_hosts, shortage
from g5kvirt.planning.checks import check_against, counted
from g5kvirt.planning.inventories import exclusion_reason
from g5kvirt.planning.links import check_links
from g5kvirt.planning.services import machines_per_site
from g5kvirt.planning.site_selection import select_sites
from g5kvirt.spec.clock import format_walltime
from g5kvirt.spec.spec import Spec
from g5kvirt.testbeds import ReservationRequest, Testbed

__all__ = ["request_for", "selection_at", "with_sites"]


def request_for(spec: Spec, name: str) -> ReservationRequest:
    """The request for ``spec``, whose sites are known; its jobs will be called ``name``.

    Raises CapacityError if a site's share of addresses is larger than any sub-network.
    """
    machines = machines_per_site(spec)
    fixed: Literal["now", "first"] = "first" if spec.start == "first" else "now"
    date = spec.start_seconds
    return ReservationRequest(
        machines=machines,
        subnetworks={site: subnetwork_prefix(spec.vms + machines[site]) for site in spec.sites},
        walltime=spec.walltime,
        job_name=name,
        clusters=spec.clusters or {},
        vlan_site=next(iter(spec.sites)),
        start_timeout=spec.timeouts.reserve,
        properties=spec.properties or "",
        queue=spec.queue,
        project=spec.project,
        job_types=spec.job_types,
        start=fixed if date is None else date,
    )


def check_on(spec: Spec, testbed: Testbed) -> None:
    """Check a specification with sites against a testbed, as `check_against`, and its links.

    Raises SpecError, CapacityError and TestbedError.
    """
    check_against(spec, testbed.hosts())
    if spec.links:
        check_links(spec.links, testbed.netem)


def with_sites(spec: Spec, testbed: Testbed) -> Spec:
    """``spec`` with its sites selected, if it only gives a number of hosts; else unchanged.

    The sites are selected by the machines that can carry VMs and are free: at the requested date; at the
    first time at which a selection is possible; or, for "now", at present, and by all machines if too few
    are free, since jobs can wait. The result depends on the time, so the selection is made once, when the run
    begins. Raises SpecError, CapacityError and TestbedError.
    """
    if spec.sites:
        return spec
    emulated = testbed.real_cores is not None
    hosts: Mapping[str, Sequence[Host]] = {
        site: [machine.host for machine in own if exclusion_reason(machine, spec, emulated=emulated) is None]
        for site, own in testbed.machines().items()
    }
    if spec.properties:
        able = testbed.select(spec.properties, list(hosts))
        hosts = {site: [h for h in own if h.name in able[site]] for site, own in hosts.items()}
    such = " with these properties" if spec.properties else ""
    everything = select_sites(
        spec, hosts, condition=such.strip()
    )  # what can never fit is refused without reading calendars
    calendar = testbed.calendar(list(hosts), spec.queue, spec.job_types)
    date = spec.start_seconds
    if spec.start == "first":
        for t in candidate_starts(calendar):
            if not calendar.is_open(t, spec.walltime):
                continue
            try:
                return spec.at(selection_at(spec, hosts, calendar, t, such))
            except CapacityError:
                continue
        wanted = f"{counted(spec.hosts, 'host')} and {counted(spec.services, 'service machine')}"
        raise TestbedError(
            f"within the next weeks there is no slot of {format_walltime(spec.walltime)} in which {wanted}"
            f" are free{such}",
            advice="request fewer machines or a shorter walltime",
        )
    try:
        selected = selection_at(spec, hosts, calendar, calendar.start if date is None else date, such)
    except CapacityError:
        if date is not None:
            raise
        selected = everything
    return spec.at(selected)


def selection_at(
    spec: Spec, hosts: Mapping[str, Sequence[Host]], calendar: Calendar, t: float, such: str = ""
) -> dict[str, int]:
    """Site → hosts, of those ``hosts`` that are free from ``t`` on, at sites with a free sub-network. Pure.

    Raises CapacityError.
    """
    prefix = subnetwork_prefix(spec.vms + spec.hosts + spec.services)
    open_sites = {}
    for site, own in calendar.sites.items():
        if not shortage(own, Need(0, prefix=prefix), t, spec.walltime):
            names = set(free_hosts(own, t, spec.walltime))
            open_sites[site] = [h for h in hosts[site] if h.name in names]
    if calendar.sites and not open_sites:
        raise CapacityError(
            f"no site has a sub-network /{prefix} free at that time",
            requested=1,
            available=0,
            advice="request fewer VMs or another start",
        )
    vlans = [s for s in open_sites if not shortage(calendar.sites[s], Need(0, vlan=True), t, spec.walltime)]
    return select_sites(spec, open_sites, vlans, f"free at that time{such}")
