"""Start the whole testbed inside its namespaces: all sites in parallel, then the services around them."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from g5kvirt.testbeds.described.description import from_plain
from g5kvirt.testbeds.described.model import SiteDescription
from g5kvirt.testbeds.local import frontend, network, rest, site, watch
from g5kvirt.testbeds.local.machines import ContainerPaths, Machines
from g5kvirt.testbeds.local.oardb import Database, connector
from g5kvirt.testbeds.local.site_commands import SiteCommands
from g5kvirt.testbeds.local.spawner import Container, Spawner

__all__ = ["LocalTestbed"]

log = logging.getLogger(__name__)


class LocalTestbed:
    """All parts of a running testbed, owned by the daemon."""

    def __init__(
        self,
        config: Mapping[str, Any],
        spawner: Spawner,
        listening: socket.socket,
        report: Callable[[str, float], None],
    ) -> None:
        self.description = from_plain(config["record"]["description"])
        self.netem = False  #: whether the kernel can emulate latency
        self._config = config
        self._spawner = spawner
        self._listening = listening
        self._report = report
        private = Path(config["directory"]) / "private"
        self._private = private
        self._paths = ContainerPaths(
            mount_point=private / "root",
            layers={name: private / name for name in config["layers"]},
            hosts=private / "hosts",
            log=Path(config["directory"]) / "log",
        )
        self._sites: dict[str, Container] = {}
        self._databases: dict[str, Database] = {}
        self._frontends: dict[str, frontend.Frontend] = {}
        self._machines = Machines(self.description, spawner, self._paths, self._sites.__getitem__)
        (private / "alive").mkdir()

    def up(self) -> None:
        """Start everything. Raises TestbedError."""
        start = time.monotonic()
        self._paths.hosts.write_text(self._hosts())
        network.set_sysctl(network.router_sysctl())
        self.netem = network.has_netem()
        for one in self.description.sites:
            self._sites[one.name] = self._start_site(one)
        pids = {name: container.pid for name, container in self._sites.items()}
        network.apply(network.backbone(self.description, pids, self.netem))
        self._report("backbone", time.monotonic() - start)
        with ThreadPoolExecutor(2 * len(self._sites)) as pool:
            sites = [pool.submit(self._start_services, one) for one in self.description.sites]
            machines = [pool.submit(self._start_machines, one) for one in self.description.sites]
            for future in (*sites, *machines):
                future.result()
        user = self._config["record"]["api_user"]
        password = self._config["record"]["api_password"]
        rest.serve(
            self._listening,
            self.description,
            self._databases.__getitem__,
            password,
            machines=self._machines,
            commands=SiteCommands(
                self.description,
                Path(self._config["directory"]),
                self._private,
                lambda name: self._sites[name].pid,
            ),
            frontends=self._frontends.__getitem__,
            user=user,
        )
        for one in self.description.sites:
            threading.Thread(target=self._watch, args=(one,), name=f"watch {one.name}", daemon=True).start()

    def _watch(self, one: SiteDescription) -> None:
        container = self._sites[one.name]
        watch.watch_site(
            one.name,
            self.description,
            self._databases[one.name],
            self._machines,
            lambda: site.trigger_scheduling(container),
            lambda: container.alive,
        )
        log.error("%s: the site's init has exited", one.name)
        (self._private / "alive" / one.name).unlink()  # `lifecycle.status` checks this file

    def _hosts(self) -> str:
        """/etc/hosts of all containers: the names of the testbed, and short ones for `hostname`."""
        names = (Path(self._config["directory"]) / "names").read_text()
        short = [f"{one.gateway} {one.name}" for one in self.description.sites]
        short += [f"{node.ip} {node.uid}" for node in self.description.nodes]
        return "127.0.0.1 localhost\n" + names + "\n".join(short) + "\n"

    def _start_site(self, one: SiteDescription) -> Container:
        sockets = self._private / "sockets" / one.name
        sockets.mkdir(parents=True)
        return self._spawner.start(
            site.container_spec(
                one,
                mount_point=self._paths.mount_point,
                layer=self._paths.layers["site"],
                hosts=self._paths.hosts,
                sockets=sockets,
                log=self._paths.log / f"{one.name}.log",
                public_key=self._config["public_key"],
            )
        )

    def _start_services(self, one: SiteDescription) -> None:
        start = time.monotonic()
        container = self._sites[one.name]
        container.expect("mounted")
        container.call(start=True)
        log.info("%s: services after %.2f s", one.name, time.monotonic() - start)
        site.load_resources(container, one)
        database = Database(connector(site.database_socket(container)))
        self._databases[one.name] = database
        handler = frontend.Frontend(one.name, self.description, self._databases.__getitem__, self._machines)
        self._frontends[one.name] = handler
        frontend.serve(
            self._private / "sockets" / one.name / "socket",
            handler.handle,
            frontend.users_in(Path(f"/proc/{container.pid}/root")),
        )
        site.start_oar(container)
        (self._private / "alive" / one.name).touch()
        self._report(f"site {one.name}", time.monotonic() - start)

    def _start_machines(self, one: SiteDescription) -> None:
        start = time.monotonic()
        network.apply(network.router(one, self.netem), self._sites[one.name].pid)
        self._machines.start_all(one)
        self._report(f"{len(one.nodes)} nodes of {one.name}", time.monotonic() - start)
