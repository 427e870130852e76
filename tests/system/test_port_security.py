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


#: A message of a DHCP client, with this MAC address in it, cut into fragments of so many bytes.
CLIENT = """
import socket, struct, sys
mac, size = bytes.fromhex(sys.argv[1].replace(":", "")), int(sys.argv[2])
decline = b"\\x63\\x82\\x53\\x63\\x35\\x01\\x04\\xff"
message = struct.pack("!BBBBIHH16x16s192x", 1, 1, 6, 0, 7, 0, 0, mac) + decline
datagram = struct.pack("!HHHH", 68, 67, 8 + len(message), 0) + message
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for at in range(0, len(datagram), size):
    piece = datagram[at:at + size]
    more = 0x2000 if at + size < len(datagram) else 0
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(piece), 77, more | at // 8, 9, 17, 0,
        socket.inet_aton("10.0.0.11"), socket.inet_aton("10.0.0.1"))
    s.sendto(header + piece, ("10.0.0.1", 0))
"""
SERVER = RECEIVE.replace("68", "67").replace("recv(9).decode()", "recv(999)[28:34].hex()")


@pytest.mark.parametrize(
    ("number", "size", "arrives"),
    [(1, 1400, True), (2, 1400, False), (2, 8, False), (2, 32, False), (1, 32, False)],
)
def test_a_vm_speaks_to_dhcp_servers_for_itself_only(
    bridge: Bridge, number: int, size: int, arrives: bool
) -> None:
    mac = f"{MAC}{number}"
    for enforced in (False, True):
        if enforced:
            bridge.enforce()
            bridge.enforce()
        argv = bridge.host.argv(sys.executable, "-c", SERVER)
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            bridge.vms[1].run(sys.executable, "-c", CLIENT, mac, str(size))
            found = server.stdout.read().strip()
        assert found == (mac.replace(":", "") if arrives or not enforced else "nothing"), enforced
