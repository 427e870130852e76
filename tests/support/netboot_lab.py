"""A service machine and hosts, each in namespaces of its own, on one bridge: the least that netboots VMs.

Everything hangs on one process a machine; `close` ends them, and with them go namespaces, mounts, QEMUs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import agent_copy

from g5kvirt.hostagent import protocol as hostagent
from g5kvirt.hostagent.protocol import Answer
from g5kvirt.images.minimal import MinimalSystem
from g5kvirt.inventory import VM, Host
from g5kvirt.netboot import services as nb
from g5kvirt.netboot.bootlog import BootLog, Milestone
from g5kvirt.planning.services import ServiceLayout, ServiceMachine

PROGRAMS = ("qemu-system-x86_64", "dnsmasq", "nginx", "ip", "unshare", "nsenter")
HOME = "/run/agent"


def missing() -> str:
    """Why this machine cannot run the lab; empty if it can."""
    if os.geteuid() != 0:
        return "needs root for namespaces"
    lacking = [p for p in PROGRAMS if not shutil.which(p)]
    return f"needs {', '.join(lacking)}" if lacking else ""


class Machine:
    """One machine: net, mount and pid namespaces with empty /run and /var/lib."""

    def __init__(self, name: str) -> None:
        self.name = name
        # cat ends when we do, however that is
        script = "mount -t tmpfs none /run && mount -t tmpfs none /var/lib && echo up && exec cat"
        argv = ["unshare", "-n", "-m", "-p", "-u", "-f", "--mount-proc", "--propagation", "private"]
        argv += ["--kill-child", "sh", "-c", script]
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"up\n"
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(
            encoding="ascii"
        )
        self.pid = int(children.split()[0])

    def argv(self, *words: str) -> list[str]:
        """A command line that runs ``words`` inside."""
        return ["nsenter", "-t", str(self.pid), "-n", "-m", "-p", "-u", "-r", *words]

    def run(self, *words: str, stdin: bytes = b"", check: bool = True) -> str:
        done = subprocess.run(self.argv(*words), input=stdin, capture_output=True, timeout=120, check=False)
        if check and done.returncode:
            raise AssertionError(f"{self.name}: {words} failed: {done.stderr.decode()}{done.stdout.decode()}")
        return done.stdout.decode()

    def agent_argv(self, *arguments: str) -> list[str]:
        return self.argv(*agent_copy.argv(*arguments))

    def agent(self, *requests: dict[str, object]) -> list[Answer]:
        """What the host agent answers."""
        document = hostagent.document(*requests, home=HOME)
        done = subprocess.run(
            self.agent_argv(), input=document, capture_output=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return hostagent.parse(done.stdout)

    def read(self, path: str) -> str:
        return Path(f"/proc/{self.pid}/root{path}").read_text(encoding="utf-8", errors="replace")

    def write(self, path: str, data: bytes) -> None:
        target = Path(f"/proc/{self.pid}/root{path}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)


class Lab:
    """One service machine, ``hosts`` hosts, ``vms`` VMs dealt to them in turn."""

    network = IPv4Network("10.144.0.0/18")

    def __init__(self, minimal: MinimalSystem, hosts: int = 1, vms: int = 1, protocol: str = "http") -> None:
        self.minimal = minimal
        self.fabric = Machine("fabric")
        self.service = Machine("service-1")
        self.hosts = [Machine(f"host-{i}") for i in range(1, hosts + 1)]
        self.vms = tuple(
            VM(
                index=i,
                name=f"vm-{i}",
                host=self.hosts[(i - 1) % hosts].name,
                site="nancy",
                ip=IPv4Address(int(self.network.network_address) + 256 + i),
                mac=f"02:00:90:00:{i >> 8:02x}:{i & 255:02x}",
            )
            for i in range(1, vms + 1)
        )
        host = Host("service-1", "nancy", "graphene", cores=4, memory=8 << 30)
        machine = ServiceMachine(host, ("dhcp", "http"), {"nancy": IPv4Address("10.144.0.1")})
        self.netboot = nb.Netboot(
            layout=ServiceLayout(self.network, (machine,)),
            vms=self.vms,
            hosts={"service-1.nancy.grid5000.fr": IPv4Address("10.9.0.1")},
            parts=(("nancy", self.network),),
            protocol=protocol,  # type: ignore[arg-type]
        )
        self.machine = machine
        self._follower: subprocess.Popen[bytes] | None = None
        self._wire()

    def _wire(self) -> None:
        """Every machine's eth0 into one bridge, an address and a default route on it, as a host has them."""
        lines = ["link add sw type bridge forward_delay 0 mcast_snooping 0", "link set sw up"]
        for number, machine in enumerate([self.service, *self.hosts], start=1):
            lines += [f"link add p{number} type veth peer name eth0 netns {machine.pid}"]
            lines += [f"link set p{number} master sw up"]
        batch = ["nsenter", "-t", str(self.fabric.pid), "-n", "ip", "-batch", "-"]  # our /proc, their network
        subprocess.run(batch, input="\n".join(lines).encode() + b"\n", check=True, timeout=30)
        for number, machine in enumerate([self.service, *self.hosts], start=1):
            inside = ["link set lo up", f"addr add 10.9.0.{number}/24 dev eth0", "link set eth0 up"]
            inside += ["route add default via 10.9.0.254"]
            machine.run("ip", "-batch", "-", stdin="\n".join(inside).encode() + b"\n")

    def prepare(self) -> list[Answer]:
        """Bridges and services."""
        answers = self.service.agent(
            hostagent.prepare(addresses=nb.extra_addresses(self.netboot, self.machine))
        )
        for name in ("kernel", "initrd"):
            self.service.write(f"{nb.WWW}/{name}", getattr(self.minimal, name).read_bytes())
        answers += self.service.agent(*nb.services(self.netboot, self.machine))
        for host in self.hosts:
            answers += host.agent(hostagent.prepare(ramdisk=512 << 20, consoles=16 << 20))
        return answers

    def start(self, boot: str = "rom", vms: Sequence[VM] | None = None) -> dict[str, Answer]:
        """Power on, one round trip a host."""
        answers: dict[str, Answer] = {}
        for host in self.hosts:
            own = [hostagent.vm(v.name, v.mac, ip=str(v.ip)) for v in vms or self.vms if v.host == host.name]
            iso = str(self.minimal.iso) if boot == "iso" else None
            request = hostagent.start(own, memory=112 << 20, disk=64 << 20, boot=boot, iso=iso)  # type: ignore[arg-type]
            answers |= {a.subject: a for a in host.agent(request)}
        return answers

    def follow(self) -> subprocess.Popen[bytes]:
        """The two logs, live."""
        files = {nb.ACCESS_LOG: 0, hostagent.service_log("dnsmasq", HOME): 0}
        request = json.dumps({"requests": [hostagent.follow(files)]})
        self._follower = subprocess.Popen(
            self.service.agent_argv(request), stdout=subprocess.PIPE, stdin=subprocess.PIPE
        )
        return self._follower

    def milestones(
        self, limit: float, until: Callable[[dict[str, dict[str, Milestone]]], bool] | None = None
    ) -> dict[str, dict[str, Milestone]]:
        """VM → step → its first milestone, read live until all VMs are up or ``limit`` seconds are over."""
        log = BootLog(self.vms)
        seen: dict[str, dict[str, Milestone]] = {vm.name: {} for vm in self.vms}
        follower = self._follower or self.follow()
        assert follower.stdout is not None
        os.set_blocking(follower.stdout.fileno(), False)
        deadline, rest = time.monotonic() + limit, b""
        while time.monotonic() < deadline:
            data = follower.stdout.read()
            *lines, rest = (rest + (data or b"")).split(b"\n")
            for text in lines:
                line = hostagent.parse_line(text.decode())
                milestone = log.read(line.text) if line else None
                if milestone:
                    seen[milestone.vm].setdefault(milestone.step, milestone)
            if until(seen) if until else all("minimal-system" in steps for steps in seen.values()):
                break
            time.sleep(0.05)
        return seen

    def cpu(self) -> dict[str, float]:
        """CPU seconds that each VM has taken so far."""
        answers = [a for host in self.hosts for a in host.agent(hostagent.status())]
        return {a.subject: float(a.detail.get("cpu", 0)) for a in answers}

    def close(self) -> None:
        if self._follower:
            self._follower.kill()
            self._follower.wait(10)
        for machine in [*self.hosts, self.service, self.fabric]:
            machine.close()
