"""measure() over a provisioner that only notes what it is given: what it deploys, and what it records."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from contextlib import closing
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from runmaker import run_events

from g5kvirt.broadcast import chain
from g5kvirt.context import Context
from g5kvirt.errors import PhaseError
from g5kvirt.images.environments import Environment, Image
from g5kvirt.inventory import GIB, VM, Host
from g5kvirt.phases import measure as phase
from g5kvirt.phases.measure import MeasureRequest, measure
from g5kvirt.planning.cluster import ClusterState
from g5kvirt.planning.services import ServiceLayout, ServiceMachine
from g5kvirt.provisioners.base import DeploymentRequest
from g5kvirt.provisioners.events import DeploymentEvents
from g5kvirt.provisioners.outcome import Outcome, OutcomeState
from g5kvirt.provisioners.registry import PROVISIONERS
from g5kvirt.remote import Result
from g5kvirt.run import directory
from g5kvirt.run.event_types import deployment_started
from g5kvirt.run.journal import Journal
from g5kvirt.spec.spec import Spec

IMAGE = Image(Environment("mini", "/i"), Path("/i"), "a" * 64, 1000)
HEAD = Host("head.rennes.grid5000.fr", "rennes", "h", 4, GIB, address="head")


class Events(DeploymentEvents):
    """The first event of a deployment, by which its VMs are known to be used."""

    def start(self, request: DeploymentRequest) -> None:
        start = 1.8e9 + len(request.name)
        self._add(deployment_started(request.name, start, len(request.vms), request.about))


class Noting:
    """A provisioner that deploys nothing."""

    broadcasts: Sequence[chain.Kind] = ("chain",)

    def __init__(self, *, skips_reboot: bool = True, fails: bool = False) -> None:
        self.skips_reboot, self.fails = skips_reboot, fails
        self.requests: list[DeploymentRequest] = []
        self.prepared: list[int] = []
        self.journal: Journal

    def check(self, environment: Environment) -> None:
        pass

    def prepare(
        self, context: Context, cluster: ClusterState, vms: Sequence[VM], image: Image, broadcast: chain.Kind
    ) -> Noting:
        self.prepared.append(len(vms))
        self.journal = context.journal
        return self

    def deploy(self, request: DeploymentRequest) -> list[Outcome]:
        self.requests.append(request)
        events = Events(request.name)
        events.start(request)
        self.journal.extend(events.take())
        state: OutcomeState = "failed" if self.fails else "deployed"
        reason = "no disk" if self.fails else ""
        return [Outcome(vm, state, "BootNewEnv", "ready", 1, reason, "") for vm in request.vms]


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    """A run with four VMs up."""
    spec = Spec(sites={"rennes": 1}, vms=4)
    run = directory.create(tmp_path, "r", {"spec": spec.to_dict(), "testbed": "local"})
    with closing(Journal.open(run.journal)) as journal:
        journal.extend(run_events(4))
        host = Host("paradent-1.rennes.grid5000.fr", "rennes", "p", 4, GIB, address="paradent-1")
        machine = ServiceMachine(HEAD, ("http",), {"rennes": IPv4Address("10.158.0.1")})
        layout = ServiceLayout(IPv4Network("10.158.0.0/16"), (machine,))
        reservation: Any = None  # nobody looks at it
        cluster = ClusterState(reservation, (HEAD,), (host,), layout, {}, {})
        monkeypatch.setattr(phase, "cluster_state", lambda *_: cluster)
        testbed: Any = SimpleNamespace(world=None, simulated=False, real_cores=None)
        made = Context(spec, testbed, run, journal)
        made.__dict__["fanout"] = SimpleNamespace(
            run=no_console, keeps_connections=False, is_gone=lambda host: False
        )
        yield made


def no_console(hosts: Sequence[str], *_: object, **__: object) -> dict[str, Result]:
    """Hosts whose agents have no console to give."""
    return {host: Result(host, True, 0, b"", b"", 1.0, 2.0) for host in hosts}


def deployed(
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
    provisioner: Noting,
    sizes: tuple[int, ...],
    repeat: int,
) -> list[tuple[str, int, int]]:
    """Name, number of VMs and number of fresh ones of each deployment of one call."""
    monkeypatch.setitem(PROVISIONERS, "g5kvirt", provisioner)  # type: ignore[arg-type]
    before = len(provisioner.requests)
    names = measure(context, MeasureRequest("mini", (), sizes, repeat, "chain", IMAGE))
    made = provisioner.requests[before:]
    assert names == [request.name for request in made]
    assert all(request.about["fresh"] == len(request.fresh) for request in made)
    return [(request.name, len(request.vms), len(request.fresh)) for request in made]


def test_deployments_of_one_call_all_begin_with_a_reboot(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    noting = Noting()
    made = deployed(context, monkeypatch, noting, (2, 4), 2)
    assert made == [("d1", 2, 0), ("d2", 4, 0), ("d3", 2, 0), ("d4", 4, 0)]
    assert [request.about["repetition"] for request in noting.requests] == [1, 1, 2, 2]
    assert noting.prepared == [4]
    assert [len(request.without_ssh) for request in noting.requests] == [2, 2, 0, 0]


def test_a_single_deployment_skips_the_reboot_if_all_its_vms_are_fresh(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    noting = Noting()
    assert deployed(context, monkeypatch, noting, (2,), 1) == [("d1", 2, 2)]
    assert deployed(context, monkeypatch, noting, (4,), 1) == [("d2", 4, 0)], "no half of them"
    assert deployed(context, monkeypatch, noting, (4,), 1) == [("d3", 4, 0)]


def test_no_vm_is_fresh_for_a_provisioner_that_always_reboots(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert deployed(context, monkeypatch, Noting(skips_reboot=False), (4,), 1) == [("d1", 4, 0)]


def test_deployment_that_brings_up_no_vm_raises_the_first_reason(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        PhaseError, match=r"none of 2 VMs was deployed, first vm-\d at ready: no disk"
    ) as error:
        deployed(context, monkeypatch, Noting(fails=True), (2, 4), 1)
    assert (error.value.phase, error.value.step) == ("measure", "ready")


def test_every_provisioner_of_a_specification_is_registered() -> None:
    assert set(PROVISIONERS) == set(typing.get_args(typing.get_type_hints(Spec)["provisioner"]))
    for provisioner in PROVISIONERS.values():
        assert provisioner.broadcasts
        assert set(provisioner.broadcasts) <= set(chain.KINDS)
