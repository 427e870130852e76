"""Which tasks wait for a broadcast, and that every host has an end whatever happens to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from g5kvirt.inventory import GIB, VM, Host
from g5kvirt.planning.services import ServiceMachine
from g5kvirt.provisioners.builtin import transport
from g5kvirt.provisioners.builtin.orders import BroadcastOrder, Report, Target, TaskOrder
from g5kvirt.provisioners.builtin.transport import Transport
from g5kvirt.provisioners.transfer import image_servers, transfer_bound
from g5kvirt.remote import File, Result
from g5kvirt.spec.spec import Timeouts

HEAD, *HOSTS = (
    Host(f"h-{i}.nancy.grid5000.fr", "nancy", "h", 4, 8 * GIB, address=f"h-{i}-kavlan") for i in range(3)
)
VMS = [VM(i, f"vm-{i}", HOSTS[i % 2].name, "nancy", IPv4Address(i), f"02::{i}") for i in range(4)]


class Lab:
    """A transport over hosts whose broadcasts end as ``fates`` says, with all it reported and released."""

    keeps_connections = False

    access = None

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **fates: str) -> None:
        self.fates = {host.address: fates.get(host.uid.replace("-", ""), "") for host in HOSTS}
        self.reports: list[Report] = []
        self.released: list[TaskOrder] = []
        self.started: list[list[str]] = []
        machine = ServiceMachine(HEAD, ("http",), {"nancy": IPv4Address("10.0.0.1")})
        cluster: Any = SimpleNamespace(
            hosts=tuple(HOSTS),
            layout=SimpleNamespace(machines=(machine,)),
            addresses={host.name: IPv4Address(9) for host in HOSTS},
        )
        testbed = SimpleNamespace(real_cores=None)
        context: Any = SimpleNamespace(
            fanout=self, spec=SimpleNamespace(timeouts=Timeouts()), testbed=testbed
        )
        image: Any = SimpleNamespace(sha256="a" * 64, size=1000, path=Path("/nowhere"))
        self.transport = Transport(context, cluster, VMS, image, self.reports.append, self.released.append)
        monkeypatch.setattr(transport, "Fanout", lambda *_, **__: self)

    # ---- as `Fanout` --------------------------------------------------------------------------------

    def put(self, hosts: Iterable[str], files: Sequence[File], **_: Any) -> dict[str, Result]:
        """The image, by a tree: it goes wrong where the fate is so."""
        return {host: result(host, why=self.fates[host]) for host in hosts}

    def run(
        self,
        hosts: Iterable[str],
        command: Sequence[str],
        *,
        stdin: Any = None,
        on_line: Any = None,
        **_: Any,
    ) -> dict[str, Result]:
        names = list(hosts)
        if "watch" in command:
            return {host: self.watched(host, on_line) for host in names}
        text = stdin if isinstance(stdin, bytes) else next(iter(stdin.values()))
        (request,) = json.loads(text)["requests"]
        if request["op"] == "serve":
            self.started.append([host.removesuffix("-kavlan") for host in names])
        # on the first host the relay runs, on the second it is gone
        states = {host: "running" if host == HOSTS[0].address else "unknown" for host in names}
        answer = {"op": request["op"], "subject": "relay", "status": "ok", "t": 1.0}
        answers = {host: answer | {"detail": {"state": states[host]}} for host in names}
        for host in names if on_line is not None else ():
            on_line(host, json.dumps(answers[host]), 1.0)
        return {host: result(host, answers[host]) for host in names}

    def watched(self, host: str, on_line: Callable[[str, str, float], None]) -> Result:
        """What a relay reports at its end."""
        why = self.fates[host]
        if why == "broken":
            raise OSError("no ssh")
        name = next(h.name for h in HOSTS if h.address == host)
        line = {
            "op": "broadcast",
            "host": name,
            "state": "failed" if why else "ok",
            "reason": why,
            "from": "",
        }
        numbers = {"have": 1000, "size": 1000, "seconds": 1.0, "checked": 1.0, "t": 1.0, "cpu": 0.1}
        on_line(host, json.dumps({**line, **numbers, "skipped": []}), 1.0)
        return result(host)


def result(host: str, answer: Any = None, why: str = "") -> Result:
    output = json.dumps(answer).encode() if answer else b""
    return Result(host, not why, 1 if why else 0, output, b"", 1.0, 2.0, reason=why)


def task(variant: str, *names: str, attempt: int = 1) -> TaskOrder:
    chosen = [vm for vm in VMS if vm.name in names]
    return TaskOrder(tuple(Target(vm, attempt) for vm in chosen), "partition", {"BroadcastEnv": variant})


def order(variant: str, attempt: int = 1) -> BroadcastOrder:
    return BroadcastOrder(tuple(host.name for host in HOSTS), "broadcast", variant, attempt)


@pytest.mark.parametrize("variant", ["chain", "http"])
def test_streaming_broadcast_lets_vms_begin_once_the_relay_of_their_host_runs(
    monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    lab = Lab(monkeypatch, h2="full")
    assert lab.transport.ready(task(variant, "vm-0", "vm-1")).vms == ()
    before: list[int] = []
    report = lab.transport._report
    monkeypatch.setattr(lab.transport, "_report", lambda one: (before.append(len(lab.released)), report(one)))
    lab.transport.execute(order(variant))
    assert [(w.subject, w.status, w.reason) for w in lab.reports] == [
        (HOSTS[0].name, "ok", ""),
        (HOSTS[1].name, "failed", "full"),
    ]
    assert before == [2, 2], "both were let go before any host had the whole image"
    assert {t.vm.name for one in lab.released for t in one.vms} == {"vm-0", "vm-1"}
    later = task(variant, "vm-2")
    assert lab.transport.ready(later) == later


def test_tree_keeps_the_tasks_until_the_host_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab = Lab(monkeypatch, h2="full")
    assert lab.transport.ready(task("tree", "vm-0", "vm-1", "vm-2")).vms == ()
    assert lab.transport.ready(task("tree", "vm-2", attempt=2)).vms == ()
    lab.transport.execute(order("tree"))
    assert {w.subject: w.reason for w in lab.reports} == {HOSTS[0].name: "", HOSTS[1].name: "full"}
    assert len(lab.reports) == 2
    went = {t.vm.name: t.attempt for one in lab.released for t in one.vms}
    assert went == {"vm-0": 1, "vm-1": 1, "vm-2": 2}, "each once, by its last attempt"
    again = task("tree", "vm-0", "vm-3")
    assert lab.transport.ready(again) == again


def test_broken_broadcast_is_the_reason_of_every_waiting_host(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(monkeypatch, h2="broken")
    lab.transport.execute(order("chain", attempt=2))
    assert [(w.subject, w.status, w.attempt) for w in lab.reports] == [
        (HOSTS[0].name, "ok", 2),
        (HOSTS[1].name, "failed", 2),
    ]
    assert lab.reports[1].reason == "OSError: no ssh"


@pytest.mark.parametrize("variant", ["chain", "tree"])
def test_only_a_relay_that_is_gone_is_started_again(monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    lab = Lab(monkeypatch)
    lab.transport.restart_lost_relays(variant, [HOSTS[0].name])
    assert lab.started == []
    lab.transport.restart_lost_relays(variant, [host.name for host in HOSTS])
    assert lab.started == [["h-2"]]


def test_each_site_with_http_has_one_head() -> None:
    def machine(site: str, number: int, *roles: str) -> ServiceMachine:
        host = Host(f"s-{number}.{site}.grid5000.fr", site, "s", 4, 8 * GIB)
        return ServiceMachine(host, roles, {site: IPv4Address(number)})

    machines = [
        machine("nancy", 1, "dhcp"),
        machine("nancy", 2, "http"),
        machine("nancy", 3, "http"),
        machine("lyon", 4, "dhcp", "http"),
    ]
    assert {site: m.host.uid for site, m in image_servers(machines).items()} == {
        "nancy": "s-2",
        "lyon": "s-4",
    }


@pytest.mark.parametrize(
    ("variant", "seconds"),
    [("chain", 1.0), ("tree", 1.0), ("http", 2.0)],  # nancy's head has two hosts, lyon's faster one the third
)
def test_transfer_bound_is_that_of_the_slowest_link(variant: Any, seconds: float) -> None:
    lyon = Host("h-9.lyon.grid5000.fr", "lyon", "h", 4, 8 * GIB, nic_rate=4e9)
    head = replace(lyon, name="s-1.lyon.grid5000.fr")
    machines = (
        ServiceMachine(HEAD, ("http",), {"nancy": IPv4Address(1)}),
        ServiceMachine(head, ("http",), {"lyon": IPv4Address(2)}),
    )
    vms = [*VMS, VM(9, "vm-9", lyon.name, "lyon", IPv4Address(9), "02::9")]
    cluster: Any = SimpleNamespace(hosts=(*HOSTS, lyon), layout=SimpleNamespace(machines=machines))
    image: Any = SimpleNamespace(size=125_000_000)  # a second at 1 Gbit/s
    assert transfer_bound(cluster, vms, image, variant) == seconds
