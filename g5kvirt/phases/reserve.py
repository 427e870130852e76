"""reserve: OAR jobs with machines and sub-networks on every site, one of them with the global KaVLAN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from g5kvirt.context import Context
from g5kvirt.errors import SpecError, TestbedError
from g5kvirt.images import minimal
from g5kvirt.images.cache import check_writable
from g5kvirt.phases import links
from g5kvirt.phases.own_runs import explained
from g5kvirt.phases.reservation_request import request_for
from g5kvirt.run import event_types
from g5kvirt.run.directory import job_name

__all__ = ["check_request", "release", "reserve"]


def reserve(context: Context) -> Mapping[str, Any]:
    """Reserve on all sites at once, or on none; journals each job as it is submitted and starts.

    The request has passed `check_request`. Raises TestbedError if OAR refuses.
    """
    spec, journal = context.spec, context.journal
    # Jobs that an earlier try may have left are used again, or else deleted: they hold the machines.
    again = len(journal.state.phases["reserve"].tries) > 1
    request = replace(
        request_for(spec, _jobs(context)),
        earlier=tuple(journal.state.jobs) if again else None,
    )

    def notify(site: str, what: str, detail: Mapping[str, Any]) -> None:
        journal.extend([event_types.job_progress(site, what, detail, context.now())])

    try:
        reservation = context.testbed.reserve(request, notify)
    except TestbedError as error:
        raise explained(context, error) from error.__cause__
    journal.extend([event_types.reservation_granted(context.run.name, reservation, context.now())])
    return {"hosts": len(reservation.hosts), "vlan": reservation.vlan}


def check_request(context: Context) -> None:
    """Check what can be known before anything is submitted or recorded, so that it is no try of the phase.

    Raises SpecError for a host environment that a site does not have, CapacityError for a request that cannot
    be made, and MachineError for a cache that cannot be written.
    """
    spec = context.spec
    request_for(spec, _jobs(context))
    if not context.testbed.simulated and not minimal.is_built():
        check_writable()  # what is built on the way is wanted when the machines are there already
    if context.journal.state.jobs:
        return  # an earlier try had it checked
    for finding in context.testbed.find_environment(spec.host_environment, list(spec.sites)):
        if finding.code == "unknown-environment":
            raise SpecError(f"{finding.subject}: {finding.message}", advice=finding.advice)


def release(context: Context) -> None:
    """Take links between VMs away, and delete all jobs that this run ever submitted.

    Raises TestbedError if one is left.
    """
    links.remove(context)
    context.disconnect()
    granted = context.journal.state.reservation is not None
    sites = [] if granted else list(context.spec.sites)
    context.testbed.release(list(context.journal.state.jobs), _jobs(context), sites)


def _jobs(context: Context) -> str:
    """The name of the run's jobs."""
    return job_name(context.spec.job_name, context.run.name, context.run.created)
