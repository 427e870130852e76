"""Which service machine does what for which site.

Roles: ``dhcp`` (DHCP, DNS and TFTP by one dnsmasq) and ``http`` (netboot files and reports by nginx).
A site with one service machine has both on it; with more, the first does ``dhcp`` and the others share
``http``. A site without any is served by the site whose service machines have the fewest VMs each.
Every machine gets an address in the part of each site that it serves, so that VMs find it on-link.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from g5kvirt.errors import CapacityError, SpecError
from g5kvirt.inventory import Host, SubNetwork
from g5kvirt.planning.addressing import addresses_for, covering
from g5kvirt.spec.spec import Spec

__all__ = [
    "ROLES",
    "ServiceLayout",
    "ServiceMachine",
    "host_addresses",
    "lay_out",
    "machines_per_site",
    "services_per_site",
    "split_machines",
]

ROLES = ("dhcp", "http")


@dataclass(frozen=True)
class ServiceMachine:
    """A machine that serves VMs."""

    host: Host
    roles: tuple[str, ...]
    addresses: Mapping[str, IPv4Address]  #: site that it serves → its address there

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites whose VMs it serves."""
        return tuple(self.addresses)


@dataclass(frozen=True)
class ServiceLayout:
    """All service machines and the VM network that they and the VMs share."""

    network: IPv4Network
    machines: tuple[ServiceMachine, ...]

    def servers(self, role: str, site: str) -> tuple[ServiceMachine, ...]:
        """The machines that play ``role`` for the VMs of ``site``; at least one."""
        found = tuple(m for m in self.machines if role in m.roles and site in m.addresses)
        if not found:
            raise SpecError(f"no service machine plays the role {role!r} for {site}")
        return found

    def server(self, role: str, site: str, index: int = 0) -> ServiceMachine:
        """The one for the VM number ``index``: where several share a role, VMs are dealt in turn."""
        found = self.servers(role, site)
        return found[index % len(found)]

    def address(self, role: str, site: str, index: int = 0) -> IPv4Address:
        """Where the VM number ``index`` of ``site`` finds ``role``."""
        return self.server(role, site, index).addresses[site]

    @property
    def taken(self) -> tuple[IPv4Address, ...]:
        """All addresses that service machines answer to: not for VMs."""
        return tuple(a for m in self.machines for a in m.addresses.values())


def services_per_site(sites: Mapping[str, int], services: int) -> dict[str, int]:
    """Spread ``services`` service machines over sites (site → hosts that carry VMs).

    Each site gets one, the largest first; what is left goes where a service machine has the most hosts
    to serve.
    """
    given = dict.fromkeys(sites, 0)
    for site in sorted(sites, key=lambda s: -sites[s])[:services]:
        given[site] = 1
    for _ in range(services - sum(given.values())):
        given[max(sites, key=lambda s: sites[s] / (given[s] + 1))] += 1
    return given


def machines_per_site(spec: Spec) -> dict[str, int]:
    """How many machines to reserve on each site: hosts and service machines."""
    services = services_per_site(spec.sites, spec.services)
    return {site: hosts + services[site] for site, hosts in spec.sites.items()}


def split_machines(spec: Spec, machines: Sequence[Host]) -> tuple[tuple[Host, ...], tuple[Host, ...]]:
    """Of the machines that were deployed: service machines (the first of each site), and hosts.

    Machines may be missing where a deployment failed: services come first, since nothing works without
    them, and the rest carries VMs. Raises CapacityError if no host would be left.
    """
    services: list[Host] = []
    hosts: list[Host] = []
    for site, number in services_per_site(spec.sites, spec.services).items():
        own = [m for m in machines if m.site == site]
        services += own[:number]
        hosts += own[number:]
    if not services and len(hosts) > 1:  # the only site that has any is lost
        services, hosts = hosts[:1], hosts[1:]
    if not services or not hosts:
        needed = sum(machines_per_site(spec).values())
        raise CapacityError(
            f"{len(machines)} of {needed} machines are usable and at least one service machine and one host "
            "are needed",
            asked=needed,
            available=len(machines),
            advice="reserve again, or on another cluster",
        )
    return tuple(services), tuple(hosts)


def lay_out(
    machines: Sequence[Host],
    load: Mapping[str, int],
    subnetworks: Iterable[SubNetwork],
    taken: Iterable[IPv4Address] = (),
) -> ServiceLayout:
    """Give roles, sites and addresses to the service machines.

    ``load``: site → how many hosts or VMs it has, for every site that is to be served. Addresses are the
    first free ones of each site's part. Raises SpecError if there is no machine, CapacityError if a
    site's sub-networks are full.
    """
    if not machines:
        raise SpecError("there is no service machine: ask for services of at least 1")
    parts = list(subnetworks)
    network = covering(p.network for p in parts)
    own: dict[str, list[Host]] = {}
    for machine in machines:
        own.setdefault(machine.site, []).append(machine)

    served: dict[str, list[str]] = {site: [] for site in own}
    weight = dict.fromkeys(own, 0)
    for site in sorted(load, key=lambda s: (s not in own, -load[s])):  # those with machines first
        best = site if site in own else min(own, key=lambda s: (weight[s] + load[site]) / len(own[s]))
        served[best].append(site)
        weight[best] += load[site]

    serving = {site: home for home, sites in served.items() for site in sites}
    ends = (network.network_address, network.broadcast_address, network.broadcast_address - 1)
    free = addresses_for({s: len(own[home]) for s, home in serving.items()}, parts, [*taken, *ends])
    laid = []
    for home, group in own.items():
        for rank, machine in enumerate(group):
            roles = ROLES if len(group) == 1 else ROLES[:1] if rank == 0 else ROLES[1:]
            addresses = {s: IPv4Address(int(free[s][rank])) for s in load if serving[s] == home}
            laid.append(ServiceMachine(machine, roles, addresses))
    return ServiceLayout(network, tuple(laid))


def host_addresses(
    hosts: Sequence[Host], layout: ServiceLayout, subnetworks: Iterable[SubNetwork]
) -> dict[str, IPv4Address]:
    """An address in the VM network for every host (name → address): its VMs fetch images from it, on-link.

    Each is in the part of the host's own site, the first free ones behind the services'. Raises
    CapacityError if a site's sub-networks are full.
    """
    network = layout.network
    ends = (network.network_address, network.broadcast_address, network.broadcast_address - 1)
    by_site: dict[str, list[Host]] = {}
    for host in hosts:
        by_site.setdefault(host.site, []).append(host)
    wanted = {site: len(own) for site, own in by_site.items()}
    free = addresses_for(wanted, list(subnetworks), [*layout.taken, *ends])
    return {
        h.name: IPv4Address(int(free[site][i])) for site, own in by_site.items() for i, h in enumerate(own)
    }
