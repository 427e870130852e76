"""reserve: OAR jobs on every site with machines and sub-networks, one of them with the global KaVLAN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from g5kvirt.inventory import to_plain
from g5kvirt.phases import recall
from g5kvirt.phases.asked import request_for
from g5kvirt.phases.context import Context
from g5kvirt.runs import job_name

__all__ = ["release", "reserve"]


def reserve(context: Context) -> Mapping[str, Any]:
    """Reserve on all sites at once, or nowhere; journals each job as it is submitted and starts."""
    spec, journal = context.spec, context.journal
    # What an earlier try may have left is gone on with, or else holds the machines that are asked for now.
    again = len(recall.tries(journal, "reserve")) > 1
    request = replace(
        request_for(spec, _jobs(context)),
        earlier=tuple(recall.jobs(journal)) if again else None,
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
    context.testbed.release(recall.jobs(context.journal), _jobs(context), sites)


def _jobs(context: Context) -> str:
    """What the run's jobs are called."""
    return job_name(context.spec.job_name, context.run.name, context.run.created)
