"""What the nodes of a site are doing: ``sites/S/status`` and ``sites/S/clusters/C/status``. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from g5kvirt.testbeds.local.oardb import ACTIVE, Job
from g5kvirt.testbeds.local.rest import jobs

__all__ = ["STATES", "nodes_status"]

#: States of the jobs that a status mentions: those that have nodes, or will have.
STATES = (*ACTIVE, "Waiting", "Hold", "toAckReservation")


def nodes_status(
    site: str, rows: Iterable[Mapping[str, Any]], known: Iterable[Job], cluster: str | None = None
) -> dict[str, dict[str, Any]]:
    """Node → its status.

    :param rows: all resources of the site's OAR.
    :param known: the site's jobs in one of `STATES`.
    :param cluster: only its nodes; None: all.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.get("type") != "default" or cluster not in (None, row.get("cluster")):
            continue
        name, state = str(row["network_address"]), str(row.get("state") or "unknown").lower()
        node = found.setdefault(name, {"hard": state, "slots": 0})
        node["slots"] += 1
        if state != "alive":  # one core of it is enough
            node["hard"] = state
    busy = dict.fromkeys(found, 0)
    freeable = dict.fromkeys(found, 0)
    reservations: dict[str, list[dict[str, Any]]] = {name: [] for name in found}
    for job in sorted(known, key=lambda job: job.id):
        described = jobs.document(site, job, resources=False)
        for name in (name for name in job.assigned.nodes if name in found):
            reservations[name].append(described)
            if job.state in ACTIVE:
                cores = sum(core.partition("/")[0] == name for core in job.assigned.cores)
                counted = freeable if job.queue == "besteffort" else busy
                counted[name] += cores
    return {
        name: {
            "hard": node["hard"],
            "soft": _soft(node["hard"], busy[name], freeable[name]),
            "free_slots": max(0, node["slots"] - busy[name] - freeable[name]),
            "freeable_slots": freeable[name],
            "busy_slots": busy[name],
            "reservations": reservations[name],
        }
        for name, node in found.items()
    }


def _soft(hard: str, busy: int, freeable: int) -> str:
    if hard != "alive":
        return "unknown"
    if busy:
        return "busy"
    return "besteffort" if freeable else "free"
