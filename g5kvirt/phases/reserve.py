"""reserve: OAR jobs on every site with machines and sub-networks, one of them with the global KaVLAN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from g5kvirt.inventory import to_plain
from g5kvirt.phases import recall
from g5kvirt.phases.context import Context
from g5kvirt.planning.addressing import subnetwork_prefix
from g5kvirt.planning.services import machines_per_site
from g5kvirt.testbeds import Request

__all__ = ["release", "reserve"]


def reserve(context: Context) -> Mapping[str, Any]:
    """Reserve on all sites at once, or nowhere; journals each job as it is submitted and starts."""
    spec, journal = context.spec, context.journal
    if len(recall.tries(journal, "reserve")) > 1:
        release(context)  # what an earlier try may have left holds the machines that are asked for now
    machines = machines_per_site(spec)
    request = Request(
        machines=machines,
        subnetworks={site: subnetwork_prefix(spec.vms + machines[site]) for site in spec.sites},
        walltime=spec.walltime,
        job_name=_job_name(context),
        clusters=spec.clusters or {},
        vlan_site=next(iter(spec.sites)),
        start_timeout=spec.timeouts.reserve,
    )

    def notify(site: str, what: str, detail: Mapping[str, Any]) -> None:
        journal.append("reserve", what, "site", site, "ok", **detail)

    reservation = context.testbed.reserve(request, notify)
    journal.append("reserve", "granted", "run", context.run.name, "ok", **to_plain(reservation))
    return {"hosts": len(reservation.hosts), "vlan": reservation.vlan}


def release(context: Context) -> None:
    """Give back everything that this run ever reserved. Raises TestbedError if a job is still there."""
    granted = recall.reservation(context.journal) is not None
    sites = [] if granted else list(context.spec.sites)
    context.testbed.release(recall.jobs(context.journal), _job_name(context), sites)


def _job_name(context: Context) -> str:
    """What the run's jobs are called: by it they are found again."""
    return f"{context.spec.job_name}-{context.run.name}"
