"""launch() over machines that answer at once: the seams are `Fanout` and the connection of the logs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakestream import FakeStream, fake_stream
from runmaker import run_events

from g5kvirt import Experiment
from g5kvirt.context import Context
from g5kvirt.errors import PhaseError
from g5kvirt.inventory import GIB, VM, Facts, Host
from g5kvirt.netboot import log_tail
from g5kvirt.phases import launch as phase
from g5kvirt.phases.launch import launch
from g5kvirt.planning.cluster import ClusterState
from g5kvirt.planning.inventories import Inventory
from g5kvirt.planning.services import ServiceLayout, ServiceMachine
from g5kvirt.remote import Result
from g5kvirt.run import directory
from g5kvirt.run.events import Event
from g5kvirt.run.journal import Journal
from g5kvirt.simulation.world import Faults
from g5kvirt.spec.spec import Spec
from g5kvirt.testbeds import open_testbed
from g5kvirt.testbeds.simulated.driver import Simulated

HEAD = Host("head.rennes.grid5000.fr", "rennes", "h", 4, GIB, address="head")
CARRIER = Host("paradent-1.rennes.grid5000.fr", "rennes", "p", 4, GIB, address="paradent-1")


class Machines:
    """Host agents that carry out everything, but power on none of the VMs in ``bad``."""

    keeps_connections = False

    def is_gone(self, host: str) -> bool:
        return False

    def __init__(self, bad: Sequence[str]) -> None:
        self.bad = bad
        self.operations: list[tuple[str, str, tuple[str, ...]]] = []  # host, operation, subjects
        self.started: list[str] = []

    def on_lost(self, listener: Callable[[str], object]) -> Callable[[], None]:
        return lambda: None

    def run(self, hosts: Iterable[str], _: Sequence[str], *, stdin: Any, **__: Any) -> dict[str, Result]:
        return {host: self._answer(host, json.loads(stdin[host])["requests"]) for host in hosts}

    def _answer(self, host: str, requests: Sequence[dict[str, Any]]) -> Result:
        lines = []
        for request in requests:
            op = request["op"]
            subjects = [vm["name"] for vm in request["vms"]] if op == "start" else request.get("names")
            subjects = subjects or [request.get("name", "")]
            self.operations.append((host, op, tuple(subjects)))
            for subject in subjects:
                good = op != "start" or subject not in self.bad
                detail: dict[str, Any] = (
                    {"power_on": time.time(), "text": ""} if good else {"reason": "no tap"}
                )
                status = "ok" if good else "failed"
                answer = {"op": op, "subject": subject, "status": status, "t": 1.0}
                lines.append(answer | {"detail": detail})
                if op == "start" and good:
                    self.started.append(subject)
        return Result(
            host, True, 0, "\n".join(map(json.dumps, lines)).encode(), b"", time.time(), time.time()
        )


@contextmanager
def reporting(machines: Machines, streams: list[FakeStream], vms: Sequence[VM]) -> Iterator[None]:
    """VMs that are powered on report their minimal system soon."""
    over, by_name, sent = threading.Event(), {vm.name: vm for vm in vms}, 0

    def feed() -> None:
        nonlocal sent
        while not over.wait(0.01):
            while streams and sent < len(machines.started):
                vm = by_name[machines.started[sent]]
                entry = {"t": time.time(), "took": 0.1, "from": str(vm.ip), "status": 200, "bytes": 1}
                streams[0].send(json.dumps(entry | {"uri": "/report?step=minimal-system&up=4"}))
                sent += 1

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def launched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Sequence[str] = ()
) -> tuple[Any, list[Event], Machines]:
    """What launch() gave or raised, the events that it wrote, and the machines."""
    spec = Spec(sites={"rennes": 1}, vms=4, timeouts={"boot_attempts": 2})
    run = directory.create(tmp_path, "r", {"spec": spec.to_dict(), "testbed": "local"})
    machine = ServiceMachine(HEAD, ("dhcp", "http"), {"rennes": IPv4Address("10.158.0.1")})
    layout = ServiceLayout(IPv4Network("10.158.0.0/16"), (machine,))
    facts = {host.name: Facts(4, GIB, True, 0.0) for host in (HEAD, CARRIER)}
    reservation: Any = SimpleNamespace(subnetworks=(), start=time.time(), walltime=3600.0)
    cluster = ClusterState(reservation, (HEAD,), (CARRIER,), layout, {}, facts)
    fake, machines = fake_stream(), Machines(bad)
    monkeypatch.setattr(phase, "cluster_state", lambda *_: cluster)
    monkeypatch.setattr(log_tail, "Stream", fake)
    monkeypatch.setattr(Context, "access", None)
    testbed: Any = SimpleNamespace(real_cores=None, guest="", world=None)
    with closing(Journal.open(run.journal)) as journal:
        for event in run_events(4):
            if event.phase != "launch":
                done = (event.phase, event.step, event.status) == ("configure", "phase", "ok")
                journal.extend([replace(event, detail={"addresses": {}}) if done else event])
        before = len(journal)
        context = Context(spec, testbed, run, journal)
        context.__dict__["fanout"] = machines
        with reporting(machines, fake.made, journal.state.placed_vms):
            try:
                found: Any = launch(context)
            except PhaseError as error:
                found = error
        assert not any(stream.alive for stream in fake.made)
        return found, journal.since(before), machines


def test_every_vm_is_powered_on_and_reports_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, events, machines = launched(tmp_path, monkeypatch)
    assert found == {"up": 4, "failed": 0}
    assert {event.phase for event in events} == {"launch"}
    for step, status in (("power-on", "start"), ("power-on", "ok"), ("minimal-system", "ok")):
        assert {e.subject for e in events if (e.step, e.status) == (step, status)} == {
            f"vm-{i}" for i in range(1, 5)
        }
    services = [e.step for e in events if e.kind == "service" and e.status == "ok"]
    assert services == ["dnsmasq", "dns", "nginx"]
    # the first power-on goes before the services learn of the VMs, and all of it is one request a host
    assert [(host, op) for host, op, _ in machines.operations] == [
        ("paradent-1", "start"),
        ("head", "serve"),
        ("head", "serve"),
        ("head", "serve"),
    ]


def test_a_vm_that_its_host_refuses_is_tried_again_and_then_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, events, machines = launched(tmp_path, monkeypatch, bad=["vm-2"])
    assert found == {"up": 3, "failed": 1}
    own = [(e.step, e.status, e.attempt) for e in events if e.subject == "vm-2"]
    assert own == [
        ("power-on", "start", 1),
        ("power-on", "failed", 1),
        ("launch", "retry", 1),
        ("power-on", "start", 2),
        ("power-on", "failed", 2),
        ("launch", "failed", 2),
    ]
    (end,) = [e for e in events if (e.step, e.status) == ("launch", "failed")]
    assert dict(end.detail) == {"at": "power-on", "reason": "no tap"}
    # before its second power-on what might be left of the first is stopped
    assert ("paradent-1", "stop", ("vm-2",)) in machines.operations


def test_launch_that_brings_up_no_vm_raises_the_first_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _, _ = launched(tmp_path, monkeypatch, bad=[f"vm-{i}" for i in range(1, 5)])
    assert isinstance(found, PhaseError)
    assert (found.phase, found.step) == ("launch", "power-on")
    assert "none of 4 VMs came up, first vm-1 on paradent-1" in str(found)
    assert "no tap" in str(found)


def test_logs_that_cannot_be_followed_leave_no_vm_without_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise PhaseError("the logs of head cannot be followed: refused", phase="launch", step="logs")

    monkeypatch.setattr(phase, "boot_all", broken)
    found, events, _ = launched(tmp_path, monkeypatch)
    assert isinstance(found, PhaseError)
    ends = {e.subject: dict(e.detail) for e in events if (e.step, e.status) == ("launch", "failed")}
    assert sorted(ends) == ["vm-1", "vm-2", "vm-3", "vm-4"]
    assert all(end["reason"] == "the logs of head cannot be followed: refused" for end in ends.values())


def test_a_repeated_launch_tries_again_what_was_given_up(tmp_path: Path) -> None:
    bed = open_testbed("simulated:2013")
    assert isinstance(bed, Simulated)
    faulty = Simulated(Inventory("x", bed.machines()), bed.world.calibration, faults=Faults(vms=0.4), seed=3)
    spec = Spec(sites={"nancy": 3}, vms=20, timeouts={"boot_attempts": 1})
    exp = Experiment(spec, testbed=faulty, name="again", runs=tmp_path)
    for step in (exp.reserve, exp.deploy, exp.configure, exp.place, exp.launch):
        step()
    first = exp.frames.account
    assert 0 < first.failed < 20
    dead = [name for name, guest in faulty.world.guests.items() if guest.dead]
    faulty.world.guests[dead[0]].dead = False
    assert exp.launch().tries == 2
    second = exp.frames.account
    assert (second.up, second.failed) == (first.up + 1, first.failed - 1)
    assert second.requested == second.up + second.failed == 20
    for name in dead:
        faulty.world.guests[name].dead = False
    exp.launch()
    assert exp.frames.account.up == 20
    before = len(exp.journal)
    assert exp.launch().tries == 3
    assert len(exp.journal) == before, "nothing is left to do"
    exp.measure()
    assert exp.measure().summary.deployed == 20
