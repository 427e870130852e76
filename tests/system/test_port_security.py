"""What a VM can send and receive, past real nftables. Runs in the node layer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from netboot_lab import Machine, missing

ROOT = Path(__file__).parents[2]
MAC = "52:54:00:00:00:0"

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(missing()), reason=missing()),
]

#: One packet by hand: DHCP's offer needs a port that ping does not use.
OFFER = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
s.bind(("", 67)); s.sendto(b"offer", (sys.argv[1], 68))
"""
RECEIVE = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 68)); s.settimeout(2); print("ready", flush=True)
try: print(s.recv(9).decode())
except TimeoutError: print("nothing")
"""


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


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    made = Bridge()
    yield made
    made.close()


def test_a_vm_sends_from_its_own_addresses_only(bridge: Bridge) -> None:
    one = bridge.vms[1]
    one.run("ip", "addr", "add", "10.0.0.99/24", "dev", "eth0")
    assert bridge.reaches("-I", "10.0.0.99", "10.0.0.12"), "without rules"
    bridge.enforce()
    bridge.enforce()  # again, as for the next VMs of the host
    assert bridge.reaches("10.0.0.12")
    assert bridge.reaches("10.0.0.1"), "the host itself"
    assert not bridge.reaches("-I", "10.0.0.99", "10.0.0.1"), "another IP address"
    one.run("ip", "neigh", "flush", "all")
    one.run("ip", "addr", "add", "10.0.0.12/32", "dev", "lo")
    assert not bridge.reaches("-I", "10.0.0.12", "10.0.0.1"), "that of another VM"
    one.run("ip", "addr", "del", "10.0.0.12/32", "dev", "lo")
    assert bridge.reaches("10.0.0.12")
    one.run("ip", "link", "set", "eth0", "address", f"{MAC}2")
    assert not bridge.reaches("10.0.0.1"), "the MAC address of another VM"
    one.run("ip", "link", "set", "eth0", "address", f"{MAC}1")
    assert bridge.reaches("10.0.0.1")


def received(bridge: Bridge, sender: Machine, destination: str = "10.0.0.12") -> str:
    """What vm-2 gets if ``sender`` sends it a DHCP server's message."""
    argv = bridge.vms[2].argv(sys.executable, "-c", RECEIVE)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        sender.run(sys.executable, "-c", OFFER, destination)
        return receiver.stdout.read().strip()


@pytest.mark.parametrize("enforced", [False, True])
def test_a_vm_is_no_dhcp_server(bridge: Bridge, enforced: bool) -> None:
    if enforced:
        bridge.enforce()
    assert received(bridge, bridge.vms[1]) == ("nothing" if enforced else "offer")


@pytest.mark.parametrize("destination", ["10.0.0.12", "10.0.0.255"])
def test_only_the_runs_own_dhcp_servers_reach_a_vm(bridge: Bridge, destination: str) -> None:
    other = bridge.connect("eth1", "10.0.0.21")
    try:
        bridge.enforce()
        assert received(bridge, other, destination) == "offer", "of any, as none is known"
        bridge.enforce("10.0.0.20")
        assert received(bridge, other, destination) == "nothing"
        bridge.enforce("10.0.0.20", "10.0.0.21")
        assert received(bridge, other, destination) == "offer"
    finally:
        other.close()
