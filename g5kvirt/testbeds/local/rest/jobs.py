"""Jobs as the REST API describes and lists them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from g5kvirt.testbeds.local import reference
from g5kvirt.testbeds.local.oardb import Job, JobFilter
from g5kvirt.testbeds.local.rest.http import HttpError

__all__ = ["DEFAULT_LIMIT", "LARGEST_LIMIT", "document", "job_filter", "page_bounds"]

DEFAULT_LIMIT, LARGEST_LIMIT = 50, 500  #: jobs in one answer
#: The states of OAR for each state of a filter that is coarser.
_OAR_STATES = {
    "waiting": ("waiting", "toackreservation"),
    "launching": ("tolaunch", "launching"),
    "running": ("running", "finishing", "resuming"),
}
_NOT_STARTED = ("Waiting", "Hold", "toLaunch", "toAckReservation")


def page_bounds(
    query: Mapping[str, str], default: int = DEFAULT_LIMIT, largest: int = LARGEST_LIMIT
) -> tuple[int, int]:
    """(offset, limit) of a list. Raises HttpError."""
    try:
        offset, limit = int(query.get("offset") or 0), int(query.get("limit") or default)
    except ValueError:
        raise HttpError(HTTPStatus.BAD_REQUEST, "limit and offset must be whole numbers") from None
    return max(0, min(offset, 1 << 31)), max(0, min(limit, largest))


def job_filter(query: Mapping[str, str]) -> JobFilter:
    """Which jobs a list has; without ``state`` those in all states."""
    states = None
    if "state" in query:
        names = [name.strip().lower() for name in query["state"].split(",")]
        states = tuple(state for name in names for state in _OAR_STATES.get(name, (name,)))
    return JobFilter(states, **{key: query.get(key) for key in ("user", "name", "queue", "project")})


def document(site: str, job: Job, *, resources: bool) -> dict[str, Any]:
    """A job; ``resources``: with its nodes and what else it holds. What is not known is left out."""
    links = [
        reference.link("sites", site, "jobs", job.id),
        reference.link("sites", site, rel="parent"),
    ]
    found: dict[str, Any] = {
        "uid": job.id,
        "user_uid": job.user,
        "user": job.user,
        "walltime": job.walltime,
        "queue": job.queue,
        "state": job.state.lower(),
        "project": job.project,
        "name": job.name or None,
        "types": list(job.types),
        "mode": job.mode,
        "command": job.command or None,
        "submitted_at": job.submitted,
        "scheduled_at": job.scheduled or None,
        # 0 until it starts: execo's planning then uses the prediction
        "started_at": 0 if job.state in _NOT_STARTED else job.start,
        "stopped_at": job.stop or None,
        "message": job.message,
        "exit_code": job.exit_code,
        "properties": job.properties,
        "directory": job.directory,
        "links": links,
    }
    if resources:
        found |= {"assigned_nodes": list(job.assigned.nodes), "resources_by_type": _by_type(job)}
    return {key: value for key, value in found.items() if value is not None}


def _by_type(job: Job) -> dict[str, list[str]]:
    assigned = job.assigned
    found = {
        "cores": list(assigned.cores),
        "vlans": [str(vlan) for vlan in assigned.vlans],
        "subnets": [str(subnet) for subnet in assigned.subnets],
        "disks": list(assigned.disks),
    }
    return {kind: names for kind, names in found.items() if names}
