"""What machines are asked to be when they are made ready, and what is done where they lack something."""

from __future__ import annotations

import json
from collections.abc import Sequence
from ipaddress import IPv4Network
from types import SimpleNamespace
from typing import Any

import pytest

from g5kvirt.errors import PhaseError
from g5kvirt.guests.registry import GUESTS
from g5kvirt.hostagent import calls
from g5kvirt.hostagent.protocol import Answer
from g5kvirt.inventory import GIB, Host, SubNetwork
from g5kvirt.phases import configure
from g5kvirt.planning.cluster import ClusterState
from g5kvirt.planning.services import host_addresses, service_layout
from g5kvirt.remote import Result
from g5kvirt.run.events import Event
from g5kvirt.spec.spec import Spec

PART = SubNetwork("nancy", IPv4Network("10.144.0.0/22"))
FACTS = {
    "cores": 4,
    "memory": GIB,
    "kvm": True,
    "kvm_reason": "",
    "qemu": "7.2",
    "kernel": "6.1",
    "available": 9,
}


class Machines:
    """A service machine and two hosts, of which the second has no QEMU; a context to reach them."""

    keeps_connections = False

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        names = [
            Host(f"h-{i}.nancy.grid5000.fr", "nancy", "h", 4, 16 * GIB, address=f"h-{i}") for i in range(3)
        ]
        self.service, *self.hosts = names
        self.bare = {self.hosts[1].name}
        self.requested: list[dict[str, list[dict[str, Any]]]] = []
        self.events: list[tuple[str, str, str, dict[str, Any]]] = []
        layout = service_layout([self.service], {"nancy": 2}, [PART])
        self.stand: Any = SimpleNamespace(
            machines=tuple(names),
            hosts=tuple(self.hosts),
            services=(self.service,),
            layout=layout,
            addresses=host_addresses(self.hosts, layout, [PART]),
            reservation=SimpleNamespace(subnetworks=(PART,), start=1000.0, walltime=7200.0),
        )
        self.context: Any = SimpleNamespace(
            spec=Spec(sites={"nancy": 2}, vms=3000),
            journal=SimpleNamespace(append=self.append, extend=self.extend),
            testbed=SimpleNamespace(package_proxy=None, world=None),
            fanout=None,
        )
        monkeypatch.setattr(calls, "call_agents", self.answer)

    def append(
        self, _: str, step: str, kind: str, name: str, status: str, t: float = 0, **detail: Any
    ) -> None:
        self.events.append((step, name, status, detail))

    def extend(self, events: list[Event]) -> None:
        self.events += [(e.step, e.subject, e.status, dict(e.detail)) for e in events]

    def answer(self, _: object, documents: dict[Host, bytes], timeout: float) -> list[calls.AgentReply]:
        self.requested.append({h.name: json.loads(text)["requests"] for h, text in documents.items()})
        return [
            calls.AgentReply(h, Result(h.address, True, 0, b"", b"", 1.0, 2.0), tuple(self._said(h)), "")
            for h in documents
        ]

    def _said(self, host: Host) -> list[Answer]:
        answers = []
        for request in self.requested[-1][host.name]:
            if request["op"] == "packages":
                self.bare.discard(host.name)
                found = [("packages", host.uid, {"installed": sorted(request["programs"].values())})]
            elif request["op"] == "facts":
                lacks = [p for p in request["programs"] if p.startswith("qemu") and host.name in self.bare]
                detail = {**FACTS, "began": 1.0, "clock": 2.0, "missing": lacks}
                detail["kvm_known"] = {"boot": "it hangs"}
                found = [("facts", host.uid, detail | {"kvm": not lacks})]
            else:
                keys = dict.fromkeys(request["sysctls"], "absent")
                bridge = {"addresses": ["10.9.0.7/20", "fe80::1/64"]}
                found = [("prepare", "bridge", bridge), ("prepare", "sysctls", {"keys": keys})]
            answers += [Answer(op, subject, True, 1.0, detail) for op, subject, detail in found]
        return answers


def test_every_machine_is_prepared_and_missing_packages_are_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab = Machines(monkeypatch)
    replies = configure._prepare(lab.context, lab.stand, [*lab.hosts, lab.service])
    addresses = configure._record_facts(lab.context, replies)
    assert addresses == {h.name: "10.9.0.7" for h in lab.stand.machines}
    one, rest, second = lab.requested
    assert set(one) == {lab.hosts[0].name}
    assert one[lab.hosts[0].name][0]["kvm_known"] == {}
    assert {requests[0]["kvm_known"]["boot"] for requests in rest.values()} == {"it hangs"}, "tried once"
    first = one | rest
    assert set(first) == {h.name for h in lab.stand.machines}
    for host in lab.stand.machines:
        facts, prepare = first[host.name]
        sizes = [v for k, v in prepare["sysctls"].items() if "ipv4" in k]
        assert sizes == [4096, 8192, 16384], "room for 3,000 VMs and three machines, on every machine"
        assert facts["programs"] == (
            ["ip", "dnsmasq", "nginx"] if host == lab.service else [*GUESTS["vm"].programs]
        )
        assert bool(prepare["ramdisk"]) == (host != lab.service)
    without = lab.hosts[1].name
    assert list(second) == [without], "who lacks nothing is asked once"
    assert second[without][0]["programs"] == {"qemu-system-x86_64": "qemu-system-x86"}
    assert [e[1:3] for e in lab.events if e[0] == "packages"] == [(without, "start"), (without, "ok")]
    told = {name: detail for step, name, _, detail in lab.events if step == "facts"}
    assert {name: detail["kvm"] for name, detail in told.items()} == dict.fromkeys(told, True)
    assert set(told) == {h.name for h in lab.stand.machines}
    assert set(told[without]["settings"].values()) == {"absent"}


def test_dhcp_ends_before_the_first_job_does(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Machines(monkeypatch)
    assert configure.boot_plan(lab.context, lab.stand, (), {}).until == 1000 + 7200 - 60
    lab.stand.reservation.walltime = 120.0
    assert configure.boot_plan(lab.context, lab.stand, (), {}).until == 1000 + 120 - 12


class Log:
    """The status of each event of a step, machine by machine."""

    def __init__(self) -> None:
        self.statuses: dict[str, list[str]] = {}

    def append(self, _: str, __: str, ___: str, name: str, status: str, **detail: Any) -> None:
        self.statuses.setdefault(name, []).append(status)


def reply(host: Host, reason: str = "") -> calls.AgentReply:
    return calls.AgentReply(host, Result(host.address, not reason, 0, b"", b"", 1.0, 2.0), (), reason)


def test_machines_that_fail_are_called_once_more() -> None:
    hosts = [Host(name, "nancy", "h", 4, GIB, address=name) for name in ("good", "slow", "dead")]
    called: list[list[str]] = []

    def call(machines: Sequence[Host]) -> list[calls.AgentReply]:
        called.append([host.name for host in machines])
        bad = {"dead"} if len(called) > 1 else {"dead", "slow"}
        return [reply(host, "no login within 30 s" * (host.name in bad)) for host in machines]

    log: Any = Log()
    replies = calls.call_twice(log, "configure", "agent", hosts, call)
    assert called == [["good", "slow", "dead"], ["slow", "dead"]]
    assert {r.host.name: r.ok for r in replies} == {"good": True, "slow": True, "dead": False}
    assert log.statuses == {
        "good": ["start", "ok"],
        "slow": ["start", "retry", "start", "ok"],
        "dead": ["start", "retry", "start", "failed"],
    }


def few_of_many(vms: int) -> tuple[Any, ClusterState]:
    """A service machine and three hosts with room for four VMs each."""
    service, *hosts = (Host(f"h-{i}.nancy.grid5000.fr", "nancy", "h", 4, 16 * GIB) for i in range(4))
    layout = service_layout([service], {"nancy": 3}, [PART])
    granted: Any = None
    cluster = ClusterState(
        granted, (service,), tuple(hosts), layout, host_addresses(hosts, layout, [PART]), {}
    )
    spec = Spec(sites={"nancy": 3}, vms=vms, capacity={"per_core": 1})
    return SimpleNamespace(spec=spec), cluster


def test_the_run_goes_on_without_a_host_that_is_not_ready() -> None:
    context, cluster = few_of_many(vms=8)
    lost, failed = cluster.hosts[0], dict[str, str]()
    replies = [reply(m, "no login within 30 s" * (m == lost)) for m in cluster.machines]
    others = configure._without_failed(context, cluster, "agent", replies, failed)
    assert others.hosts == cluster.hosts[1:]
    assert others.addresses == cluster.addresses, "the others keep theirs"
    assert failed == {lost.name: "no login within 30 s"}


@pytest.mark.parametrize(
    ("vms", "which", "words"),
    [(9, 1, "with room for only 8 of 9 VMs"), (1, 0, "agent failed on 1 of 4 machines, first h-0.nancy")],
)
def test_configure_ends_without_a_service_machine_or_without_room(vms: int, which: int, words: str) -> None:
    context, cluster = few_of_many(vms)
    replies = [reply(m, "no login" * (i == which)) for i, m in enumerate(cluster.machines)]
    with pytest.raises(PhaseError, match=words) as caught:
        configure._without_failed(context, cluster, "agent", replies, {})
    assert (caught.value.phase, caught.value.step) == ("configure", "agent")
    assert "call configure() again" in caught.value.advice
