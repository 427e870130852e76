"""A host with two VMs, each a network namespace behind a port that is called as a tap is. Needs root."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from netboot_lab import Machine

ROOT = Path(__file__).parents[2]
MAC = "52:54:00:00:00:0"


class Bridge:
    """A host with two VMs, each a namespace behind a port called as a tap is, and the host's own address."""

    def __init__(self) -> None:
        self.host = Machine("host")
        self.vms = {n: Machine(f"vm-{n}") for n in (1, 2)}
        run = self.host.run
        run("ip", "link", "add", "br0", "type", "bridge")
        run("ip", "addr", "add", "10.0.0.1/24", "dev", "br0")
        run("ip", "link", "set", "br0", "up")
        for n, vm in self.vms.items():
            peer = ["peer", "name", "eth0", "address", f"{MAC}{n}", "netns", str(vm.pid)]
            run_outside = ["nsenter", "-t", str(self.host.pid), "-n", "ip", "link", "add", f"v52540000000{n}"]
            machine_run([*run_outside, "type", "veth", *peer])
            run("ip", "link", "set", f"v52540000000{n}", "master", "br0", "up")
            vm.run("ip", "addr", "add", f"10.0.0.1{n}/24", "dev", "eth0")
            vm.run("ip", "link", "set", "eth0", "up")

    def connect(self, port: str, address: str) -> Machine:
        """Another machine in the host's network, behind a port that is not a VM's."""
        machine = Machine("other")
        outside = ["nsenter", "-t", str(self.host.pid), "-n", "ip", "link", "add", port, "type", "veth"]
        machine_run([*outside, "peer", "name", "eth0", "netns", str(machine.pid)])
        self.host.run("ip", "link", "set", port, "master", "br0", "up")
        machine.run("ip", "addr", "add", f"{address}/24", "brd", "+", "dev", "eth0")
        machine.run("ip", "link", "set", "eth0", "up")
        return machine

    def enforce(self, *dhcp_servers: str) -> None:
        vms = [{"tap": f"v52540000000{n}", "mac": f"{MAC}{n}", "ip": f"10.0.0.1{n}"} for n in self.vms]
        code = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
            "from g5kvirt.hostagent.onhost import port_security\n"
            f"port_security.enforce({vms!r}, {dhcp_servers!r})"
        )
        self.host.run(sys.executable, "-c", code)

    def reaches(self, *words: str) -> bool:
        """Whether vm-1 gets an answer to a ping."""
        command = f"ping -c 1 -W 1 {' '.join(words)} >/dev/null && echo yes || echo no"
        return self.vms[1].run("sh", "-c", command).strip() == "yes"

    def close(self) -> None:
        for machine in (self.host, *self.vms.values()):
            machine.close()


def machine_run(argv: list[str]) -> None:

    subprocess.run(argv, check=True, capture_output=True, timeout=20)
