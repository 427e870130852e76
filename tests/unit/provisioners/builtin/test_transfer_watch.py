"""How far an image is: what the hosts' relays counted, as events, as a message and as a table."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.inventory import GIB, MIB, VM, Host
from g5kvirt.provisioners.builtin import transfer_watch
from g5kvirt.provisioners.builtin.orders import Report
from g5kvirt.provisioners.builtin.transfer_watch import Transfer, TransferWatch, described
from g5kvirt.remote import Fanout, Result
from g5kvirt.run.deployment_tables import Measurements
from g5kvirt.run.event_types import deployment_started, transfer_progress
from g5kvirt.run.events import Event
from g5kvirt.run.state import RunState
from g5kvirt.views.progress import deployment_progress

HOSTS = [Host(f"h-{i}.nancy.grid5000.fr", "nancy", "h", 4, GIB, address=f"a-{i}") for i in range(2)]
VMS = [
    VM(i, f"vm-{i}", HOSTS[i % 2].name, "nancy", IPv4Address(i), f"52:54:00:00:00:0{i}") for i in (1, 2, 3)
]
TOTAL = 100 * MIB


class Agents:
    """Host agents whose relays have given each VM 10 MiB more at each look."""

    keeps_connections = True

    def __init__(self) -> None:
        self.looks = 0
        self.asked: list[set[str]] = []

    def is_gone(self, host: str) -> bool:
        return False

    def call(self, program: Any, texts: Mapping[str, bytes], **_: Any) -> dict[str, Result]:
        self.looks += 1
        self.asked.append(set(texts))
        return {host: self._answer(host, text) for host, text in texts.items()}

    def _answer(self, host: str, text: bytes) -> Result:
        (request,) = json.loads(text)["requests"]
        assert request == {"op": "transfers", "state": "/ram/x.json"}
        own = [vm for vm in VMS if vm.host == HOSTS[int(host[-1])].name]
        taken = {str(vm.ip): self.looks * 10 * MIB for vm in own} | {"10.9.9.9": 5}  # a stranger
        detail = {"have": TOTAL, "size": TOTAL, "taken": taken, "t": 100.0 + 5 * self.looks}
        line = {"op": "transfers", "subject": "x", "status": "ok", "t": 1.0, "detail": detail}
        return Result(host, True, 0, (json.dumps(line) + "\n").encode(), b"", 0.0, 0.0)


def ok(vm: str, step: str) -> Report:
    return Report(vm, step, "ok", 1.0)


def until(done: Any) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    monkeypatch.setattr(transfer_watch, "INTERVAL", 0.02)
    monkeypatch.setattr(transfer_watch, "INTERVAL_PER_HOST", 0.0)
    return []


def watching(agents: object, seen: list[Event]) -> TransferWatch:
    fanout = cast(Fanout, agents)
    return TransferWatch(fanout, "d1", HOSTS, VMS, TOTAL, lambda: "/ram/x.json", seen.extend)


def test_only_hosts_of_vms_that_write_are_looked_at(seen: list[Event]) -> None:
    agents = Agents()
    with watching(agents, seen) as watch:
        time.sleep(0.1)
        assert agents.looks == 0, "nobody writes"
        watch.take(ok("vm-1", "format"))
        watch.take(ok("vm-3", "format"))
        until(lambda: len(seen) >= 2)
        assert agents.asked[0] == {"a-1"}
        watch.take(ok("vm-1", "image"))
        watch.take(Report("vm-3", "image", "failed", 1.0, "no"))
        until(lambda: seen[-1].detail["what"] == "the image is written")
        looks = agents.looks
        time.sleep(0.1)
        assert agents.looks == looks
    first = seen[0].detail
    assert (first["vms"], first["total"]) == ({"vm-1": 10 * MIB, "vm-3": 10 * MIB}, TOTAL)
    assert "vm-1 20 %, 20.0 MiB at 2.0 MiB/s" in seen[1].detail["what"]


def test_nothing_is_watched_where_no_connections_are_kept(seen: list[Event]) -> None:
    agents = Agents()
    agents.keeps_connections = False
    with watching(agents, seen) as watch:
        watch.take(ok("vm-1", "format"))
        time.sleep(0.1)
    assert not agents.looks
    assert threading.active_count() < 50


def test_many_vms_are_summed_up_with_the_one_that_is_last() -> None:
    many = [Transfer(f"vm-{i}", i * MIB, 2.0 * MIB) for i in range(1, 11)]
    text = described(many, 10 * MIB)
    assert text == (
        "writing the image of 10.0 MiB: 10 VMs 55 % on average, 20.0 MiB/s together;"
        " last vm-1 10 %, 1.0 MiB at 2.0 MiB/s"
    )
    some = [Transfer("vm-1", 10 * MIB, 0.0), Transfer("vm-2", MIB, float(MIB))]
    assert described(some, 10 * MIB) == (
        "writing the image of 10.0 MiB: vm-2 10 %, 1.0 MiB at 1.0 MiB/s; vm-1 has all of it"
    )


@given(
    st.lists(st.builds(Transfer, st.just("vm-1"), st.integers(0, 1 << 50), st.floats(0, 1e12))),
    st.integers(0),
)
def test_any_progress_can_be_described(transfers: list[Transfer], total: int) -> None:
    assert described(transfers, total)


def journal() -> list[Event]:
    def look(t: float, **vms: int) -> Event:
        named = {name.replace("_", "-"): number for name, number in vms.items()}
        return transfer_progress("d1", t, TOTAL, {}, named, "writing" if vms else "the image is written")

    about = {"environment": "mine", "vms": ["vm-1", "vm-2"]}
    return [
        deployment_started("d1", 0.0, 2, about),
        look(10.0, vm_1=MIB, vm_2=0),
        look(20.0, vm_1=21 * MIB, vm_2=0),
        look(30.0, vm_1=2 * MIB),  # it began again
    ]


def test_progress_is_a_table_and_part_of_the_message() -> None:
    events = journal()
    table = Measurements.of(events).transfers
    assert list(table["vm"]) == ["vm-1", "vm-2", "vm-1", "vm-2", "vm-1"]
    assert list(table["percent"]) == [1.0, 0.0, 21.0, 0.0, 2.0]
    assert list(table["rate"].fillna(-1)) == [-1, -1, 2.0 * MIB, 0, -1]
    deployment = RunState.of(events).deployments["d1"]
    assert deployment_progress(deployment) == "d1 (mine): 0/2 deployed; writing"
    events.append(replace(events[1], t=40.0, detail=events[1].detail | {"vms": {}}))
    assert deployment_progress(RunState.of(events).deployments["d1"]) == "d1 (mine): 0/2 deployed"
