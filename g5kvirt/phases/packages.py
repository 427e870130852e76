"""What machines need to have installed, and getting it where it is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from g5kvirt.context import Context
from g5kvirt.errors import PhaseError
from g5kvirt.guests.registry import GUESTS
from g5kvirt.hostagent import calls, protocol
from g5kvirt.hostagent.onhost import libssh
from g5kvirt.hostagent.python3 import install_python
from g5kvirt.inventory import Host

__all__ = ["PACKAGES", "SERVICE_PROGRAMS", "install", "needed", "with_agent"]

#: Program or library → the Debian package that brings it, in Debian 11 and newer. QEMU's brings its firmware
#: and network boot ROMs with it; nothing else of it is recommended or wanted.
PACKAGES: Mapping[str, str] = {
    "ip": "iproute2",
    "qemu-system-x86_64": "qemu-system-x86",
    "dnsmasq": "dnsmasq-base",
    "nginx": "nginx",
    "tar": "tar",
    "nft": "nftables",
    "tc": "iproute2",
    libssh.FILE: libssh.PACKAGE,
}

#: What a service machine runs in each of its roles.
SERVICE_PROGRAMS: Mapping[str, tuple[str, ...]] = {"dhcp": ("ip", "dnsmasq"), "http": ("ip", "nginx")}


#: What hosts need for links between VMs.
LINK_PROGRAMS = ("ip", "nft", "tc")


def needed(guest: str, roles: Sequence[str] = (), *, links: bool = False) -> list[str]:
    """The programs of a service machine with these roles; without any, those of a host of such guests.

    ``links``: with links between them.
    """
    if roles:
        programs = [name for role in roles for name in SERVICE_PROGRAMS[role]]
    else:
        programs = [*GUESTS[guest].programs, *(LINK_PROGRAMS if links else ())]
    return list(dict.fromkeys(programs))


def with_agent(
    context: Context, machines: Sequence[Host], *, timeout: float, phase: str = "configure"
) -> list[calls.AgentReply]:
    """Send the agent to machines, and to those without python3 once they have it; never raises for a machine.

    All of these in parallel, through the testbed's package proxy if it has one, for as long as a deployment
    of hosts may take. One journal span ``python3`` for each. ``timeout``: seconds for the agent alone.
    """
    replies = {r.host: r for r in calls.install_agent(context.fanout, machines, timeout=timeout)}
    lacking = [host for host, reply in replies.items() if calls.python_is_missing(reply.result)]
    if not lacking:
        return list(replies.values())
    proxy, limit = context.testbed.package_proxy, context.spec.timeouts.deploy
    installed = install_python(context.fanout, lacking, proxy=proxy, limit=limit)
    for reply in installed:
        name, result = reply.host.name, reply.result
        context.journal.append(phase, "python3", "host", name, "start", t=result.start)
        if reply.ok:
            context.journal.append(phase, "python3", "host", name, "ok", t=result.end)
        else:
            context.journal.append(
                phase, "python3", "host", name, "failed", t=result.end, reason=reply.reason
            )
    replies |= {reply.host: reply for reply in installed if not reply.ok}
    if ready := [reply.host for reply in installed if reply.ok]:
        replies |= {r.host: r for r in calls.install_agent(context.fanout, ready, timeout=timeout)}
    return list(replies.values())


def install(
    context: Context, missing: Mapping[Host, Mapping[str, str]], phase: str = "configure"
) -> dict[str, calls.AgentReply]:
    """Install what is missing: for each machine program → package. Returns machine → its answers about
    ``packages``, then ``facts``.

    All machines in parallel, through the testbed's package proxy if it has one, for as long as a deployment
    of hosts may take. One journal span ``packages`` per machine. Raises PhaseError if one of them cannot
    get them, after all have answered.
    """
    if not missing:
        return {}
    limit, proxy = context.spec.timeouts.deploy, context.testbed.package_proxy
    documents = {
        host: protocol.document(
            protocol.packages(programs, proxy=proxy, limit=limit), protocol.facts(programs)
        )
        for host, programs in missing.items()
    }
    replies = calls.call_agents(context.fanout, documents, timeout=limit + 60)
    failed = []
    for h in replies:
        name, wanted = h.host.name, sorted(set(missing[h.host].values()))
        context.journal.append(phase, "packages", "host", name, "start", t=h.result.start, packages=wanted)
        if h.ok:
            got = [p for answer in h.answers for p in answer.detail.get("installed", ())]
            context.journal.append(phase, "packages", "host", name, "ok", t=h.result.end, installed=got)
        else:
            reason = next((a.reason for a in h.answers if not a.ok), h.reason)
            context.journal.append(phase, "packages", "host", name, "failed", t=h.result.end, reason=reason)
            failed.append((name, wanted, reason))
    if failed:
        name, wanted, reason = failed[0]
        others = f"{len(failed) - 1} more machine{'s' * (len(failed) > 2)}"
        many = f" (and {others})" if len(failed) > 1 else ""
        through = f"the package proxy {proxy}" if proxy else "the network"
        raise PhaseError(
            f"{name}{many} lacks {', '.join(wanted)}, which could not be installed from {through}: {reason}",
            phase=phase,
            step="packages",
            advice="choose a host_environment that has it, or set a package_proxy that the machines reach in"
            f" the testbed's settings, and call {phase}() again",
        )
    return {h.host.name: h for h in replies}
