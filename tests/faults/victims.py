"""What can break under an experiment on the local testbed: how it is broken, and how it is mended again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from localbed import below, command_line, process_name

from g5kvirt.testbeds.local import network
from g5kvirt.testbeds.local.model import NodeDescription
from g5kvirt.testbeds.local.state import State

__all__ = ["VICTIMS", "Scene"]

Mend = Callable[[], object]


@dataclass
class Scene:
    """A testbed with an experiment on it. ``host``: the full name of a host that carries VMs, or may."""

    state: State
    host: str
    run: Path  #: directory of the experiment's run, on a small file system of its own
    experiment: int = 0  #: its process
    lost_sites: list[str] = field(default_factory=list)
    lost_hosts: list[str] = field(default_factory=list)

    @property
    def node(self) -> NodeDescription:
        return self.state.description.node(self.host)

    def container(self, name: str) -> int:
        """The first process of a site or a node, by its host name."""
        for pid in below(self.state.pid):
            file = Path(f"/proc/{pid}/root/etc/hostname")
            with suppress(OSError):
                if process_name(pid) == "init" and file.read_text().strip() == name:
                    return pid
        raise AssertionError(f"there is no container {name}")

    def processes(self, *, name: str = "", command: str = "", within: int = 0) -> list[int]:
        """Processes of the testbed, or of one container, by what ps shows or how their command begins."""
        return [
            pid
            for pid in below(within or self.state.pid)
            if (not name or process_name(pid) == name) and command_line(pid).startswith(command)
        ]

    def signal(self, number: signal.Signals, pids: list[int]) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self, pids: list[int]) -> None:
        """They are started again by whoever supervises them, or not."""
        self.signal(signal.SIGKILL, pids)

    def stop(self, pids: list[int]) -> Mend:
        """They do nothing until they are mended."""
        self.signal(signal.SIGSTOP, pids)
        return lambda: self.signal(signal.SIGCONT, pids)


def host_processes(scene: Scene) -> None:
    """Power loss: all processes of a host at once."""
    scene.lost_hosts.append(scene.host)
    scene.kill([scene.container(scene.node.uid)])


def host_link(scene: Scene) -> None:
    """A host falls silent: its cable is pulled."""
    scene.lost_hosts.append(scene.host)
    router = scene.container(scene.node.site)
    command = ["nsenter", "-t", str(router), "-n", "ip", "link", "set", network.port_name(scene.node), "down"]
    subprocess.run(command, check=True, timeout=10)


#: In the place of a host's agent: it takes calls as the agent does, and answers without end.
HOSTILE = """
import json, os, sys, time
if "session" not in sys.argv: time.sleep(600)
os.write(1, b'{"ready": true}\\n')
for line in sys.stdin:
    number = json.loads(line)["id"]
    os.write(1, json.dumps({"id": number, "begun": True}).encode() + b"\\n")
    while True:
        os.write(1, json.dumps({"id": number, "out": "x" * 60000}).encode() + b"\\n")
"""


def hostile_agent(scene: Scene) -> None:
    """A host comes into somebody else's hands: its agent is another program from the next call on."""
    scene.lost_hosts.append(scene.host)
    init = scene.container(scene.node.uid)
    for main in Path(f"/proc/{init}/root/usr/local/lib/g5kvirt-agent").glob("*/__main__.py*"):
        main.unlink()
        main.with_name("__main__.py").write_text(HOSTILE)
    scene.kill([pid for pid in below(init) if command_line(pid).endswith(" session")])


def vm(scene: Scene) -> None:
    """The VMs of a host, without a word: light guests are one process."""
    scene.lost_hosts.append(scene.host)
    scene.kill(scene.processes(name="g5kvirt-light", within=scene.container(scene.node.uid)))


def dnsmasq(scene: Scene) -> None:
    """The DHCP servers."""
    scene.kill(scene.processes(command="dnsmasq"))


def nginx(scene: Scene) -> None:
    """The HTTP servers."""
    scene.kill(scene.processes(command="nginx: master"))


def relay(scene: Scene) -> None:
    """The relays of the broadcast."""
    scene.kill(scene.processes(name="g5kvirt-relay"))


def postgresql(scene: Scene) -> None:
    """The databases of all sites."""
    scene.kill(scene.processes(command="/usr/lib/postgresql"))


def almighty_killed(scene: Scene) -> None:
    """OAR's servers."""
    scene.kill(scene.processes(command="Almighty"))
    scene.kill(scene.processes(command="/usr/bin/perl /usr/lib/oar/Almighty"))


def almighty_stopped(scene: Scene) -> Mend:
    """OAR's servers hang."""
    return scene.stop([pid for pid in below(scene.state.pid) if "almighty" in command_line(pid).lower()])


def api_stopped(scene: Scene) -> Mend:
    """The REST API and the control of the nodes hang."""
    return scene.stop(scene.processes(name="g5kvirt-daemon"))


def frontend_sshd(scene: Scene) -> None:
    """The frontends' sshd, with all its connections; it is back in half a second."""
    for site in scene.state.description.sites:
        scene.kill(scene.processes(command="sshd: /usr/sbin/sshd -D -e [", within=scene.container(site.name)))


def site(scene: Scene) -> None:
    """A whole site: frontend, OAR, router, nodes."""
    name = scene.node.site
    scene.lost_sites.append(name)
    nodes = list(scene.state.description.site(name).nodes)
    scene.lost_hosts += [node.fqdn for node in nodes]
    scene.kill([*(scene.container(node.uid) for node in nodes), scene.container(name)])


def experiment(scene: Scene) -> None:
    """The process of the experiment itself."""
    scene.kill([scene.experiment])


def full_disk(scene: Scene) -> Mend:
    """The file system of the run."""
    ballast = scene.run.parent / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    return ballast.unlink


VICTIMS: dict[str, Callable[[Scene], Mend | None]] = {
    "host": host_processes,
    "link": host_link,
    "hostile-agent": hostile_agent,
    "vm": vm,
    "dnsmasq": dnsmasq,
    "nginx": nginx,
    "relay": relay,
    "postgresql": postgresql,
    "almighty-killed": almighty_killed,
    "almighty-stopped": almighty_stopped,
    "api-stopped": api_stopped,
    "frontend-sshd": frontend_sshd,
    "site": site,
    "experiment": experiment,
    "full-disk": full_disk,
}
