"""What a VM can send and receive, past real nftables. Runs in the node layer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from bridge_lab import MAC, Bridge
from netboot_lab import Machine, missing

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
