"""The nodes of a testbed: start, deploy, move to another KaVLAN, clean.

A deployment replaces the container of the node: the old one is killed with all its processes, and a new one
is created with a new file system in the requested KaVLAN. When `Machines.deploy` returns, sshd is up.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from g5kvirt.errors import TestbedError
from g5kvirt.testbeds.described.model import Description, NodeDescription, SiteDescription, Vlan
from g5kvirt.testbeds.local import network, node
from g5kvirt.testbeds.local.dhcpd import DhcpServers
from g5kvirt.testbeds.local.spawner import Container, Spawner
from g5kvirt.testbeds.local.switch import Switch

__all__ = ["ContainerPaths", "Machines"]


@dataclass(frozen=True)
class ContainerPaths:
    """Paths that a container needs, in the testbed's mount namespace."""

    mount_point: Path  #: empty directory
    layers: dict[str, Path]  #: mounted layers
    hosts: Path
    log: Path  #: directory


class Machines:
    """All nodes of the testbed. Thread-safe; deployments of the same node are serialized."""

    def __init__(
        self,
        description: Description,
        spawner: Spawner,
        paths: ContainerPaths,
        router: Callable[[str], Container],
    ) -> None:
        self._description = description
        self._spawner = spawner
        self._paths = paths
        self._router = router  # site name → its container
        self._containers: dict[str, Container] = {}
        self._cabled: set[str] = set()
        self._vlan_of: dict[str, int | None] = {}
        self._dirty: set[str] = set()
        self._generations: defaultdict[str, int] = defaultdict(int)
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        self._vlans: set[tuple[str, int]] = set()
        self._vlans_lock = threading.Lock()
        self._dhcp = DhcpServers(description, router)
        self._switch: Switch | None = None
        if description.switch == "managed":
            self._switch = Switch()
            self._switch.start()

    def start_all(self, site: SiteDescription) -> None:
        """Start all nodes of a site with the standard environment in the production network."""
        self._start(site.nodes, None, None, "")

    def deploy(self, node: NodeDescription, environment: str, vlan: int | None, authorized_keys: str) -> None:
        """Deploy ``environment`` on ``node`` in ``vlan`` (None: production).

        :raises TestbedError: it did not start; it is then powered off.
        """
        self._start((node,), vlan, environment, authorized_keys)

    def clean(self, node: NodeDescription, generation: int) -> None:
        """Deploy the standard environment in production, unless redeployed since ``generation``."""
        with self._locks[node.fqdn]:
            if self._generations[node.fqdn] != generation:
                return
            left = self._vlan_of.get(node.fqdn)
            self._start((node,), None, None, "")
        if left is not None:
            self._reset_dhcp(self._description.vlan(node.site, left))

    def set_vlan(self, node: NodeDescription, vlan: int | None) -> None:
        """Move the node to ``vlan`` and set the address of its interface there.

        If the interface has joined a bridge on the node, its address is left to the node.
        """
        with self._locks[node.fqdn]:
            container = self._containers.get(node.fqdn)
            if container is None or not container.alive:
                raise TestbedError(f"{node.fqdn} is not running", advice="deploy it first")
            self._ensure_vlan(self._description.site(node.site), vlan)
            self._dirty.add(node.fqdn)
            network.apply(
                network.move(node, vlan, managed=self._switch is not None), self._router(node.site).pid
            )
            self._vlan_of[node.fqdn] = vlan
            self._plug(node, vlan, container)
            if not Path(f"/proc/{container.pid}/root/sys/class/net/eth0/master").exists():
                network.apply(
                    network.configure_node(self._description, node, vlan, first=False), container.pid
                )

    def set_dhcp(self, site: str, vlan: int, on: bool) -> None:
        """Start or stop the DHCP server of a KaVLAN of ``site``, or a global one.

        A stopped one is back once all nodes have been cleaned out of its KaVLAN.
        """
        self._ensure_vlan(self._description.site(site), vlan)
        kavlan = self._description.vlan(site, vlan)
        if on:
            self._dhcp.start(kavlan)
        else:
            self._dhcp.stop(kavlan)

    def _reset_dhcp(self, vlan: Vlan) -> None:
        """Start the DHCP server of a KaVLAN that has no nodes any more, for those who get it next."""
        here = self._description.vlan
        if not any(
            in_one == vlan.id and here(self._description.node(name).site, vlan.id) == vlan
            for name, in_one in list(self._vlan_of.items())
        ):
            self._dhcp.start(vlan)

    def vlan_of(self, node: NodeDescription) -> int | None:
        """The KaVLAN in which the node is, or was before it was powered off; None: production."""
        return self._vlan_of.get(node.fqdn)

    def dirty(self, site: str) -> dict[str, int]:
        """Nodes of ``site`` that have been deployed, moved or have died since they were started → generation.

        Each deployment increments the generation.
        """
        suspects = {
            name for name, container in list(self._containers.items()) if not container.alive
        } | self._dirty
        names = (node.fqdn for node in self._description.site(site).nodes)
        return {name: self._generations[name] for name in names if name in suspects}

    def _stop(self, node: NodeDescription) -> None:
        container = self._containers.pop(node.fqdn, None)
        if container:
            container.kill()
        self._unplug(node)
        if node.fqdn in self._cabled:
            self._cabled.discard(node.fqdn)
            # The kernel also does it, some time after the node's namespace has gone.
            network.apply(network.detach(node), self._router(node.site).pid, check=False)

    def _plug(self, node: NodeDescription, vlan: int | None, container: Container) -> None:
        """Tell the managed switch, if there is one, where a node is now."""
        self._unplug(node)
        if self._switch is not None and vlan is not None:
            router, owner = self._router(node.site).pid, self._description.vlan(node.site, vlan).site
            self._switch.plug(
                node.fqdn,
                node.site,
                (owner, vlan),
                router,
                network.port_name(node),
                pid=container.pid,
                address=self._description.kavlan_ip(node, vlan).packed,
            )

    def _unplug(self, node: NodeDescription) -> None:
        if self._switch is not None:
            self._switch.unplug(node.fqdn)

    def _start(
        self, nodes: Sequence[NodeDescription], vlan: int | None, environment: str | None, keys: str
    ) -> None:
        """Start nodes of one site, in bulk because all nodes of a site are started at once."""
        with ExitStack() as held:
            for one in sorted(nodes, key=lambda n: n.fqdn):
                held.enter_context(self._locks[one.fqdn])
            for one in nodes:
                self._dirty.add(one.fqdn)
                self._generations[one.fqdn] += 1
                self._stop(one)
            try:
                self._start_containers(nodes, vlan, environment, keys)
            except BaseException:
                for one in nodes:
                    self._stop(one)
                raise
            if environment is None and vlan is None:
                self._dirty.difference_update(one.fqdn for one in nodes)

    def _start_containers(
        self, nodes: Sequence[NodeDescription], vlan: int | None, environment: str | None, keys: str
    ) -> None:
        site = self._description.site(nodes[0].site)
        self._ensure_vlan(site, vlan)
        started = []
        for one in nodes:
            container = self._spawner.start(
                node.container_spec(
                    one,
                    mount_point=self._paths.mount_point,
                    layer=self._paths.layers["node"],
                    hosts=self._paths.hosts,
                    log=self._paths.log / f"{one.uid}.{one.site}.log",
                    environment=environment,
                    authorized_keys=keys,
                )
            )
            self._containers[one.fqdn] = container
            started.append((one, container))
        self._cabled.update(one.fqdn for one in nodes)
        self._vlan_of.update((one.fqdn, vlan) for one in nodes)
        network.apply(
            network.attach(
                [(one, container.pid) for one, container in started],
                vlan,
                managed=self._switch is not None,
            ),
            self._router(site.name).pid,
        )
        for one, container in started:
            self._plug(one, vlan, container)
            if self._switch is not None:
                network.disable_ipv6(container.pid)
            network.apply(network.configure_node(self._description, one, vlan), container.pid)
            container.expect("mounted")
            container.send(start=True)
        for _, container in started:
            container.expect("done")

    def _ensure_vlan(self, site: SiteDescription, vlan: int | None) -> None:
        """Create missing bridges of a KaVLAN: here, and on the site of its gateway, with its DHCP server."""
        if vlan is None:
            return
        try:
            kavlan = self._description.vlan(site.name, vlan)
        except KeyError:
            raise TestbedError(f"{site.name} has no KaVLAN {vlan}") from None
        with self._vlans_lock:
            for name in sorted({site.name, kavlan.site}):
                if (name, vlan) not in self._vlans:
                    one = self._description.site(name)
                    network.apply(network.vlan_bridge(self._description, one, kavlan), self._router(name).pid)
                    self._vlans.add((name, vlan))
                    if name == kavlan.site:
                        self._dhcp.start(kavlan)
            if self._switch is not None:
                router, bridge = self._router(kavlan.site).pid, network.bridge_name(vlan)
                self._switch.add_vlan((kavlan.site, vlan), kavlan.gateway.packed, router, bridge)
