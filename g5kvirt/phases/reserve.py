"""reserve: OAR jobs on every site with machines and sub-networks, one of them with the global KaVLAN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from g5kvirt.inventory import to_plain
from g5kvirt.phases.context import Context
from g5kvirt.planning.addressing import subnetwork_prefix
from g5kvirt.planning.services import machines_per_site
from g5kvirt.testbeds import Request

__all__ = ["job_name", "reserve"]


def job_name(context: Context) -> str:
    """What the run's jobs are called: by it they are found again."""
    return f"{context.spec.job_name}-{context.run.name}"


def reserve(context: Context) -> Mapping[str, Any]:
    """Reserve on all sites at once, or nowhere; journals each job as it is submitted and starts."""
    spec, journal = context.spec, context.journal
    machines = machines_per_site(spec)
    request = Request(
        machines=machines,
        subnetworks={site: subnetwork_prefix(spec.vms + machines[site]) for site in spec.sites},
        walltime=spec.walltime,
        job_name=job_name(context),
        clusters=spec.clusters or {},
        vlan_site=next(iter(spec.sites)),
        start_timeout=spec.timeouts.reserve,
    )

    def notify(site: str, what: str, detail: Mapping[str, Any]) -> None:
        journal.append("reserve", what, "site", site, "ok", **detail)

    reservation = context.testbed.reserve(request, notify)
    journal.append("reserve", "granted", "run", context.run.name, "ok", **to_plain(reservation))
    return {"hosts": len(reservation.hosts), "vlan": reservation.vlan}
