"""The load of the run's machines while a phase lasts, as events of the journal."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from g5kvirt.context import Context
from g5kvirt.hostagent.load_watch import LoadWatch
from g5kvirt.planning.cluster import ClusterState
from g5kvirt.run import event_types

__all__ = ["sampled_load"]


def sampled_load(context: Context, cluster: ClusterState, phase: str) -> AbstractContextManager[object]:
    """Journal how busy hosts and service machines are, every few seconds; in a prediction nothing."""
    if context.testbed.world is not None:
        return nullcontext()

    def take(t: float, hosts: Mapping[str, Any], here: Mapping[str, Any], first: bool) -> None:
        event = event_types.load_sampled(phase, context.run.name, t, hosts, here, first=first)
        context.journal.extend([event])

    machines = {host.name: host for host in (*cluster.hosts, *(m.host for m in cluster.layout.machines))}
    return LoadWatch(context.fanout, machines.values(), take, real_cores=context.testbed.real_cores)
