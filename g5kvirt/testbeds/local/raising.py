"""Raise the whole testbed, inside its namespaces: sites side by side, then everything that serves them."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from g5kvirt.testbeds.local import frontend, network, rest, site, watch
from g5kvirt.testbeds.local.description import from_plain
from g5kvirt.testbeds.local.machines import Machines, Places
from g5kvirt.testbeds.local.model import SiteDescription
from g5kvirt.testbeds.local.oardb import Database, connector
from g5kvirt.testbeds.local.spawner import Container, Spawner

__all__ = ["Testbed"]

log = logging.getLogger(__name__)


class Testbed:
    """Everything that is up, owned by the daemon."""

    def __init__(
        self,
        orders: Mapping[str, Any],
        spawner: Spawner,
        listening: socket.socket,
        tell: Callable[[str, float], None],
    ) -> None:
        self.description = from_plain(orders["record"]["description"])
        self.netem = False  #: can latency be shown?
        self._orders = orders
        self._spawner = spawner
        self._listening = listening
        self._tell = tell
        private = Path(orders["directory"]) / "private"
        self._private = private
        self._places = Places(
            box=private / "box",
            layers={name: private / name for name in orders["layers"]},
            hosts=private / "hosts",
            log=Path(orders["directory"]) / "log",
        )
        self._sites: dict[str, Container] = {}
        self._databases: dict[str, Database] = {}
        self._machines = Machines(self.description, spawner, self._places, self._sites.__getitem__)
        (private / "alive").mkdir()

    def up(self) -> None:
        """Raise it. Raises TestbedError."""
        began = time.monotonic()
        self._places.hosts.write_text(self._hosts())
        network.set_sysctl(network.router_sysctl())
        self.netem = network.has_netem()
        for one in self.description.sites:
            self._sites[one.name] = self._start_site(one)
        pids = {name: made.pid for name, made in self._sites.items()}
        network.apply(network.backbone(self.description, pids, self.netem))
        self._tell("backbone", time.monotonic() - began)
        with ThreadPoolExecutor(2 * len(self._sites)) as pool:
            sites = [pool.submit(self._raise_site, one) for one in self.description.sites]
            machines = [pool.submit(self._raise_machines, one) for one in self.description.sites]
            for done in (*sites, *machines):
                done.result()
        user = self._orders["record"]["api_user"]
        password = self._orders["record"]["api_password"]
        rest.serve(
            self._listening,
            self.description,
            self._databases.__getitem__,
            password,
            machines=self._machines,
            user=user,
        )
        for one in self.description.sites:
            threading.Thread(target=self._watch, args=(one,), name=f"watch {one.name}", daemon=True).start()

    def _watch(self, one: SiteDescription) -> None:
        made = self._sites[one.name]
        try:
            watch.watch(
                one.name,
                self.description,
                self._databases[one.name],
                self._machines,
                lambda: site.ask_scheduling(made),
                lambda: made.alive,
            )
            log.error("%s: the site's first process has ended", one.name)
        finally:  # nobody looks after the site any more, whatever the reason: `lifecycle.status` sees it
            (self._private / "alive" / one.name).unlink()

    def _hosts(self) -> str:
        """What all containers see as /etc/hosts: the testbed's names, and short ones for `hostname`."""
        names = (Path(self._orders["directory"]) / "names").read_text().partition("\n")[2]
        short = [f"{one.gateway} {one.name}" for one in self.description.sites]
        short += [f"{node.ip} {node.uid}" for node in self.description.nodes]
        return "127.0.0.1 localhost\n" + names + "\n".join(short) + "\n"

    def _start_site(self, one: SiteDescription) -> Container:
        sockets = self._private / "sockets" / one.name
        sockets.mkdir(parents=True)
        return self._spawner.start(
            site.spec(
                one,
                box=self._places.box,
                layer=self._places.layers["site"],
                hosts=self._places.hosts,
                sockets=sockets,
                log=self._places.log / f"{one.name}.log",
                public_key=self._orders["public_key"],
            )
        )

    def _raise_site(self, one: SiteDescription) -> None:
        began = time.monotonic()
        made = self._sites[one.name]
        made.expect("mounted")
        made.ask(start=True)
        log.info("%s: services after %.2f s", one.name, time.monotonic() - began)
        site.load_resources(made, one)
        database = Database(connector(site.database_socket(made)))
        self._databases[one.name] = database
        served = frontend.Frontend(one.name, self.description, self._databases.__getitem__, self._machines)
        frontend.serve(
            self._private / "sockets" / one.name / "socket",
            served.handle,
            frontend.users_in(Path(f"/proc/{made.pid}/root")),
        )
        site.start_oar(made)
        (self._private / "alive" / one.name).touch()
        self._tell(f"site {one.name}", time.monotonic() - began)

    def _raise_machines(self, one: SiteDescription) -> None:
        began = time.monotonic()
        network.apply(network.site(one, self.netem), self._sites[one.name].pid)
        self._machines.raise_all(one)
        self._tell(f"{len(one.nodes)} nodes of {one.name}", time.monotonic() - began)
