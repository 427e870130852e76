"""place: which host carries which VM, with which name, address and MAC. Touches nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from g5kvirt.context import Context
from g5kvirt.planning.capacity import host_room
from g5kvirt.planning.cluster import cluster_state
from g5kvirt.planning.group_placement import host_shares
from g5kvirt.planning.placement import place as plan
from g5kvirt.run import event_types

__all__ = ["place"]


def place(context: Context) -> Mapping[str, Any]:
    """Place all VMs by the facts that the hosts reported. Raises CapacityError if they do not fit."""
    spec, journal = context.spec, context.journal
    cluster = cluster_state(spec, journal.state)
    facts = cluster.facts
    hosts = [replace(h, cores=facts[h.name].cores, memory=facts[h.name].memory) for h in cluster.hosts]
    placement = plan(
        spec.vms,
        cluster.hosts,
        host_room(spec, hosts),
        cluster.reservation.subnetworks,
        strategy=spec.placement,
        taken=[*cluster.layout.taken, *cluster.addresses.values()],
        shares=host_shares(spec, hosts) if spec.groups else None,
    )
    journal.extend([event_types.placement(context.run.name, placement.to_plain(), context.now())])
    found = {"vms": len(placement), "network": str(placement.network), "sites": placement.by_site()}
    return found | ({"groups": {g.name: g.count for g in spec.groups}} if spec.groups else {})
