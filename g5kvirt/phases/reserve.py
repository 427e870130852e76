"""reserve: OAR jobs on every site with machines and sub-networks, one of them with the global KaVLAN."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from g5kvirt.context import Context
from g5kvirt.errors import SpecError
from g5kvirt.inventory import to_plain
from g5kvirt.phases.reservation_request import request_for
from g5kvirt.run import state
from g5kvirt.run.directory import job_name
from g5kvirt.testbeds.grid5000.preflight import ask_frontends

__all__ = ["release", "reserve"]

#: Of what Kadeploy3 says: that there is no such environment, and not that it cannot tell today.
_UNKNOWN = re.compile(r"not exist|n't exist|no such|not found|unknown", re.IGNORECASE)


def reserve(context: Context) -> Mapping[str, Any]:
    """Reserve on all sites at once, or nowhere; journals each job as it is submitted and starts.

    Raises SpecError, before anything is asked for, if a site's Kadeploy3 has no such host environment;
    TestbedError if OAR refuses.
    """
    spec, journal = context.spec, context.journal
    if not state.jobs(journal):
        _check_environment(context)
    # What an earlier try may have left is gone on with, or else holds the machines that are asked for now.
    again = len(state.tries(journal, "reserve")) > 1
    request = replace(
        request_for(spec, _jobs(context)),
        earlier=tuple(state.jobs(journal)) if again else None,
    )

    def notify(site: str, what: str, detail: Mapping[str, Any]) -> None:
        journal.append("reserve", what, "site", site, "ok", **detail)

    reservation = context.testbed.reserve(request, notify)
    journal.append("reserve", "granted", "run", context.run.name, "ok", **to_plain(reservation))
    return {"hosts": len(reservation.hosts), "vlan": reservation.vlan}


def _check_environment(context: Context) -> None:
    """A wrong name would be found out when the machines are there already.

    Raises SpecError.
    """
    spec = context.spec
    for row in ask_frontends(context.testbed, list(spec.sites), spec.host_environment):
        said = row.says.replace(spec.host_environment, "")  # an environment may be called by one of the words
        if row.what == "environment" and row.status == "problem" and _UNKNOWN.search(said):
            raise SpecError(f"{row.subject}: {row.says}: {row.todo}")


def release(context: Context) -> None:
    """Give back everything that this run ever reserved. Raises TestbedError if a job is still there."""
    granted = state.reservation(context.journal) is not None
    sites = [] if granted else list(context.spec.sites)
    context.testbed.release(state.jobs(context.journal), _jobs(context), sites)


def _jobs(context: Context) -> str:
    """What the run's jobs are called."""
    return job_name(context.spec.job_name, context.run.name, context.run.created)
