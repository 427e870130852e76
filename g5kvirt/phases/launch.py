"""launch: the VMs are powered on, netboot into the minimal system and report in.

One thread decides, with a `BootTracker` as its memory; a driver powers VMs on and reports how far they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from g5kvirt.context import Context
from g5kvirt.errors import PhaseError, Stopped
from g5kvirt.guests.boot_time import boot_limit
from g5kvirt.guests.boots import MachineBoots
from g5kvirt.guests.registry import GUESTS
from g5kvirt.inventory import VM
from g5kvirt.netboot.boot_loop import BootDriver, boot_all
from g5kvirt.netboot.boot_tracker import BootTracker
from g5kvirt.netboot.services import dhcp_servers
from g5kvirt.netboot.simulated_boots import SimulatedBoots
from g5kvirt.phases import links
from g5kvirt.phases.configure import boot_plan, serve
from g5kvirt.phases.load import sampled_load
from g5kvirt.planning.cluster import ClusterState, cluster_state
from g5kvirt.planning.windows import boot_window
from g5kvirt.run import event_types

__all__ = ["launch"]


def launch(context: Context) -> Mapping[str, Any]:
    """Boot every VM, or record at which step each one stopped and why.

    VMs that an earlier call brought up are left as they are. Single VMs never raise; raises PhaseError if
    not one came up.
    """
    journal = context.journal
    cluster = cluster_state(context.spec, journal.state)
    vms = journal.state.placed_vms
    facts = [cluster.facts[h.name] for h in cluster.hosts]
    guest = context.testbed.guest or GUESTS[context.spec.guest].label(facts)
    journal.extend([event_types.guest_kind(context.run.name, guest, context.now())])
    if context.testbed.world is None:
        links.before_launch(context, cluster)
    tracker = _tracker(context, cluster, vms)
    try:
        with sampled_load(context, cluster, "launch"), _driver(context, cluster, vms) as driver:
            boot_all(tracker, driver, clock=context.now, write=journal.extend)
    except (Stopped, PhaseError) as error:  # unlike after Ctrl-C, nobody follows what is under way any more
        _fail_all(context, tracker, error.message if isinstance(error, PhaseError) else str(error))
        raise
    up, failed = tracker.count("up"), tracker.count("failed")
    if up == 0:
        first = next(b for b in tracker.boots.values() if b.state == "failed")
        raise PhaseError(
            f"none of {failed} VMs came up, first {first.vm.name} on {first.vm.host}: {first.reason}",
            phase="launch",
            step=first.at,
        )
    return {"up": up, "failed": failed}


def _tracker(context: Context, cluster: ClusterState, vms: Sequence[VM]) -> BootTracker:
    """All VMs, those that an earlier call brought up among them."""
    facts = [cluster.facts[h.name] for h in cluster.hosts]
    guest = GUESTS[context.spec.guest]
    tracker = BootTracker(
        guest.start_order(vms),
        boot_window(context.spec.windows, facts, guest.label, real_cores=context.testbed.real_cores),
        boot_limit(context, cluster),
        context.spec.timeouts.boot_attempts,
    )
    for name in context.journal.state.up_vms:
        tracker.already_up(name)
    return tracker


def _driver(context: Context, cluster: ClusterState, vms: Sequence[VM]) -> AbstractContextManager[BootDriver]:
    """What powers VMs on: the machines, or the model in their place."""
    if context.testbed.world is not None:
        return nullcontext(SimulatedBoots(context.testbed.world, cluster.layout, vms))
    configured = context.journal.state.detail("configure")
    assert configured is not None  # the order of the phases sees to it
    plan = boot_plan(context, cluster, tuple(vms), configured["addresses"])
    return MachineBoots(
        context,
        cluster,
        vms,
        lambda: serve(context, cluster, plan, phase="launch"),
        dhcp_servers(plan),
    )


def _fail_all(context: Context, tracker: BootTracker, reason: str) -> None:
    """Every VM that is not up has failed where it is."""
    now = context.now()
    context.journal.extend(
        event_types.boot_failed(b.vm.name, now, b.attempt, b.at, reason)
        for b in tracker.boots.values()
        if b.state not in ("up", "failed")
    )
