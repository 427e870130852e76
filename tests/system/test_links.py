"""Links between VMs on a host, by real nftables and tc: rate, changes, new taps. Runs in the node layer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from bridge_lab import MAC, ROOT, Bridge
from netboot_lab import missing

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(missing()), reason=missing()),
]

HOME = "/run/links"
#: What one VM receives of the other: as many bytes as come within a second.
RECEIVE = """
import socket, time
s = socket.create_server(("", 5199)); print("ready", flush=True); c, _ = s.accept()
c.recv(1); begin, count = time.monotonic(), 0
while time.monotonic() < begin + 1.0:
    count += len(c.recv(1 << 20))
print(count * 8 / (time.monotonic() - begin))
"""
SEND = """
import socket
with socket.create_connection(("10.0.0.12", 5199)) as c:
    try:
        while True: c.sendall(bytes(1 << 16))
    except OSError: pass
"""


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    made = Bridge()
    made.host.run("mkdir", HOME)
    yield made
    made.close()


def links(bridge: Bridge, request: dict[str, Any]) -> dict[str, Any]:
    """The operation's answer, as the host agent gives it."""
    code = (
        f"import sys, json; sys.path.insert(0, {str(ROOT)!r})\n"
        "from g5kvirt.hostagent.onhost import links\n"
        f"[(_, found)] = links.links(json.loads({json.dumps(json.dumps(request))}), {HOME!r})\n"
        "print(json.dumps(found))"
    )
    found: dict[str, Any] = json.loads(bridge.host.run(sys.executable, "-c", code))
    return found


def wanted(rate: float | None, **more: Any) -> dict[str, Any]:
    """vm-2 receives at ``rate`` from vm-1, whose cell is 1."""
    one = {"rate": rate, "latency": None, "loss": None, "from": [1], **more}
    return {"ranges": [["10.0.0.11", "10.0.0.11", 1]], "classes": {"2": [one]}, "vms": {f"{MAC}2": 2}}


NOTHING: dict[str, Any] = {"ranges": [], "classes": {}, "vms": {}}


def rate(bridge: Bridge) -> float:
    """Bits per second of payload from vm-1 to vm-2."""
    argv = bridge.vms[2].argv(sys.executable, "-c", RECEIVE)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        sender = subprocess.Popen(bridge.vms[1].argv(sys.executable, "-c", SEND))
        try:
            return float(receiver.stdout.read())
        finally:
            sender.wait(20)


def test_a_rate_holds_until_it_is_changed_or_taken_away(bridge: Bridge) -> None:
    before = bridge.host.run("tc", "qdisc", "show")
    assert links(bridge, wanted(20e6)) == {"taps": 1}
    assert rate(bridge) == pytest.approx(20e6, rel=0.1)
    assert links(bridge, wanted(20e6)) == {"unchanged": True, "taps": 1}
    assert links(bridge, wanted(50e6)) == {"taps": 1}
    assert rate(bridge) == pytest.approx(50e6, rel=0.1)
    # a VM of another cell has the whole bridge
    other = wanted(50e6) | {"ranges": [["10.0.0.11", "10.0.0.11", 3]]}
    assert links(bridge, other) == {"taps": 1}
    assert rate(bridge) > 200e6
    assert links(bridge, NOTHING) == {"unchanged": False, "taps": 0}
    assert bridge.host.run("tc", "qdisc", "show") == before
    assert "g5kvirt_links" not in bridge.host.run("nft", "list", "ruleset")
    assert links(bridge, NOTHING) == {"unchanged": True, "taps": 0}


def test_a_tap_that_is_made_again_gets_its_classes(bridge: Bridge) -> None:
    tap = "v" + f"{MAC}2".replace(":", "")
    links(bridge, wanted(20e6))
    pid = str(bridge.vms[2].pid)
    bridge.host.run("ip", "link", "del", tap)
    outside = ["nsenter", "-t", str(bridge.host.pid), "-n", "ip", "link", "add", tap, "type", "veth"]
    words = ["peer", "name", "eth0", "address", f"{MAC}2", "netns", pid]
    subprocess.run([*outside, *words], check=True, timeout=20)
    bridge.host.run("ip", "link", "set", tap, "master", "br0", "up")
    bridge.vms[2].run("ip", "addr", "add", "10.0.0.12/24", "dev", "eth0")
    bridge.vms[2].run("ip", "link", "set", "eth0", "up")
    assert "htb" not in bridge.host.run("tc", "qdisc", "show", "dev", tap)
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"from g5kvirt.hostagent.onhost import links\nprint(links.restore({HOME!r}))"
    )
    assert bridge.host.run(sys.executable, "-c", code).strip() == "1"
    assert rate(bridge) == pytest.approx(20e6, rel=0.1)


def test_latency_is_there_or_refused_before_anything_is_changed(bridge: Bridge) -> None:
    before = bridge.host.run("tc", "qdisc", "show")
    try:
        links(bridge, wanted(None, latency=0.02))
    except AssertionError as error:  # the agent said why
        refused = str(error)
    else:
        assert not bridge.reaches("-W", "1", "10.0.0.99")
        times = bridge.vms[1].run("ping", "-c", "3", "10.0.0.12")
        assert float(times.rpartition("= ")[2].split("/")[1]) >= 20
        return
    assert "this kernel has no netem, so links can have a rate only" in refused
    assert bridge.host.run("tc", "qdisc", "show") == before
    assert "g5kvirt" not in bridge.host.run("ip", "link")
