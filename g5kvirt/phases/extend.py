"""More walltime for a run, also while a step of it is under way in another process."""

from __future__ import annotations

from dataclasses import replace

from g5kvirt.context import Context
from g5kvirt.errors import PhaseError
from g5kvirt.hostagent import calls, protocol
from g5kvirt.inventory import Reservation
from g5kvirt.netboot import services
from g5kvirt.phases.configure import boot_plan
from g5kvirt.planning.cluster import cluster_state
from g5kvirt.run import event_types, inbox

__all__ = ["extend"]


def extend(context: Context, seconds: int) -> Reservation:
    """Give all jobs ``seconds`` more, or none, and let what ends with them end later.

    Returns the reservation as it is now. Raises TestbedError, and PhaseError if services would end as before.
    """
    granted = context.journal.state.reservation
    assert granted is not None  # the caller has checked it
    context.testbed.extend(granted, seconds)
    extended = replace(granted, walltime=float(granted.walltime + seconds))
    event = event_types.walltime_extended(context.run.name, extended.walltime, seconds, context.now())
    inbox.record(context.run.path, context.journal, event)
    if context.journal.state.done("configure"):
        _put_off(context, extended)
    return extended


def _put_off(context: Context, reservation: Reservation) -> None:
    """Let the services end later that must end before the jobs do; nothing else about them changes."""
    cluster = replace(cluster_state(context.spec, context.journal.state), reservation=reservation)
    plan = boot_plan(context, cluster, (), {})
    documents = {}
    for machine in cluster.layout.machines:
        orders = [order for order in services.services(plan, machine) if order["until"] is not None]
        if orders:
            later = [{**order, "files": [], "check": []} for order in orders]
            documents[machine.host] = protocol.document(*later)
    replies = calls.call_agents(context.fanout, documents, timeout=context.spec.timeouts.services)
    if failed := [reply for reply in replies if not reply.ok]:
        raise PhaseError(
            f"the walltime was extended, but DHCP on {failed[0].host.name} still ends at the previous time"
            f" ({failed[0].reason})",
            phase="reserve",
            step="extend",
            advice="finish booting before that, or call launch() again, which updates it",
        )
