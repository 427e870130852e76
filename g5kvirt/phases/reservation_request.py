"""From a specification to what is asked of a testbed: sites chosen, machines and sub-networks in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from g5kvirt.errors import CapacityError, TestbedError
from g5kvirt.inventory import Host
from g5kvirt.planning.addressing import subnetwork_prefix
from g5kvirt.planning.availability import Agenda, Need, free_hosts, lacking, moments
from g5kvirt.planning.checks import counted
from g5kvirt.planning.inventories import unfit
from g5kvirt.planning.services import machines_per_site
from g5kvirt.planning.site_selection import choose
from g5kvirt.spec.clock import format_walltime
from g5kvirt.spec.spec import Spec
from g5kvirt.testbeds import Request, Testbed

__all__ = ["at_a_time", "request_for", "with_sites"]


def request_for(spec: Spec, name: str) -> Request:
    """What to ask of the testbed for ``spec``, whose sites are known, in jobs called ``name``.

    Raises CapacityError if a site's share of addresses is larger than any sub-network.
    """
    machines = machines_per_site(spec)
    word: Literal["now", "first"] = "first" if spec.start == "first" else "now"
    date = spec.start_seconds
    return Request(
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
        start=word if date is None else date,
    )


def with_sites(spec: Spec, testbed: Testbed) -> Spec:
    """``spec`` with its sites chosen, where it only says how many hosts it wants; else as it is.

    The choice is made among the machines that can carry VMs and are free: at the date asked for; at the first
    moment at which a choice is possible; or, for "now", at this moment, and among all machines where too few
    are free, since jobs can wait. So it may be another one an hour later, and is made once, when the run
    begins. Raises SpecError, CapacityError and TestbedError.
    """
    if spec.sites:
        return spec
    emulated = testbed.real_cores is not None
    hosts: Mapping[str, Sequence[Host]] = {
        site: [machine.host for machine in own if unfit(machine, spec, emulated=emulated) is None]
        for site, own in testbed.machines().items()
    }
    if spec.properties:
        able = testbed.select(spec.properties, list(hosts))
        hosts = {site: [h for h in own if h.name in able[site]] for site, own in hosts.items()}
    such = " with these properties" if spec.properties else ""
    everything = choose(spec, hosts, condition=such.strip())  # what never fits is said in plain numbers
    agenda = testbed.calendar(list(hosts), spec.queue)
    date = spec.start_seconds
    if spec.start == "first":
        for t in moments(agenda):
            try:
                return spec.at(at_a_time(spec, hosts, agenda, t, such))
            except CapacityError:
                continue
        wanted = f"{counted(spec.hosts, 'host')} and {counted(spec.services, 'service machine')}"
        raise TestbedError(
            f"there is no slot of {format_walltime(spec.walltime)} in the weeks that can be looked ahead in"
            f" which {wanted} are free{such}: ask for fewer or for a shorter walltime"
        )
    try:
        chosen = at_a_time(spec, hosts, agenda, agenda.start if date is None else date, such)
    except CapacityError:
        if date is not None:
            raise
        chosen = everything
    return spec.at(chosen)


def at_a_time(
    spec: Spec, hosts: Mapping[str, Sequence[Host]], agenda: Agenda, t: float, such: str = ""
) -> dict[str, int]:
    """The choice among machines of ``hosts`` that are free from ``t`` on, on sites with a sub-network. Pure.

    Raises CapacityError.
    """
    prefix = subnetwork_prefix(spec.vms + spec.hosts + spec.services)
    open_sites = {}
    for site, own in agenda.sites.items():
        if not lacking(own, Need(0, prefix=prefix), t, spec.walltime):
            names = set(free_hosts(own, t, spec.walltime))
            open_sites[site] = [h for h in hosts[site] if h.name in names]
    if agenda.sites and not open_sites:
        message = f"no site has a sub-network /{prefix} free at that time: ask for fewer VMs or another start"
        raise CapacityError(message, asked=1, available=0)
    vlans = [s for s in open_sites if not lacking(agenda.sites[s], Need(0, vlan=True), t, spec.walltime)]
    return choose(spec, open_sites, vlans, f"free at that time{such}")
