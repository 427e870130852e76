"""deploy: Kadeploy3 puts the host environment on the machines, inside the global KaVLAN."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from g5kvirt.errors import PhaseError
from g5kvirt.phases import recall
from g5kvirt.phases.context import Context

__all__ = ["deploy"]


def deploy(context: Context) -> Mapping[str, Any]:
    """Deploy all machines of the reservation; the result holds those that came up.

    Raises PhaseError if none came up, or too few for the VMs and services that were asked for.
    """
    reservation = recall.reservation(context.journal)
    assert reservation is not None  # the order of the phases sees to it
    spec, journal = context.spec, context.journal
    for host in reservation.hosts:
        journal.append("deploy", "kadeploy3", "host", host.name, "start", environment=spec.host_environment)

    def notify(host: str, status: str, detail: Mapping[str, Any]) -> None:
        journal.append("deploy", "kadeploy3", "host", host, "ok" if status == "ok" else "failed", **detail)

    came = context.testbed.deploy(
        reservation,
        spec.host_environment,
        Path(context.key + ".pub").read_text(encoding="utf-8"),
        notify,
        timeout=spec.timeouts.deploy,
    )
    if came.failed:
        asked = len(reservation.hosts)
        name, reason = next(iter(sorted(came.failed.items())))
        raise PhaseError(
            f"{len(came.failed)} of {asked} machines were not deployed, first {name}: {reason};"
            " call deploy() again, or release() and reserve others",
            phase="deploy",
            step="kadeploy3",
        )
    return {"hosts": came.hosts, "failed": came.failed}
