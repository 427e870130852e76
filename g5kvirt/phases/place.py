"""place: which host carries which VM, with which name, address and MAC. Touches nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from g5kvirt.phases import recall
from g5kvirt.phases.context import Context
from g5kvirt.planning.capacity import capacities
from g5kvirt.planning.placement import place as plan

__all__ = ["place"]


def place(context: Context) -> Mapping[str, Any]:
    """Place all VMs by what the hosts said of themselves. Raises CapacityError if they do not fit."""
    spec, journal = context.spec, context.journal
    stand = recall.stand(spec, journal)
    room = capacities(
        [stand.facts[h.name].cores for h in stand.hosts],
        [stand.facts[h.name].memory for h in stand.hosts],
        spec.capacity,
        spec.vm,
    )
    placement = plan(
        spec.vms,
        stand.hosts,
        room,
        stand.reservation.subnetworks,
        strategy=spec.placement,
        taken=[*stand.layout.taken, *stand.addresses.values()],
    )
    journal.append("place", "plan", "run", context.run.name, "ok", vms=placement.to_plain())
    return {"vms": len(placement), "network": str(placement.network), "sites": placement.by_site()}
