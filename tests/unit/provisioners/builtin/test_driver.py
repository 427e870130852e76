"""Carrying out a deployment's orders: how many connections they cost, how many go at once, what is reported.

The seams are `Fanout` (one fake for hosts and VMs) and the connection that a log comes through.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakestream import FakeStream, fake_stream
from measuremaker import vms

from g5kvirt.errors import PhaseError
from g5kvirt.images.environments import Environment, Image
from g5kvirt.inventory import GIB, VM, Facts, Host
from g5kvirt.netboot import log_tail, services
from g5kvirt.planning.cluster import ClusterState
from g5kvirt.planning.services import ServiceLayout, ServiceMachine
from g5kvirt.provisioners.builtin import tasks
from g5kvirt.provisioners.builtin.driver import MachineDriver
from g5kvirt.provisioners.builtin.orders import CheckOrder, RebootOrder, Report, Target, TaskOrder
from g5kvirt.remote import Result
from g5kvirt.spec.spec import Timeouts

AT_ONCE = 40
HEAD = Host("head.rennes.grid5000.fr", "rennes", "h", 4, GIB, address="head")
VARIANTS = {"SetDeploymentEnv": "untrusted", "BroadcastEnv": "http", "BootNewEnv": "kexec"}
IMAGE = Image(Environment("mini", "/image"), Path("/image"), "a" * 64, 1000)
KEYS = {"id_ed25519": "ssh-ed25519 AAAA me@here", "check": "ssh-rsa BBBB check"}
AHEAD = 100.0  #: seconds that the service machine's clock is ahead

Answer = Callable[[str, Sequence[str], Any], str]  #: host, command, its input → its output


class Machines:
    """Hosts and VMs that take files and run commands; ``answer`` gives what a command prints, or raises."""

    keeps_connections = False

    access = None

    def __init__(self, answer: Answer = lambda *_: "") -> None:
        self.answer = answer
        self.puts: list[dict[str, str]] = []
        self.removed: list[str] = []
        self.abandoned: list[str] = []
        self.lose: Callable[[str], object] = lambda host: None
        self.ran: list[tuple[str, Sequence[str]]] = []
        self.given_up = ""
        self.may_put = threading.Event()
        self.may_put.set()
        self.putting = threading.Event()

    def run(
        self, hosts: Iterable[str], command: Sequence[str], *, stdin: Any = None, **_: Any
    ) -> Mapping[str, Result]:
        names = list(hosts)
        for document in stdin.values() if isinstance(stdin, Mapping) else ():
            for request in json.loads(document)["requests"]:
                if request["op"] == "files":
                    self.putting.set()
                    assert self.may_put.wait(60)
                    self.puts.append({item["path"]: item["content"] for item in request["files"]})
                    self.removed += request["remove"]
        self.ran += [(name, command) for name in names]
        return {name: _result(name, self.answer(name, command, stdin)) for name in names}

    def on_lost(self, listener: Callable[[str], object]) -> Callable[[], None]:
        self.lose = listener
        return lambda: None

    def abandon(self, host: str, reason: str) -> None:
        self.abandoned.append(host)

    @property
    def files(self) -> dict[str, str]:
        """Path → content, of all that was put."""
        return {path: data for files in self.puts for path, data in files.items()}


class Guests:
    """VMs that run commands through `Machines`; the size of each call is in `calls`."""

    def __init__(self, machines: Machines) -> None:
        self.machines = machines
        self.calls: list[int] = []
        self.may_run = threading.Event()
        self.may_run.set()

    def run(
        self, names: Sequence[str], command: Sequence[str], *, on_result: Any = None, **_: Any
    ) -> Mapping[str, Result]:
        assert self.may_run.wait(60)
        self.calls.append(len(names))
        results = {}
        for name in names:
            results[name] = _result(name, self.machines.answer(name, command, None))
            if on_result is not None:
                on_result(results[name])
        return results

    def give_up(self, why: str) -> None:
        self.machines.given_up = why


def _result(host: str, output: str = "") -> Result:
    return Result(host, True, 0, output.encode(), b"", 0.0, 0.0)


def cluster(known: Sequence[VM]) -> ClusterState:
    hosts = tuple(
        Host(name, "rennes", "p", 4, GIB, address=name) for name in dict.fromkeys(vm.host for vm in known)
    )
    machine = ServiceMachine(HEAD, ("http",), {"rennes": IPv4Address("10.144.0.1")})
    layout = ServiceLayout(IPv4Network("10.144.0.0/14"), (machine,))
    facts = {host.name: Facts(4, GIB, True, 0.0) for host in hosts} | {HEAD.name: Facts(4, GIB, True, AHEAD)}
    reservation: Any = None  # nobody looks at it
    addresses = {host.name: IPv4Address(0x0A900100 + number) for number, host in enumerate(hosts)}
    return ClusterState(reservation, (HEAD,), hosts, layout, addresses, facts)


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[FakeStream]:
    fake = fake_stream()
    monkeypatch.setattr(log_tail, "Stream", fake)
    return fake.made


@contextmanager
def driving(
    machines: Machines, known: Sequence[VM], guest: str = "vm", guests: Guests | None = None
) -> Iterator[MachineDriver]:
    keys = Path(tempfile.mkdtemp())
    for name, text in KEYS.items():
        (keys / f"{name}.pub").write_text(f"{text}\n")
    timeouts = Timeouts(command=60.0)
    context: Any = SimpleNamespace(
        fanout=machines,
        access=None,
        key=str(keys / "id_ed25519"),
        check_key=keys / "check",
        spec=SimpleNamespace(timeouts=timeouts, guest=guest),
        testbed=SimpleNamespace(real_cores=None),
    )
    reached: Any = guests or Guests(machines)
    try:
        with MachineDriver(context, cluster(known), "d1", known, IMAGE, reached) as driver:
            for host in {vm.host for vm in known}:  # their relays run
                driver._transport._let_begin(VARIANTS["BroadcastEnv"], host)
            yield driver
    finally:
        shutil.rmtree(keys)


def reports(driver: MachineDriver, number: int) -> list[Report]:
    """The next ``number`` reports."""
    found: list[Report] = []
    while len(found) < number:
        came = list(driver.receive(60.0))
        assert came, "there is no report"
        found += came
    return found


def until(driver: MachineDriver, done: Callable[[], bool]) -> None:
    """Wait for something that is not reported."""
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        assert list(driver.receive(0.01)) == []


def execute(driver: MachineDriver, order: RebootOrder | CheckOrder) -> list[Report]:
    """Carry an order out; the reports about its VMs."""
    driver.execute(order)
    return reports(driver, len(order.vms))


pytestmark = pytest.mark.usefixtures("streams")


def test_waiting_tasks_are_merged() -> None:
    known, machines = vms(500), Machines()
    machines.may_put.clear()
    with driving(machines, known) as driver:
        for vm in known:
            driver.execute(TaskOrder((Target(vm, 1),), "partition", VARIANTS))
        assert machines.putting.wait(60)
        machines.may_put.set()
        paths = {tasks.task_path(vm.name, services.WWW) for vm in known}
        until(driver, lambda: machines.files.keys() == paths)
    assert sum(map(len, machines.puts)) == len(known)
    assert len(machines.puts) < len(known) / 2


def test_a_task_file_names_the_deployment_and_the_attempt() -> None:
    (vm,) = vms(1)
    running = {"op": "services", "subject": "relay", "status": "ok", "t": 1, "detail": {"state": "running"}}
    machines = Machines(lambda _, command, __: json.dumps(running) if "python3" in command else "")
    with driving(machines, [vm]) as driver:
        driver.execute(TaskOrder((Target(vm, 3),), "partition", VARIANTS))
        until(driver, lambda: bool(machines.files))
    text = machines.files[tasks.task_path("vm-1", services.WWW)]
    assert text.splitlines()[0] == "# d1.3"
    assert "server=http://10.144.0.1\n" in text
    assert KEYS["id_ed25519"] in text
    assert 'restrict,command="exec cat /etc/g5kvirt-environment /proc/mounts" ssh-rsa BBBB check' in text


def test_hosts_of_light_guests_read_one_announcement_instead_of_a_file_for_each() -> None:
    known, machines = vms(6), Machines()
    path = {vm.host: tasks.announcement_path(vm.host, services.WWW) for vm in known}
    with driving(machines, known, "light") as driver:
        for number, vm in enumerate(known, 1):
            driver.execute(TaskOrder((Target(vm, number),), "partition", VARIANTS))
        until(driver, lambda: len([p for p in machines.files if "@" not in p]) == 6)
    for host, file in path.items():
        lines = machines.files[file].splitlines()
        assert sorted(lines) == sorted(
            f"{vm.name} d1.{number}" for number, vm in enumerate(known, 1) if vm.host == host
        )
    with driving(machines, known, "light") as driver:
        execute(driver, RebootOrder((Target(known[0], 9),), "reboot", "hard", "minimal"))
    assert machines.files[path[known[0].host]] == "", "taken back"


def test_checks_that_wait_go_together() -> None:
    known, machines = vms(AT_ONCE), Machines()
    guests = Guests(machines)
    guests.may_run.clear()
    with driving(machines, known, guests=guests) as driver:
        for vm in known:
            driver.execute(CheckOrder((Target(vm, 1),), "ready"))
        time.sleep(0.2)
        guests.may_run.set()
        found = reports(driver, AT_ONCE)
    assert {report.subject for report in found} == {vm.name for vm in known}
    assert sum(guests.calls) == AT_ONCE
    assert len(guests.calls) < AT_ONCE


@pytest.mark.parametrize(
    ("identity", "reason"),
    [
        (("mini", "a" * 64, "d1.2", "/dev/vda1"), ""),
        (("old", "a" * 64, "d0.1", "/dev/vda1"), "it runs another deployment, d0.1 of old"),
        (("mini", "b" * 64, "d1.2", "/dev/vda1"), "it runs another deployment, d1.2 of mini"),
        (("mini", "a" * 64, "d1.2", "rootfs"), "its root is rootfs, not the disk"),
        ((), "it answers ssh, but not as a deployed environment"),
    ],
)
def test_a_vm_is_ready_if_it_runs_this_deployment_from_its_disk(
    identity: tuple[str, ...], reason: str
) -> None:
    known, output = vms(1), ""
    if identity:
        output = "name={}\nsha256={}\ndeployment={}\n{} / ext4\n".format(*identity)
    with driving(Machines(lambda *_: output), known) as driver:
        (report,) = execute(driver, CheckOrder((Target(known[0], 2, 5),), "ready"))
    assert (report.status, report.reason) == ("failed" if reason else "ok", reason)
    assert (report.attempt, report.turn) == (2, 5)


def test_an_error_becomes_the_reason_of_every_vm_of_the_order() -> None:
    def answer(*_: Any) -> str:
        raise OSError("no ssh here")

    known = vms(2)
    with driving(Machines(answer), known) as driver:
        order = RebootOrder(tuple(Target(vm, 4) for vm in known), "reboot", "soft", "minimal")
        found = execute(driver, order)
    assert {(r.subject, r.status, r.reason, r.attempt) for r in found} == {
        (vm.name, "failed", "OSError: no ssh here", 4) for vm in known
    }


def test_host_that_lets_nobody_in_any_more_is_reported_and_another_is_not() -> None:
    known = vms(4, hosts=2)
    gone, back = dict.fromkeys(vm.host for vm in known)

    def answer(host: str, *_: Any) -> str:
        return "nonsense" if host == gone else ""

    machines = Machines(answer)
    with driving(machines, known) as driver:
        for host in ("head.of.another", back, gone):
            machines.lose(host)
        (report,) = reports(driver, 1)
    assert (report.subject, report.step, report.status) == (gone, "host", "failed")
    assert report.reason.startswith(f"its host {gone} is gone")
    assert "another" not in {host for host, _ in machines.ran}
    assert machines.abandoned == [gone]


def test_service_machine_that_is_gone_ends_the_deployment_with_its_name(streams: list[FakeStream]) -> None:
    machines = Machines(lambda host, *_: "nonsense" if host == HEAD.address else "")
    with driving(machines, vms(1)) as driver:
        machines.lose(HEAD.address)
        with pytest.raises(PhaseError, match=f"the logs of {HEAD.name} can no longer be read .*is gone"):
            reports(driver, 2)


def test_hard_reboot_removes_the_tasks_and_sends_one_request_per_host() -> None:
    def answer(host: str, command: Sequence[str], stdin: Any) -> str:
        (request,) = json.loads(stdin[host])["requests"]
        if request["op"] == "files":
            return ""
        lines = [
            {"op": "power", "subject": name, "status": "ok", "t": 1.0, "detail": {}}
            for name in request["names"]
            if name != "vm-4"
        ]
        return "\n".join(map(json.dumps, lines))

    known, machines = vms(4, hosts=2), Machines(answer)
    with driving(machines, known) as driver:
        order = RebootOrder(tuple(Target(vm, 2) for vm in known), "reboot", "hard", "minimal")
        found = {report.subject: report.reason for report in execute(driver, order)}
    assert found == {"vm-1": "", "vm-2": "", "vm-3": "", "vm-4": "no answer"}
    assert [host for host, _ in machines.ran] == ["head", known[0].host, known[1].host]
    assert tasks.task_path("vm-4", services.WWW) in machines.removed


def access_line(vm: VM, query: str) -> str:
    entry = {"t": 1000.0 + AHEAD, "took": 0.1, "from": str(vm.ip), "status": 200, "bytes": 1}
    return json.dumps(entry | {"uri": f"/report?{query}"})


def test_reports_of_vms_are_read_from_the_log_with_their_attempt(streams: list[FakeStream]) -> None:
    known = vms(2)
    with driving(Machines(), known) as driver:
        (stream,) = streams
        for query in (
            "step=format&deployment=d0.1&status=ok",  # the deployment before
            "step=format&deployment=d1&status=ok",
            "step=format&status=ok",
            "step=unheard-of&deployment=d1.2&status=ok",
            "step=format&deployment=d1.2&status=ok",
            "step=image&deployment=d1.2&status=failed&reason=full&permanent=1",
            "step=minimal-system",
        ):
            stream.send(access_line(known[1], query))
        assert reports(driver, 3) == [
            Report("vm-2", "format", "ok", 1000.0, "", 2),
            Report("vm-2", "image", "failed", 1000.0, "full", 2, permanent=True),
            Report("vm-2", "minimal-system", "ok", 1000.0),
        ]


def test_interrupt_ends_running_orders() -> None:
    machines = Machines()
    with pytest.raises(KeyboardInterrupt), driving(machines, vms(1)):
        raise KeyboardInterrupt
    assert machines.given_up == "interrupted"
