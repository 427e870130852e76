"""deploy: Kadeploy3 puts the host environment on the machines, inside the global KaVLAN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from g5kvirt.context import Context
from g5kvirt.errors import CapacityError, PhaseError
from g5kvirt.inventory import Host
from g5kvirt.planning.capacity import host_room
from g5kvirt.planning.checks import counted
from g5kvirt.planning.group_placement import check_fits
from g5kvirt.planning.services import split_machines
from g5kvirt.run.vocabulary import Status
from g5kvirt.spec.spec import Spec

__all__ = ["check_enough", "check_room", "deploy"]


def deploy(context: Context) -> Mapping[str, Any]:
    """Deploy all machines of the reservation; the result holds those that were deployed.

    The run continues without those that failed as long as the VMs fit on the others, and at least
    ``spec.min_hosts`` of them are hosts. Raises PhaseError if not.
    """
    reservation = context.journal.state.reservation
    assert reservation is not None  # ensured by the order of the phases
    spec, journal = context.spec, context.journal
    for host in reservation.hosts:
        now, environment = context.now(), spec.host_environment
        journal.append("deploy", "kadeploy3", "host", host.name, "start", t=now, environment=environment)

    def notify(host: str, status: str, detail: Mapping[str, Any]) -> None:
        end: Status = "ok" if status == "ok" else "failed"
        journal.append("deploy", "kadeploy3", "host", host, end, t=context.now(), **detail)

    result = context.testbed.deploy(
        reservation,
        spec.host_environment,
        "" if context.testbed.simulated else Path(context.key + ".pub").read_text(encoding="utf-8"),
        notify,
        timeout=spec.timeouts.deploy,
    )
    try:
        check_enough(spec, result.hosts)
    except CapacityError as error:
        first = "".join(f" (first {name}: {reason})" for name, reason in sorted(result.failed.items())[:1])
        raise PhaseError(
            f"{len(result.failed)} of {len(reservation.hosts)} machines were not deployed{first};"
            f" {error.message}",
            phase="deploy",
            step="kadeploy3",
            advice="call deploy() again, or release() and reserve other machines",
        ) from error
    return {"hosts": result.hosts, "failed": result.failed}


def check_enough(spec: Spec, machines: Sequence[Host]) -> None:
    """Raises CapacityError if the run cannot continue with these machines alone."""
    check_room(spec, split_machines(spec, machines)[1])


def check_room(spec: Spec, hosts: Sequence[Host]) -> None:
    """Raises CapacityError if these hosts are too few, or too small for the VMs."""
    if spec.min_hosts is not None and len(hosts) < spec.min_hosts:
        raise CapacityError(
            f"{counted(len(hosts), 'host')} for VMs came up, but min_hosts is {spec.min_hosts}",
            requested=spec.min_hosts,
            available=len(hosts),
        )
    room = int(host_room(spec, hosts).sum())
    if room < spec.vms:
        raise CapacityError(
            f"{counted(len(hosts), 'host')} for VMs came up, with room for only {room} of {spec.vms} VMs",
            requested=spec.vms,
            available=room,
        )
    check_fits(spec, hosts)
