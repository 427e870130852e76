"""The nodes of a testbed: raise, deploy, move to another KaVLAN, switch off.

A deployment is an end and a beginning: the node's container is killed with all that runs in it, and a new one
made, with a new file system, in the KaVLAN asked for. When `Machines.deploy` returns, sshd answers.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from g5kvirt.errors import TestbedError
from g5kvirt.testbeds.local import network, node
from g5kvirt.testbeds.local.model import Description, Node, SiteDescription
from g5kvirt.testbeds.local.spawner import Container, Spawner

__all__ = ["Machines", "Places"]


@dataclass(frozen=True)
class Places:
    """Where a container's parts lie, in the testbed's own mount namespace."""

    box: Path  #: empty directory
    layers: dict[str, Path]  #: mounted layers
    hosts: Path
    log: Path  #: directory


class Machines:
    """All nodes of the testbed. Any thread may use it; two deployments of one node follow one another."""

    def __init__(
        self,
        description: Description,
        spawner: Spawner,
        places: Places,
        router: Callable[[str], Container],
    ) -> None:
        self._description = description
        self._spawner = spawner
        self._places = places
        self._router = router  # site name → its container
        self._containers: dict[str, Container] = {}
        self._cabled: set[str] = set()
        self._dirty: set[str] = set()
        self._generations: defaultdict[str, int] = defaultdict(int)
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        self._vlans: set[tuple[str, int]] = set()
        self._vlans_lock = threading.Lock()

    def raise_all(self, site: SiteDescription) -> None:
        """Start all nodes of a site in the standard environment, in the production network."""
        self._start(site.nodes, None, None, "")

    def deploy(self, node: Node, environment: str, vlan: int | None, authorized_keys: str) -> None:
        """Give ``node`` back clean, with ``environment``, in ``vlan`` (None: production).

        :raises TestbedError: it did not come up; it is then switched off.
        """
        self._start((node,), vlan, environment, authorized_keys)

    def clean(self, node: Node, generation: int) -> None:
        """Deploy the standard environment, in the production network, unless deployed anew since."""
        with self._locks[node.fqdn]:
            if self._generations[node.fqdn] == generation:
                self._start((node,), None, None, "")

    def power_off(self, node: Node) -> None:
        """End everything that runs on the node."""
        with self._locks[node.fqdn]:
            self._stop(node)
            self._dirty.add(node.fqdn)

    def set_vlan(self, node: Node, vlan: int | None) -> None:
        """Move the node's cable to ``vlan`` and give its card the address there.

        Where the card has been made a part of a bridge on the node, its address is the node's own affair.
        """
        with self._locks[node.fqdn]:
            made = self._containers.get(node.fqdn)
            if made is None or not made.alive:
                raise TestbedError(f"{node.fqdn} is switched off: deploy it first.")
            self._ensure_vlan(self._description.site(node.site), vlan)
            self._dirty.add(node.fqdn)
            network.apply(network.move(node, vlan), self._router(node.site).pid)
            if not Path(f"/proc/{made.pid}/root/sys/class/net/eth0/master").exists():
                network.apply(network.configure_node(self._description, node, vlan, first=False), made.pid)

    def dirty(self, site: str) -> dict[str, int]:
        """Nodes of ``site`` that are not as they were raised: deployed, moved, switched off or dead.

        With a number that each deployment changes.
        """
        suspects = {name for name, made in list(self._containers.items()) if not made.alive} | self._dirty
        found = (node.fqdn for node in self._description.site(site).nodes)
        return {name: self._generations[name] for name in found if name in suspects}

    def alive(self, node: Node) -> bool:
        """Does the node run?"""
        made = self._containers.get(node.fqdn)
        return made is not None and made.alive

    def _stop(self, node: Node) -> None:
        made = self._containers.pop(node.fqdn, None)
        if made:
            made.kill()
        if node.fqdn in self._cabled:
            self._cabled.discard(node.fqdn)
            # The kernel also does it by itself, some time after the node's namespace has gone.
            network.apply(network.detach(node), self._router(node.site).pid, check=False)

    def _start(self, nodes: Sequence[Node], vlan: int | None, environment: str | None, keys: str) -> None:
        """All of one site; in bulk, because a site is raised with all its nodes at once."""
        with ExitStack() as held:
            for one in sorted(nodes, key=lambda n: n.fqdn):
                held.enter_context(self._locks[one.fqdn])
            for one in nodes:
                self._dirty.add(one.fqdn)
                self._generations[one.fqdn] += 1
                self._stop(one)
            try:
                self._raise(nodes, vlan, environment, keys)
            except BaseException:
                for one in nodes:
                    self._stop(one)
                raise
            if environment is None and vlan is None:
                self._dirty.difference_update(one.fqdn for one in nodes)

    def _raise(self, nodes: Sequence[Node], vlan: int | None, environment: str | None, keys: str) -> None:
        site = self._description.site(nodes[0].site)
        self._ensure_vlan(site, vlan)
        made = []
        for one in nodes:
            container = self._spawner.start(
                node.spec(
                    one,
                    box=self._places.box,
                    layer=self._places.layers["node"],
                    hosts=self._places.hosts,
                    log=self._places.log / f"{one.uid}.{one.site}.log",
                    environment=environment,
                    authorized_keys=keys,
                )
            )
            self._containers[one.fqdn] = container
            made.append((one, container))
        self._cabled.update(one.fqdn for one in nodes)
        network.apply(
            network.attach([(one, container.pid) for one, container in made], vlan),
            self._router(site.name).pid,
        )
        for one, container in made:
            network.apply(network.configure_node(self._description, one, vlan), container.pid)
            container.expect("mounted")
            container.send(start=True)
        for _, container in made:
            container.expect("done")

    def _ensure_vlan(self, site: SiteDescription, vlan: int | None) -> None:
        """Make the bridges of a KaVLAN where they are missing: here, and where its gateway is."""
        if vlan is None:
            return
        try:
            what = self._description.vlan(site.name, vlan)
        except KeyError:
            raise TestbedError(f"{site.name} has no KaVLAN {vlan}.") from None
        with self._vlans_lock:
            for name in sorted({site.name, what.site}):
                if (name, vlan) not in self._vlans:
                    one = self._description.site(name)
                    network.apply(network.vlan_bridge(self._description, one, what), self._router(name).pid)
                    self._vlans.add((name, vlan))
