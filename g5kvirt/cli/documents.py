"""What commands print for other programs: JSON documents. Imports are local, as in `commands`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from g5kvirt.errors import G5kvirtError

if TYPE_CHECKING:
    from g5kvirt.run.directory import Run
    from g5kvirt.run.events import Event

__all__ = ["print_json", "run_document", "run_events"]


def print_json(document: object) -> None:
    """Print a document, readable by people as well."""
    print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def run_events(one: Run) -> list[Event]:
    """The events of a run; an experiment that was only created or checked has none yet."""
    from g5kvirt.run.journal import read_events

    return read_events(one.journal) if one.journal.exists() else []


def run_document(one: Run, now: float) -> dict[str, Any]:
    """A run: what was requested, its phases, its machines, its VMs and deployments. Times are epoch seconds,
    durations seconds; ``now`` decides whether the walltime is over. A journal that cannot be read is an
    ``error``, and nothing else is known then."""
    from g5kvirt.run.state import RunState

    about: dict[str, Any] = {
        "name": one.name,
        "path": str(one.path.absolute()),
        "created": one.created,
        "testbed": one.testbed,
        "prediction": one.predicted,
        "vms": one.vms,
    }
    try:
        state = RunState.of(run_events(one))
    except G5kvirtError as error:
        return about | {"error": str(error)}
    return about | _state(state, now)


def _state(state: Any, now: float) -> dict[str, Any]:
    from g5kvirt.run.tables import account
    from g5kvirt.views.text import machines_held

    outcome = account(state)
    phases = [
        {
            "phase": phase.name,
            "state": phase.state,
            "start": _number(phase.start),
            "seconds": _number(phase.seconds()),
            "tries": len(phase.tries),
        }
        for phase in state.phases.values()
    ]
    deployments = [
        {
            "deployment": name,
            "requested": len(one.vms),
            "deployed": sum(vm.outcome == "deployed" for vm in one.vms.values()),
            "failed": sum(vm.outcome == "failed" for vm in one.vms.values()),
        }
        for name, one in state.deployments.items()
    ]
    return {
        "guest": state.guest,
        "phases": phases,
        "machines": machines_held(state, now),
        "jobs": [{"site": site, "job": job} for site, job in state.jobs],
        "up": outcome.up,
        "failed": outcome.failed,
        "unfinished": outcome.unfinished,
        "failures": [
            {"step": step, "reason": reason, "vms": number}
            for (step, reason), number in outcome.reasons.items()
        ],
        "deployments": deployments,
    }


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if value != value else value
