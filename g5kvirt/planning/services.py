"""Assignment of service machines to roles and sites.

Roles: ``dhcp`` (DHCP, DNS and TFTP by one dnsmasq) and ``http`` (netboot files and reports by nginx).
If a site has one service machine, it has both roles; with more, the first is ``dhcp`` and the others share
``http``. A site without any is served by the site whose service machines have the fewest VMs each.
Every machine gets an address in the sub-network of each site that it serves, so that it is on-link for VMs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from g5kvirt.errors import CapacityError, SpecError
from g5kvirt.inventory import Host, SubNetwork
from g5kvirt.planning.addressing import allocate_addresses, covering_network
from g5kvirt.spec.spec import Spec

__all__ = [
    "ROLES",
    "ServiceLayout",
    "ServiceMachine",
    "host_addresses",
    "machines_per_site",
    "service_layout",
    "services_per_site",
    "split_machines",
]

ROLES = ("dhcp", "http")


@dataclass(frozen=True)
class ServiceMachine:
    """A machine with services for VMs, its roles and addresses."""

    host: Host
    roles: tuple[str, ...]
    addresses: Mapping[str, IPv4Address]  #: served site → address in it

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites whose VMs use this machine."""
        return tuple(self.addresses)


@dataclass(frozen=True)
class ServiceLayout:
    """All service machines, and the network that they share with the VMs."""

    network: IPv4Network
    machines: tuple[ServiceMachine, ...]

    def servers(self, role: str, site: str) -> tuple[ServiceMachine, ...]:
        """The machines with ``role`` for the VMs of ``site``; at least one."""
        servers = tuple(m for m in self.machines if role in m.roles and site in m.addresses)
        if not servers:
            raise SpecError(f"no service machine has the role {role!r} for {site}")
        return servers

    def server(self, role: str, site: str, index: int = 0) -> ServiceMachine:
        """The machine for VM number ``index``; machines that share a role take the VMs in turn."""
        servers = self.servers(role, site)
        return servers[index % len(servers)]

    def address(self, role: str, site: str, index: int = 0) -> IPv4Address:
        """Address of the service ``role`` for VM number ``index`` of ``site``."""
        return self.server(role, site, index).addresses[site]

    @property
    def taken(self) -> tuple[IPv4Address, ...]:
        """All addresses of service machines, which VMs must not get."""
        return tuple(a for m in self.machines for a in m.addresses.values())


def services_per_site(sites: Mapping[str, int], services: int) -> dict[str, int]:
    """Distribute ``services`` service machines over sites (site → hosts with VMs).

    Each site gets one, the largest first; the rest goes to sites with the most hosts per service machine.
    """
    numbers = dict.fromkeys(sites, 0)
    for site in sorted(sites, key=lambda s: -sites[s])[:services]:
        numbers[site] = 1
    for _ in range(services - sum(numbers.values())):
        numbers[max(sites, key=lambda s: sites[s] / (numbers[s] + 1))] += 1
    return numbers


def machines_per_site(spec: Spec) -> dict[str, int]:
    """The number of machines to reserve on each site: hosts and service machines."""
    services = services_per_site(spec.sites, spec.services)
    return {site: hosts + services[site] for site, hosts in spec.sites.items()}


def split_machines(spec: Spec, machines: Sequence[Host]) -> tuple[tuple[Host, ...], tuple[Host, ...]]:
    """Split the deployed machines into service machines (the first ones of each site) and hosts.

    Machines may be missing because of failed deployments: service machines have priority, since nothing
    works without them. Raises CapacityError if no host remains.
    """
    services: list[Host] = []
    hosts: list[Host] = []
    for site, number in services_per_site(spec.sites, spec.services).items():
        own = [m for m in machines if m.site == site]
        services += own[:number]
        hosts += own[number:]
    if not services and len(hosts) > 1:  # the only site with service machines is lost
        services, hosts = hosts[:1], hosts[1:]
    if not services or not hosts:
        needed = sum(machines_per_site(spec).values())
        raise CapacityError(
            f"only {len(machines)} of {needed} machines are usable, but at least one service machine and one "
            "host are needed",
            requested=needed,
            available=len(machines),
            advice="reserve again, or choose another cluster",
        )
    return tuple(services), tuple(hosts)


def service_layout(
    machines: Sequence[Host],
    load: Mapping[str, int],
    subnetworks: Iterable[SubNetwork],
    taken: Iterable[IPv4Address] = (),
) -> ServiceLayout:
    """Assign roles, sites and addresses to the service machines.

    ``load``: site → number of its hosts or VMs, for every site to be served. Addresses are the first free
    ones of each site. Raises SpecError if there is no machine, CapacityError if the sub-networks of a site
    are full.
    """
    if not machines:
        raise SpecError("there is no service machine", advice="set services to at least 1")
    parts = list(subnetworks)
    network = covering_network(p.network for p in parts)
    own: dict[str, list[Host]] = {}
    for machine in machines:
        own.setdefault(machine.site, []).append(machine)

    served: dict[str, list[str]] = {site: [] for site in own}
    weight = dict.fromkeys(own, 0)
    for site in sorted(load, key=lambda s: (s not in own, -load[s])):  # sites with machines first
        best = site if site in own else min(own, key=lambda s: (weight[s] + load[site]) / len(own[s]))
        served[best].append(site)
        weight[best] += load[site]

    serving = {site: home for home, sites in served.items() for site in sites}
    ends = (network.network_address, network.broadcast_address, network.broadcast_address - 1)
    free = allocate_addresses({s: len(own[home]) for s, home in serving.items()}, parts, [*taken, *ends])
    assigned = []
    for home, group in own.items():
        for rank, machine in enumerate(group):
            roles = ROLES if len(group) == 1 else ROLES[:1] if rank == 0 else ROLES[1:]
            addresses = {s: IPv4Address(int(free[s][rank])) for s in load if serving[s] == home}
            assigned.append(ServiceMachine(machine, roles, addresses))
    return ServiceLayout(network, tuple(assigned))


def host_addresses(
    hosts: Sequence[Host], layout: ServiceLayout, subnetworks: Iterable[SubNetwork]
) -> dict[str, IPv4Address]:
    """An address in the VM network for every host (name → address), from which its VMs download images.

    They are the first free ones of the host's site after those of the services. Raises CapacityError if
    the sub-networks of a site are full.
    """
    network = layout.network
    ends = (network.network_address, network.broadcast_address, network.broadcast_address - 1)
    by_site: dict[str, list[Host]] = {}
    for host in hosts:
        by_site.setdefault(host.site, []).append(host)
    wanted = {site: len(own) for site, own in by_site.items()}
    free = allocate_addresses(wanted, list(subnetworks), [*layout.taken, *ends])
    return {
        h.name: IPv4Address(int(free[site][i])) for site, own in by_site.items() for i, h in enumerate(own)
    }
