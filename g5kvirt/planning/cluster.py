"""The deployed machines of the virtual cluster: hosts, service machines, addresses."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from g5kvirt.inventory import Facts, Host, Reservation
from g5kvirt.planning.services import ServiceLayout, host_addresses, service_layout, split_machines
from g5kvirt.run.state import RunState
from g5kvirt.spec.spec import Spec

__all__ = ["ClusterState", "cluster_state"]


@dataclass(frozen=True)
class ClusterState:
    """The deployed machines of a run: service machines, hosts, and their addresses."""

    reservation: Reservation
    services: tuple[Host, ...]
    hosts: tuple[Host, ...]
    layout: ServiceLayout
    addresses: Mapping[str, IPv4Address]  #: host's name → its address in the VM network
    facts: Mapping[str, Facts]  #: empty before `configure`

    @property
    def machines(self) -> tuple[Host, ...]:
        """All machines, service machines first."""
        return self.services + self.hosts

    def without(self, names: Collection[str]) -> ClusterState:
        """The same cluster without these hosts; the others keep their addresses."""
        return replace(self, hosts=tuple(host for host in self.hosts if host.name not in names))


def cluster_state(spec: Spec, state: RunState) -> ClusterState:
    """Hosts, service machines and their layout, of a run whose machines are deployed. Pure.

    Hosts that `configure` gave up are left out.
    """
    granted = state.reservation
    assert granted is not None  # guaranteed by the order of the phases
    services, hosts = split_machines(spec, state.deployed_hosts)
    load = {site: sum(h.site == site for h in hosts) for site in spec.sites}
    layout = service_layout(services, load, granted.subnetworks)
    addresses = host_addresses(hosts, layout, granted.subnetworks)
    cluster = ClusterState(granted, services, hosts, layout, addresses, dict(state.facts))
    return cluster.without((state.detail("configure") or {}).get("failed", {}))
