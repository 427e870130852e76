"""Which VMs are reported as dead, and when nobody looks."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address
from typing import Any, cast

import pytest

from g5kvirt.hostagent import vm_watch
from g5kvirt.hostagent.vm_watch import VMWatch
from g5kvirt.inventory import GIB, VM, Host
from g5kvirt.remote import Fanout, Result

HOSTS = [Host(f"h-{i}.nancy.grid5000.fr", "nancy", "h", 4, GIB, address=f"a-{i}") for i in range(3)]
VMS = [VM(i, f"vm-{i}", HOSTS[i % 3].name, "nancy", IPv4Address(i), f"52:54:00:00:00:0{i}") for i in range(6)]


class Agents:
    """Host agents; the first call fails as a whole."""

    keeps_connections = True

    def __init__(self, states: Mapping[str, str]) -> None:
        self.states = states
        self.called: list[str] = []
        self.broken = True

    def is_gone(self, host: str) -> bool:
        return host == "a-2"

    def call(self, program: Any, texts: Mapping[str, bytes], **_: Any) -> dict[str, Result]:
        if self.broken:
            self.broken = False
            raise OSError("no ssh for a moment")
        self.called += texts
        return {host: self._answer(host, text) for host, text in texts.items()}

    def _answer(self, host: str, text: bytes) -> Result:
        (request,) = json.loads(text)["requests"]
        assert request["op"] == "status"
        lines = [
            {"op": "status", "subject": name, "status": "ok", "t": 1.0}
            | {"detail": {"state": self.states.get(name, "running"), "log": "Killed\n"}}
            for name in request["names"]
        ]
        out = "".join(json.dumps(line) + "\n" for line in lines).encode()
        return Result(host, True, 0, out, b"", 0.0, 0.0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm_watch, "INTERVAL", 0.05)


def watch(agents: Agents, gone: Callable[[str, str, float], object]) -> VMWatch:
    return VMWatch(cast(Fanout, agents), HOSTS, VMS, gone)


def test_only_dead_vms_are_reported_and_a_look_that_fails_is_not_the_last(quick: None) -> None:
    agents = Agents({"vm-0": "dead", "vm-1": "off", "vm-4": "unknown", "vm-2": "dead"})
    found: list[tuple[str, str, float]] = []
    seen = threading.Event()

    def gone(*what: Any) -> None:
        found.append(what)
        seen.set()

    before = time.time()
    with watch(agents, gone):
        assert seen.wait(20)
    vm, reason, t = found[0]
    assert (vm, reason) == ("vm-0", "its process on h-0.nancy.grid5000.fr has ended: Killed")
    assert before <= t <= time.time()
    assert {name for name, _, _ in found} == {"vm-0"}, "vm-2's host is gone itself"
    assert set(agents.called) == {"a-0", "a-1"}


def test_nobody_looks_where_no_connection_is_kept(quick: None) -> None:
    agents = Agents({"vm-0": "dead"})
    agents.keeps_connections = False
    with watch(agents, lambda *_: pytest.fail("nobody asked")):
        time.sleep(0.2)
    assert agents.called == []


def test_a_host_knows_of_its_own_vms_only(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    agents = Agents({"vm-0": "dead"})
    agents.broken = False
    answer = agents._answer

    def liar(host: str, text: bytes) -> Result:
        """It says that all VMs of the other host are dead."""
        request = {"op": "status", "names": ["vm-0", "vm-3", "vm-2"]}
        agents.states = {"vm-0": "dead", "vm-3": "dead", "vm-2": "dead"} if host == "a-1" else {}
        return answer(host, json.dumps({"requests": [request]}).encode())

    monkeypatch.setattr(agents, "_answer", liar)
    found: list[str] = []
    with watch(agents, lambda vm, *_: found.append(vm)):
        deadline = time.monotonic() + 5
        while len(agents.called) < 6 and time.monotonic() < deadline:
            time.sleep(0.02)
    assert agents.called
    assert found == []
