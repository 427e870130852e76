"""place: which host carries which VM, with which name, address and MAC. Touches nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from g5kvirt.context import Context
from g5kvirt.planning.capacity import capacities
from g5kvirt.planning.cluster import cluster_state
from g5kvirt.planning.placement import place as plan
from g5kvirt.run import event_types

__all__ = ["place"]


def place(context: Context) -> Mapping[str, Any]:
    """Place all VMs by the facts that the hosts reported. Raises CapacityError if they do not fit."""
    spec, journal = context.spec, context.journal
    cluster = cluster_state(spec, journal.state)
    room = capacities(
        [cluster.facts[h.name].cores for h in cluster.hosts],
        [cluster.facts[h.name].memory for h in cluster.hosts],
        spec.capacity,
        spec.vm,
    )
    placement = plan(
        spec.vms,
        cluster.hosts,
        room,
        cluster.reservation.subnetworks,
        strategy=spec.placement,
        taken=[*cluster.layout.taken, *cluster.addresses.values()],
    )
    journal.extend([event_types.placement(context.run.name, placement.to_plain(), context.now())])
    return {"vms": len(placement), "network": str(placement.network), "sites": placement.by_site()}
