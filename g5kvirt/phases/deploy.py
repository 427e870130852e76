"""deploy: Kadeploy3 puts the host environment on the machines, inside the global KaVLAN."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from g5kvirt.errors import CapacityError, PhaseError
from g5kvirt.phases import recall
from g5kvirt.phases.context import Context
from g5kvirt.planning.capacity import capacity
from g5kvirt.planning.services import split_machines

__all__ = ["deploy"]


def deploy(context: Context) -> Mapping[str, Any]:
    """Deploy all machines of the reservation; the result holds those that came up.

    The run goes on without those that failed as long as the VMs still fit on the others. Raises PhaseError
    if they do not.
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
    try:
        _, hosts = split_machines(spec, came.hosts)
        room = sum(capacity(h.cores, h.memory, spec.capacity, spec.vm) for h in hosts)
        if room < spec.vms:
            raise CapacityError(
                f"the hosts that came up carry {room} of {spec.vms} VMs", asked=spec.vms, available=room
            )
    except CapacityError as error:
        first = "".join(f", first {name}: {why}" for name, why in sorted(came.failed.items())[:1])
        raise PhaseError(
            f"{len(came.failed)} of {len(reservation.hosts)} machines were not deployed{first}; {error};"
            " call deploy() again, or release() and reserve others",
            phase="deploy",
            step="kadeploy3",
        ) from error
    return {"hosts": came.hosts, "failed": came.failed}
