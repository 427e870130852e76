"""configure: hosts get their bridge and RAM disk and report their facts; service machines serve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from g5kvirt.context import Context
from g5kvirt.errors import CapacityError, PhaseError, TestbedError
from g5kvirt.guests.qemu import ISO
from g5kvirt.guests.registry import GUESTS
from g5kvirt.hostagent import calls, protocol
from g5kvirt.inventory import MIB, VM, Facts, Host, Reservation
from g5kvirt.netboot import services
from g5kvirt.phases import packages
from g5kvirt.phases.deploy import check_room
from g5kvirt.planning.addressing import neighbour_tables
from g5kvirt.planning.capacity import capacity
from g5kvirt.planning.cluster import ClusterState, cluster_state
from g5kvirt.planning.services import ServiceMachine
from g5kvirt.remote import File
from g5kvirt.run import event_types
from g5kvirt.run.events import Event
from g5kvirt.simulation.world import World

__all__ = ["boot_plan", "configure"]

#: Connections that may wait to be taken: all VMs of a window come to the services at once.
BACKLOG: Mapping[str, str | int] = {"net.core.somaxconn": 4096}

#: What VMs send is switched by their host, not filtered by its firewall, which has rules for the host itself.
SWITCHED: Mapping[str, str | int] = {
    f"net.bridge.bridge-nf-call-{what}": 0 for what in ("iptables", "ip6tables", "arptables")
}


def configure(context: Context) -> Mapping[str, Any]:
    """Make the machines ready for VMs. Idempotent.

    The run continues without hosts that are not ready after a second try, as long as the VMs fit on the
    others. Raises PhaseError if not, or if a service machine is not ready; it names the first of them.
    """
    spec, journal = context.spec, context.journal
    cluster = cluster_state(spec, journal.state)
    if context.testbed.world is not None:
        return _simulated(context, context.testbed.world, cluster)
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(max_workers=1) as pool:  # the image is built while the machines are prepared
        image = pool.submit(GUESTS[spec.guest].minimal_system, _build_progress(context))
        limit = spec.timeouts.command
        for step, call in (("agent", _install_agent), ("prepare", _prepare)):
            one = partial(call, context, cluster)
            replies = calls.call_twice(journal, "configure", step, [*cluster.hosts, *cluster.services], one)
            cluster = _without_failed(context, cluster, step, replies, failed)
        addresses = _record_facts(context, [reply for reply in replies if reply.ok])
        built = image.result()
    plan = boot_plan(context, cluster, (), addresses)
    calls.send_files(
        context.fanout,
        journal,
        [m.host for m in cluster.layout.machines if plan.files_role in m.roles],
        [File(built.kernel, f"{services.WWW}/kernel"), File(built.initrd, f"{services.WWW}/initrd")],
        step="minimal-system",
        timeout=limit,
    )
    if spec.boot == "iso" and GUESTS[spec.guest].has_kernel:
        files = [File(built.iso, ISO)]
        calls.send_files(context.fanout, journal, cluster.hosts, files, step="ipxe", timeout=limit)
    serve(context, cluster, plan, phase="configure")
    return {
        "services": {m.host.name: list(m.roles) for m in cluster.layout.machines},
        "network": cluster.layout.network,
        "addresses": addresses,
        "minimal_system": built.manifest,
        "failed": failed,
    }


def _simulated(context: Context, world: World, cluster: ClusterState) -> Mapping[str, Any]:
    """As long as it would take; hosts have what the inventory says."""
    world.machines_pass("configure", len(cluster.machines))
    kvm, now = world.calibration.guest == "kvm", context.now()
    context.journal.extend(
        event_types.host_facts(host.name, Facts(host.cores, host.memory, kvm), now)
        for host in cluster.machines
    )
    context.journal.extend(  # without which its service machines would pass for hosts without VMs
        Event("configure", role, "service", machine.host.name, "ok", now)
        for machine in cluster.layout.machines
        for role in machine.roles
    )
    return {
        "services": {m.host.name: list(m.roles) for m in cluster.layout.machines},
        "network": cluster.layout.network,
        "addresses": {},
        "minimal_system": {},
        "failed": {},
    }


def boot_plan(
    context: Context, cluster: ClusterState, vms: tuple[VM, ...], addresses: Mapping[str, str]
) -> services.Netboot:
    """What the service machines serve to ``vms``; ``addresses``: machine → its own address."""
    return services.Netboot(
        cluster.layout,
        vms,
        hosts={name: IPv4Address(address) for name, address in addresses.items()},
        parts=tuple((s.site, s.network) for s in cluster.reservation.subnetworks),
        protocol=context.spec.netboot,
        attempts=context.spec.timeouts.netboot_attempts,
        ipv6_router=GUESTS[context.spec.guest].has_kernel,
        until=_last_moment(cluster.reservation),
    )


def _last_moment(reservation: Reservation) -> float:
    """When machines must not act as DHCP servers any more: a minute before the first of the jobs ends.

    With the job that holds it the KaVLAN goes, and machines of jobs that began later, and so end later, come
    to be in the site's shared production network.
    """
    return reservation.start + reservation.walltime - min(60.0, reservation.walltime / 10)


def serve(context: Context, cluster: ClusterState, plan: services.Netboot, *, phase: str) -> None:
    """Start the services, or hand those that run their new configuration. Raises PhaseError.

    ``phase``: the one that does so, for the journal and the error.
    """
    documents = {m.host: protocol.document(*services.services(plan, m)) for m in cluster.layout.machines}
    limit = context.spec.timeouts.services
    replies = calls.call_agents(context.fanout, documents, timeout=limit)
    for reply in replies:
        for answer in reply.answers:
            service, name = answer.subject, reply.host.name
            context.journal.append(phase, service, "service", name, "start", t=reply.result.start)
            end = Event(phase, service, "service", name, "ok" if answer.ok else "failed", reply.result.end)
            context.journal.extend([end if answer.ok else replace(end, detail={"reason": answer.reason})])
    calls.require(context.journal, phase, "services", replies)


def _install_agent(
    context: Context, cluster: ClusterState, machines: Sequence[Host]
) -> list[calls.AgentReply]:
    """The host agent on some machines of the cluster, with the python3 that it needs."""
    return packages.with_agent(context, machines, timeout=context.spec.timeouts.command)


def _without_failed(
    context: Context,
    cluster: ClusterState,
    step: str,
    replies: Sequence[calls.AgentReply],
    failed: dict[str, str],
) -> ClusterState:
    """The cluster without the hosts that failed, which are added to ``failed`` with the reason.

    Raises PhaseError if a service machine is among them, or if the others are not enough for the VMs.
    """
    bad = [reply for reply in replies if not reply.ok]
    if not bad:
        return cluster
    failed |= {reply.host.name: reply.reason for reply in bad}
    others = cluster.without(failed)
    what = (
        f"{step} failed on {len(bad)} of {len(replies)} machines, first {bad[0].host.name}: {bad[0].reason}"
    )
    advice = "call configure() again, or release() and reserve others"
    if any(reply.host in cluster.services for reply in bad):
        raise PhaseError(what, phase="configure", step=step, advice=advice)
    try:
        check_room(context.spec, others.hosts)
    except CapacityError as error:
        message = f"{what}; {error.message}"
        raise PhaseError(message, phase="configure", step=step, advice=advice) from error
    return others


def _prepare(context: Context, cluster: ClusterState, machines: Sequence[Host]) -> list[calls.AgentReply]:
    """Facts, bridge, addresses, settings and RAM disk of some machines, in one round trip each.

    One host goes first: the others that share its kernel, as the containers of a local testbed do, need not
    try KVM again.
    """
    plan = boot_plan(context, cluster, (), {})
    serving = {m.host.name: m for m in cluster.layout.machines}
    sysctls = {**neighbour_tables(context.spec.vms + len(cluster.machines)), **BACKLOG, **SWITCHED}

    def programs(machine: ServiceMachine | None) -> list[str]:
        roles = machine.roles if machine else ()
        return packages.needed(context.spec.guest, roles, links=bool(context.spec.links))

    def document(host: Host, kvm_known: Mapping[str, str]) -> bytes:
        machine = serving.get(host.name)
        own = f"{cluster.addresses.get(host.name)}/{cluster.layout.network.prefixlen}"
        ramdisk, consoles = (0, 0) if machine else _memory_for(context, host)
        return protocol.document(
            protocol.facts(programs(machine), kvm_known=kvm_known),
            protocol.prepare(
                addresses=services.extra_addresses(plan, machine) if machine else [own],
                sysctls=sysctls,
                ramdisk=ramdisk,
                consoles=consoles,
            ),
        )

    limit = context.spec.timeouts.command
    first, *others = machines
    replies = calls.call_agents(context.fanout, {first: document(first, {})}, timeout=limit)
    known: Mapping[str, str] = next(
        (a.detail["kvm_known"] for a in replies[0].answers if a.op == "facts" and a.ok), {}
    )
    documents = {host: document(host, known) for host in others}
    replies += calls.call_agents(context.fanout, documents, timeout=limit)
    return [_with_all_parts(reply) for reply in replies]


def _record_facts(context: Context, replies: Sequence[calls.AgentReply]) -> dict[str, str]:
    """Install missing programs and record the facts of machines; returns each machine's own address."""
    # A machine that lacked packages reports its facts again: without QEMU it cannot test KVM.
    newer = packages.install(context, {r.host: missing for r in replies if (missing := _missing(r))})
    for reply in replies:
        # The result of each setting; in a network namespace the sizes of the ARP table are "absent".
        settings = _answer(reply, "sysctls").detail["keys"]
        _journal_facts(context, newer.get(reply.host.name, reply), settings)
    return {reply.host.name: _own_address(reply) for reply in replies}


def _missing(reply: calls.AgentReply) -> dict[str, str]:
    """The programs that are missing on a machine, each with its package."""
    missing = _answer(reply, "facts").detail["missing"]
    return {p: packages.PACKAGES[p] for p in missing if p in packages.PACKAGES}


def _with_all_parts(reply: calls.AgentReply) -> calls.AgentReply:
    """A machine that leaves a part out has failed."""
    given = {word for answer in reply.answers for word in (answer.op, answer.subject)}
    left_out = [what for what in ("facts", "bridge", "sysctls") if what not in given]
    if not reply.ok or not left_out:
        return reply
    return replace(reply, reason=f"its agent has not answered about its {left_out[0]}")


def _answer(reply: calls.AgentReply, what: str) -> protocol.Answer:
    """A machine's answer to ``facts``, or about a part of ``prepare``. Raises TestbedError without one."""
    for answer in reply.answers:
        if what in (answer.op, answer.subject):
            return answer
    raise TestbedError(f"the agent of {reply.host.name} has not answered about its {what}")


def _memory_for(context: Context, host: Host) -> tuple[int, int]:
    """Bytes for the disks and the consoles of as many VMs as the host may ever carry."""
    sizes = [kind.vm for kind in context.spec.kinds]
    vms = max(capacity(host.cores, host.memory, context.spec.capacity, size) for size in sizes)
    disks = min(vms * max(size.disk for size in sizes), host.memory // MIB)
    return (disks + 32) * MIB, (vms * 4 + 32) * MIB


def _journal_facts(context: Context, reply: calls.AgentReply, settings: Mapping[str, str]) -> None:
    """Record the facts that a machine reported."""
    answer = _answer(reply, "facts")
    facts = protocol.read_facts(answer, reply.result.start, reply.result.end)
    more = {key: answer.detail[key] for key in ("kvm_reason", "qemu", "kernel", "available")}
    context.journal.extend([event_types.host_facts(reply.host.name, facts, **more, settings=settings)])


def _own_address(reply: calls.AgentReply) -> str:
    """The address that a machine had before it got one in the VM network."""
    bridge = _answer(reply, "bridge").detail
    own = [IPv4Interface(a) for a in bridge.get("addresses", ()) if ":" not in a]
    return str(own[0].ip) if own else ""


def _build_progress(context: Context) -> Callable[[str], None]:
    """Progress of the image's build as journal events."""

    def write(what: str) -> None:
        context.journal.append("configure", "build", "run", context.run.name, "ok", what=what)

    return write
