"""How long a boot may take on the machines of a run."""

from __future__ import annotations

from collections.abc import Callable

from g5kvirt.context import Context
from g5kvirt.guests.registry import GUESTS
from g5kvirt.planning.cluster import ClusterState
from g5kvirt.planning.windows import boot_timeout

__all__ = ["boot_limit"]


def boot_limit(context: Context, cluster: ClusterState) -> Callable[[int, int], float]:
    """Seconds that a boot may take, as a function of how many VMs boot at once and of the attempt."""
    facts = [cluster.facts[h.name] for h in cluster.hosts]
    cores = context.testbed.real_cores or sum(f.cores for f in facts)
    guest = GUESTS[context.spec.guest].label(facts)
    fixed = context.spec.timeouts.boot

    def limit(booting: int, attempt: int) -> float:
        return fixed if fixed is not None else boot_timeout(booting, cores, guest=guest, attempt=attempt)

    return limit
