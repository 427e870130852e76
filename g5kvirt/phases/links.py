"""Links between VMs: set on the hosts, changed while VMs run, measured, and taken away at the end.

`launch` sets those of the specification before the first VM is powered on; a tap that is made later gets its
classes by its host's agent. What was set is measured by VMs themselves: a ping, and a short transfer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from g5kvirt.context import Context
from g5kvirt.errors import PhaseError, RunError
from g5kvirt.guests import link_probe
from g5kvirt.guests.commands import GuestCommands
from g5kvirt.hostagent import calls, link_request, protocol
from g5kvirt.inventory import VM
from g5kvirt.planning.cluster import ClusterState, cluster_state
from g5kvirt.planning.links import check_links, plan_links, vms_at
from g5kvirt.run import inbox, link_events
from g5kvirt.run.events import Event
from g5kvirt.spec.links import Link, check_ends, read_links

__all__ = ["before_launch", "check", "links_in_force", "measure_links", "remove", "set_links"]

#: Seconds for the hosts to take links away before the machines are given back.
_REMOVE_TIMEOUT = 30.0


def links_in_force(context: Context) -> tuple[Link, ...]:
    """The links as they were last set; before that, those of the specification."""
    found = context.journal.state.links
    return context.spec.links if found is None else found


def check(context: Context, links: object) -> tuple[Link, ...]:
    """The links of a list, checked as far as that touches nothing. Raises SpecError."""
    found = read_links(links)
    check_ends(found, [group.name for group in context.spec.groups], context.spec.sites)
    check_links(found, context.testbed.netem)
    return found


def before_launch(context: Context, cluster: ClusterState) -> None:
    """Set the links in force, if there are any. Raises PhaseError."""
    links = links_in_force(context)
    if links:
        _apply(context, cluster, links)
        inbox.record(
            context.run.path, context.journal, link_events.links_set(context.run.name, links, context.now())
        )


def set_links(context: Context, links: Sequence[Link]) -> Event:
    """Set links that `check` has passed in the place of those in force; returns the event.

    Raises PhaseError.
    """
    _apply(context, cluster_state(context.spec, context.journal.state), links)
    event = link_events.links_set(context.run.name, links, context.now())
    inbox.record(context.run.path, context.journal, event)
    return event


def remove(context: Context) -> None:
    """Remove the links before the machines are released; unreachable hosts are ignored."""
    state = context.journal.state
    granted = state.reservation
    if not state.links or granted is None or time.time() > granted.start + granted.walltime:
        return
    event = link_events.links_set(context.run.name, (), context.now())
    try:
        _apply(context, cluster_state(context.spec, state), (), timeout=_REMOVE_TIMEOUT)
    except PhaseError as error:
        event = replace(event, status="failed", detail={"reason": error.message})
    try:
        context.journal.extend([event])
    except RunError:
        return  # as on a full disk, which is no reason to keep machines: the end of the release will say so


def measure_links(context: Context, links: Sequence[Link], sample: int) -> list[Event]:
    """Measure each direction of ``links`` between ``sample`` pairs of deployed VMs; returns the events.

    One after the other, since they share what they measure. A link without deployed VMs at both ends is
    recorded with that reason.
    """
    deployed = set(context.journal.state.deployed_vms)
    vms = [vm for vm in context.journal.state.placed_vms if vm.name in deployed]
    events = []
    for link in links:
        for source_end, target_end in link.directions:
            pairs = _pairs(vms_at(source_end, vms), vms_at(target_end, vms), sample)
            found: list[tuple[Sequence[VM], link_probe.Measured]] = [
                (pair, link_probe.measure(GuestCommands(context, pair), link, *pair)) for pair in pairs
            ]
            for pair, measured in found or [((), link_probe.NOBODY)]:
                names = [vm.name for vm in pair] or ["", ""]
                ends, plain = (source_end, target_end), measured.to_plain()
                event = link_events.link_measured(context.run.name, link, ends, names, plain, context.now())
                inbox.record(context.run.path, context.journal, event)
                events.append(event)
    return events


def _pairs(sources: Sequence[VM], targets: Sequence[VM], sample: int) -> list[tuple[VM, VM]]:
    """Up to ``sample`` pairs, on different hosts if possible, no VM twice unless there are too few."""
    pairs: list[tuple[VM, VM]] = []
    for number in range(min(sample, max(len(sources), len(targets)))):
        target = targets[number % len(targets)] if targets else None
        others = [vm for vm in sources if target is not None and vm.name != target.name]
        if target is None or not others:
            continue
        apart = [vm for vm in others if vm.host != target.host] or others
        pairs.append((apart[number % len(apart)], target))
    return pairs


def _apply(
    context: Context, cluster: ClusterState, links: Sequence[Link], *, timeout: float | None = None
) -> None:
    """Let every host set its links. Raises PhaseError, which names the first host that did not."""
    plan = plan_links(links, context.journal.state.placed_vms)
    documents = {}
    for host in cluster.hosts:
        own = plan.of_host(host.name)
        documents[host] = protocol.document(link_request.links(own.ranges, own.classes, own.vms))
    replies = calls.call_agents(context.fanout, documents, timeout=timeout or context.spec.timeouts.command)
    if failed := [reply for reply in replies if not reply.ok]:
        raise PhaseError(
            f"links could not be set on {len(failed)} of {len(replies)} hosts, first {failed[0].host.name}:"
            f" {failed[0].reason}",
            phase="launch",
            step="links",
        )
