"""Deployments through the stand-in for Kadeploy3, from the request to the tables of measurements."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kadeploymaker import cluster
from kadeployserver import SECONDS, Kadeploy, serving

from g5kvirt.errors import MachineError
from g5kvirt.images.environments import Environment
from g5kvirt.inventory import VM
from g5kvirt.provisioners.builtin.engine import Outcome
from g5kvirt.provisioners.kadeploy3 import logins, loop
from g5kvirt.provisioners.kadeploy3.client import KadeployClient
from g5kvirt.provisioners.kadeploy3.configuration import Node
from g5kvirt.provisioners.kadeploy3.environment import describe, identity_operation
from g5kvirt.provisioners.kadeploy3.event_mapping import EventMapper
from g5kvirt.provisioners.kadeploy3.logins import Logins
from g5kvirt.provisioners.kadeploy3.loop import DeploymentPart, drive
from g5kvirt.provisioners.kadeploy3.records import LogLine, NodeState
from g5kvirt.provisioners.kadeploy3.steps import (
    MACROS,
    VARIANTS,
    WITH_IDENTITY,
    instance,
    order,
    step_name,
    workflow,
)
from g5kvirt.run.deployment_tables import Measurements
from g5kvirt.run.events import Event

DEBIAN = describe(Environment("debian", "/e.tgz", compression="gzip"), "/srv/e.tgz")
OWN = identity_operation({"name": "debian", "sha256": "a" * 64, "deployment": "d1.1"})


@dataclass
class Bed:
    """Nodes, the stand-in, a client of it, and what came of a deployment. Its time passes when we sleep."""

    kadeploy: Kadeploy
    client: KadeployClient
    nodes: tuple[Node, ...]
    ahead: float = 0.0  #: seconds by which the server's clock is ahead
    events: list[Event] = field(default_factory=list)
    at: Callable[[float], None] = lambda _: None  #: called when time has passed
    found: dict[str, list[str]] = field(default_factory=dict)  #: VM → what its logins find, but for the last
    logins: list[str] = field(default_factory=list)

    def clock(self) -> float:
        return self.kadeploy.now - self.ahead

    def run(self, parts: int = 1, tick: float = 2.0, limit: float = 1e6, **request: Any) -> list[Outcome]:
        """Deploy on all nodes."""
        names = [node.name for node in self.nodes]
        asked = [DeploymentPart(tuple(names[i::parts]), timeout=20.0) for i in range(parts)]
        mapper = EventMapper("d1", self.nodes, offset=self.ahead)
        mapper.start(self.clock(), {"environment": "debian", "vms": [n.vm.name for n in self.nodes]})
        self.begun = self.clock()

        def sleep(seconds: float) -> None:
            if all(part.over for part in asked):
                time.sleep(0.01)  # for the threads that log in
            if all(part.wid or part.over for part in asked):
                with self.kadeploy.lock:
                    self.kadeploy.now += seconds
                self.at(self.kadeploy.now - self.begun - self.ahead)
            else:
                time.sleep(0.002)  # a request is on its way: it takes no time of theirs

        with Logins(self.log_in, lambda _: None, clock=self.clock) as made:
            return drive(
                self.client,
                mapper,
                asked,
                {"environment": "debian", "operations": OWN, **request},
                made,
                clock=self.clock,
                sleep=sleep,
                write=self.events.extend,
                limit=limit,
                tick=tick,
            )

    def log_in(self, vms: Sequence[VM], report: Callable[[str, str], object]) -> None:
        for vm in vms:
            self.logins.append(vm.name)
            report(vm.name, self.found[vm.name].pop(0) if self.found.get(vm.name) else "")

    @property
    def tables(self) -> Measurements:
        return Measurements.of(self.events)

    def of(self, number: int) -> list[Event]:
        """The events of a VM."""
        return [e for e in self.events if e.kind == "vm" and e.subject == self.nodes[number - 1].vm.name]

    def breaks(self, number: int, macro: str, micro: str, why: str, times: int = 99) -> None:
        """Let a node fail there."""
        self.kadeploy.bad[f"node-{number}.kadeploy", macro, micro] = [times, why]


@pytest.fixture
def bed() -> Iterator[Bed]:
    nodes = cluster(6).nodes
    kadeploy = Kadeploy([node.name for node in nodes])
    with serving(kadeploy) as url:
        client = KadeployClient(url, timeout=20)
        client.grant()
        client.register(DEBIAN)
        yield Bed(kadeploy, client, nodes)


def test_every_step_of_every_vm_is_timed_by_the_log(bed: Bed) -> None:
    outcomes = bed.run()
    assert [o.state for o in outcomes] == ["deployed"] * 6
    assert [o.vm for o in outcomes] == [node.vm for node in bed.nodes]
    steps = bed.tables.attempts
    for number in range(1, 7):
        vm = bed.nodes[number - 1].vm.name
        own = steps[steps["vm"] == vm].set_index("step")
        assert own["duration"]["image"] == pytest.approx(SECONDS["send_environment"], abs=1e-4)
        assert own["duration"]["mount"] == pytest.approx(SECONDS["mount_deploy_part"], abs=1e-4)
        assert own["duration"]["check-kernel-files"] == pytest.approx(SECONDS["check_kernel_files"], abs=1e-4)
        assert own["macro"]["reboot"] == "SetDeploymentEnv"
        # a VM's own boot, though its set waits for the last
        share = 0.25 if number % 2 else 0.5
        assert own["duration"]["minimal-system"] == pytest.approx(
            SECONDS["wait_reboot"] * (1 - share), abs=1e-4
        )
        assert own["duration"]["identity"] == pytest.approx(SECONDS[WITH_IDENTITY], abs=1e-4)
        assert own["macro"]["login"] == "BootNewEnv"
        assert {"partition", "format", "bootloader", "boot", "ready"} <= set(own.index)
    row = bed.tables.vms.iloc[0]
    assert row["SetDeploymentEnv_duration"] == pytest.approx(83.4, abs=0.01)
    assert row["outcome"] == "deployed"
    whole = bed.tables.deployments.iloc[0]
    assert (whole["requested"], whole["deployed"], whole["failed"], whole["unfinished"]) == (6, 6, 0, 0)
    assert bed.kadeploy.workflows == {}, "the server may forget it"


@pytest.mark.parametrize("tick", [0.5, 7.0, 45.0, 400.0])
def test_rare_polls_lose_no_vm_and_few_times(bed: Bed, tick: float) -> None:
    assert {o.state for o in bed.run(tick=tick)} == {"deployed"}
    macros = bed.tables.macros.set_index("macro")
    assert set(macros.index) == set(MACROS)
    assert (macros["vms"] == 6).all()
    # steps in the log are timed by it, macro-steps at worst by the polls or by whole seconds
    true = {"SetDeploymentEnv": 83.4, "BroadcastEnv": 34.0}
    for macro, seconds in true.items():
        assert macros["median"][macro] == pytest.approx(seconds, abs=1.1)


def test_clocks_that_differ_make_no_difference(bed: Bed) -> None:
    bed.ahead = 1000.0
    bed.run()
    times = [e.t for e in bed.events]
    assert min(times) == bed.begun
    assert max(times) <= bed.clock()
    steps = bed.tables.attempts
    assert set(steps[steps["step"] == "format"]["duration"].round(3)) == {3.0}


def test_events_have_the_shape_of_those_of_the_builtin_provisioner(bed: Bed) -> None:
    bed.run()
    first, last = bed.events[0], bed.events[-1]
    assert (first.step, first.kind, first.subject, first.status) == ("deployment", "run", "d1", "start")
    assert first.detail["asked"] == 6
    assert set(first.detail["workflow"]) == set(MACROS)
    assert (last.step, last.kind, last.status) == ("deployment", "run", "ok")
    assert last.detail == {"deployment": "d1", "deployed": 6, "failed": 0}
    assert last.t >= max(e.t for e in bed.events)
    assert all(e.phase == "measure" and e.detail["deployment"] == "d1" for e in bed.events)
    for number in range(1, 7):
        own = bed.of(number)
        assert [e.t for e in own] == sorted(e.t for e in own)
        micro = [e for e in own if "seconds" in e.detail]
        assert micro
        assert all(e.detail["seconds"] >= 0 for e in micro)
        starts = [e.step for e in own if e.status == "start"]
        assert starts == list(MACROS)
        assert own[-1].step == "deployment"
    statistics = next(e for e in bed.events if e.step == "statistics")
    assert statistics.detail["vms"][bed.nodes[0].vm.name] == {"durations": (83, 34, 64), "retries": (0, 0, 0)}


def test_a_vm_that_fails_once_is_tried_again_alone(bed: Bed) -> None:
    bed.breaks(2, "SetDeploymentEnvUntrusted", "wait_reboot", "Unreachable after the reboot", times=1)
    outcomes = bed.run()
    assert [o.state for o in outcomes] == ["deployed"] * 6
    assert [o.attempt for o in outcomes] == [1, 2, 1, 1, 1, 1]
    own = bed.of(2)
    failed = [e for e in own if e.status == "failed"]
    assert [(e.step, e.attempt) for e in failed] == [("minimal-system", 1)]
    assert [(e.step, e.attempt) for e in own if e.status == "retry"] == [("SetDeploymentEnv", 1)]
    ok = [(e.step, e.attempt) for e in own if e.status == "ok" and e.step == "minimal-system"]
    assert ok == [("minimal-system", 2)]
    row = bed.tables.vms.set_index("vm").loc[bed.nodes[1].vm.name]
    assert (row["outcome"], row["attempts"]) == ("deployed", 2)


def test_a_vm_that_fails_always_ends_with_kadeploys_own_reason(bed: Bed) -> None:
    bed.breaks(3, "BroadcastEnvKascade", "send_environment", "KASCADE-ERROR: 3")
    bed.breaks(3, "BroadcastEnvChain", "send_environment", "tar: short read")
    outcomes = bed.run(tick=0.4)
    lost = outcomes[2]
    assert [o.state for o in outcomes].count("deployed") == 5
    assert (lost.state, lost.macro, lost.step, lost.reason) == (
        "failed",
        "BroadcastEnv",
        "image",
        "tar: short read",
    )
    variants = [e.detail["variant"] for e in bed.of(3) if (e.step, e.status) == ("BroadcastEnv", "start")]
    assert variants == ["Kascade", "Kascade", "Chain", "Chain"]
    row = bed.tables.vms.set_index("vm").loc[lost.vm.name]
    assert (row["failed_macro"], row["failed_at"], row["reason"]) == (
        "BroadcastEnv",
        "image",
        "tar: short read",
    )
    assert bed.events[-1].detail["failed"] == 1


def test_a_vm_that_failed_for_good_ended_then_and_not_with_the_others(bed: Bed) -> None:
    bed.breaks(3, "SetDeploymentEnvUntrusted", "reboot", "it refuses")
    bed.run(tick=1.0)
    ends = {e.subject: e.t - bed.begun for e in bed.events if (e.step, e.kind) == ("deployment", "vm")}
    lost = bed.nodes[2].vm.name
    # switch_pxe and reboot, twice: its time is over when the second try fails
    assert ends[lost] == pytest.approx(2 * (1 + 16) + 0.5, abs=1.1)
    assert min(t for name, t in ends.items() if name != lost) > 150
    order = [e.subject for e in bed.events if (e.step, e.kind) == ("deployment", "vm")]
    assert order[0] == lost, "it is written as soon as it is known, too"


@pytest.mark.parametrize("sight", [NodeState("BroadcastEnvChain", "sync", "ko"), NodeState("", "", "ko")])
def test_failing_that_is_known_at_the_end_only_is_dated_back(sight: NodeState) -> None:
    (node,) = cluster(1).nodes
    mapper = EventMapper("d1", [node])
    mapper.start(0.0, {})
    mapper.poll(10.0, {node.name: NodeState("BroadcastEnvChain", "sync", "ok")}, [])
    mapper.poll(20.0, {node.name: sight}, [])
    mapper.failed_for_good(25.0, [node.name, "node-unknown"])  # no reason yet: the statistics have one
    assert not mapper.finished
    mapper.end(90.0, [node.name], [], [], "lost")
    (end,) = [e for e in mapper.take() if (e.step, e.kind) == ("deployment", "vm")]
    assert (end.t, end.detail["reason"]) == (20.0, "lost")


def test_a_deployment_left_by_an_earlier_process_is_ended_first(bed: Bed) -> None:
    left = bed.client.deploy([bed.nodes[0].name], "debian")
    assert {o.state for o in bed.run()} == {"deployed"}
    deleted = [path for method, path, _ in bed.kadeploy.requests if method == "DELETE"]
    assert deleted[0].endswith(left)


def test_a_vm_that_runs_something_else_has_failed_though_kadeploy3_has_deployed_it(bed: Bed) -> None:
    names = [node.vm.name for node in bed.nodes]
    bed.found = {
        names[1]: ["it does not answer yet"] * 3,
        names[3]: ["it runs another deployment, d0.1"] * 99,
    }
    outcomes = bed.run()
    assert [o.state for o in outcomes] == ["deployed"] * 3 + ["failed"] + ["deployed"] * 2
    lost = outcomes[3]
    assert (lost.macro, lost.step, lost.reason) == (
        "BootNewEnv",
        "login",
        "it runs another deployment, d0.1",
    )
    assert (bed.logins.count(names[0]), bed.logins.count(names[1])) == (1, 4)
    own = bed.tables.attempts[bed.tables.attempts["step"] == "login"].set_index("vm")["duration"]
    assert own[names[0]] <= 4
    assert 9 <= own[names[1]] <= 20, "three pauses"
    assert logins.LIMIT <= own[names[3]] <= logins.LIMIT + 10
    macro = next(e for e in bed.of(4) if (e.step, e.status) == ("BootNewEnv", "failed"))
    assert macro.detail["reason"] == lost.reason
    (whole,) = bed.tables.deployments.to_dict("records")
    assert (whole["deployed"], whole["failed"], whole["unfinished"]) == (5, 1, 0)


def test_hosts_that_cannot_log_in_are_the_reason_of_their_vms(bed: Bed, monkeypatch: Any) -> None:
    def breaks(vms: Sequence[VM], report: Callable[[str, str], object]) -> None:
        report(vms[0].name, "")
        raise MachineError("no ssh here")

    monkeypatch.setattr(bed, "log_in", breaks)
    outcomes = bed.run(tick=30.0)
    # each time one VM is heard of, and drops out
    assert {o.reason for o in outcomes} <= {"", "no ssh here"}
    assert outcomes[0].state == "deployed"
    assert "failed" in {o.state for o in outcomes}


def test_an_operation_that_fails_on_a_node_is_named(bed: Bed) -> None:
    for variant in ("Kascade", "Chain"):
        bed.breaks(2, f"BroadcastEnv{variant}", WITH_IDENTITY, "No space left on device")
    lost = bed.run()[1]
    assert (lost.macro, lost.step, lost.reason) == ("BroadcastEnv", "identity", "No space left on device")


def test_kexec_that_fails_is_followed_by_a_hard_reboot(bed: Bed) -> None:
    bed.breaks(1, "BootNewEnvKexec", "kexec", "no memory")
    assert {o.state for o in bed.run()} == {"deployed"}
    own = [e for e in bed.of(1) if e.step in ("boot", "reset", "ready") and "seconds" in e.detail]
    assert [(e.step, e.status) for e in own] == [("boot", "failed"), ("reset", "ok"), ("ready", "ok")]


def test_parts_run_in_parallel_in_one_deployment(bed: Bed) -> None:
    bed.breaks(4, "SetDeploymentEnvUntrusted", "reboot", "it refuses")
    outcomes = bed.run(parts=3)
    assert [o.state for o in outcomes].count("failed") == 1
    asked = [a["nodes"] for m, path, a in bed.kadeploy.requests if (m, path) == ("POST", "/deployment")]
    assert sorted(node for nodes in asked for node in nodes) == sorted(n.name for n in bed.nodes)
    assert len(asked) == 3
    starts = [e for e in bed.events if (e.step, e.kind) == ("deployment", "run")]
    assert [e.status for e in starts] == ["start", "ok"]
    vms = [e.subject for e in bed.events if (e.step, e.kind) == ("deployment", "vm")]
    assert sorted(vms) == sorted(n.vm.name for n in bed.nodes)


def test_a_part_that_is_refused_fails_and_the_others_go_on(bed: Bed) -> None:
    bed.kadeploy.nodes.remove("node-1.kadeploy")
    outcomes = bed.run(parts=2)
    states = [o.state for o in outcomes]
    assert states == ["failed", "deployed"] * 3
    assert "node-1.kadeploy' does not exist" in outcomes[2].reason


def test_deployment_that_breaks_as_a_whole_keeps_its_reason(bed: Bed) -> None:
    bed.kadeploy.broken = "the file '/srv/e.tgz' is not readable on the server"
    outcomes = bed.run()
    assert {o.state for o in outcomes} == {"failed"}
    assert [o.reason for o in outcomes if "not readable" not in o.reason] == []
    assert bed.events[-1].status == "failed"


def test_a_server_that_falls_silent_is_given_up_after_a_while(bed: Bed) -> None:
    def fall_silent(passed: float) -> None:
        if passed > 30:
            bed.kadeploy.deaf = {"/logs", "/state", "/deploy"}

    bed.at = fall_silent
    outcomes = bed.run()
    assert {o.state for o in outcomes} == {"failed"}
    assert {o.step for o in outcomes} == {"minimal-system"}
    assert bed.clock() - bed.begun < 400


def test_deployment_ends_for_every_behaviour_of_the_server(bed: Bed) -> None:
    outcomes = bed.run(limit=50.0)
    assert {o.reason for o in outcomes} == {"Kadeploy3 was not done within 50 s"}
    assert bed.kadeploy.workflows == {}


def test_an_interrupt_ends_what_runs_and_accounts_for_every_vm(bed: Bed) -> None:
    def interrupt(passed: float) -> None:
        if passed > 20:
            raise KeyboardInterrupt

    bed.at = interrupt
    with pytest.raises(KeyboardInterrupt):
        bed.run(parts=2)
    assert bed.kadeploy.workflows == {}
    ends = [e for e in bed.events if (e.step, e.kind) == ("deployment", "vm")]
    assert {e.detail["reason"] for e in ends} == {"interrupted"}
    assert len(ends) == 6
    assert bed.events[-1].detail == {"deployment": "d1", "deployed": 0, "failed": 6}


def test_a_request_that_is_answered_after_the_end_leaves_nothing_behind(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_SUBMIT_END", 0.01)
    bed.kadeploy.hold.clear()
    outcomes = bed_that_waits_no_longer(bed)
    assert {o.state for o in outcomes} == {"failed"}
    bed.kadeploy.hold.set()
    deadline = time.monotonic() + 20
    while not any(method == "DELETE" for method, _, _ in bed.kadeploy.requests):
        assert time.monotonic() < deadline, "what was begun too late has to be ended"
        time.sleep(0.01)


def test_the_end_waits_a_while_for_a_request_that_is_under_way(bed: Bed) -> None:
    bed.kadeploy.hold.clear()
    threading.Timer(0.5, bed.kadeploy.hold.set).start()
    bed_that_waits_no_longer(bed)
    assert len(bed.kadeploy.log) == 1
    assert bed.kadeploy.workflows == {}, "it was ended before we left, with the way to the server still open"


def bed_that_waits_no_longer(bed: Bed) -> list[Outcome]:
    """The limit is over before the first request is answered."""
    mapper = EventMapper("d1", bed.nodes)
    mapper.start(0.0, {})
    parts = [DeploymentPart(tuple(n.name for n in bed.nodes), timeout=20.0)]
    now = iter(range(10_000))

    def sleep(_: float) -> None:
        deadline = time.monotonic() + 20
        while not any(asked[:2] == ("POST", "/deployment") for asked in bed.kadeploy.requests):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def clock() -> float:
        return float(next(now))

    with Logins(bed.log_in, lambda _: None, clock=clock) as made:
        return drive(
            bed.client,
            mapper,
            parts,
            {"environment": "debian"},
            made,
            clock=clock,
            sleep=sleep,
            write=bed.events.extend,
            limit=5.0,
        )


# ---- the mapper alone --------------------------------------------------------------------------------------
PATHS = [
    (m + v, micro) for m, variants in VARIANTS.items() for v, steps in variants.items() for micro in steps
]
SIGHTS = st.one_of(
    st.builds(
        lambda where, state: NodeState(*where, state),
        st.sampled_from([*PATHS, ("BroadcastEnvKascade", "custom_x"), ("Odd", "odd")]),
        st.sampled_from(["ok", "ko", "reboot_in_progress", "rebooted", "brk"]),
    ),
    st.just(NodeState("", "", "ok")),
    st.just(NodeState("", "", "discarded")),
)
LINES = st.lists(
    st.builds(
        LogLine,
        st.floats(0, 100),
        st.just(""),
        st.sampled_from(
            ["  reboot", "  sync", "   * node-1.kadeploy is here after 3s", "End of deployment for x", "?"]
        ),
    ),
    max_size=3,
)


@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from(["node-1.kadeploy", "node-2.kadeploy", "x"]), SIGHTS), LINES
        )
    ),
    st.sets(st.sampled_from(["node-1.kadeploy", "node-2.kadeploy"])),
    st.sampled_from(["", "it runs another deployment"]),
    st.booleans(),
)
def test_every_vm_ends_once_for_every_answer_of_kadeploy3(
    polls: Sequence[tuple[dict[str, NodeState], list[LogLine]]], ok: set[str], why: str, early: bool
) -> None:
    nodes = cluster(2).nodes
    mapper = EventMapper("d1", nodes)
    mapper.start(0.0, {})
    for number, (states, lines) in enumerate(polls, start=1):
        mapper.poll(float(number), states, lines)
        for vm in mapper.take_up() if early else ():
            mapper.logged_in(number + 0.5, vm.name, why)
    mapper.end(200.0, [n.name for n in nodes], ok, [])
    for vm in mapper.take_up():
        assert not mapper.finished
        mapper.logged_in(201.0, vm.name, why)
        mapper.logged_in(202.0, vm.name, why)
    assert mapper.finished
    events = mapper.take()
    for node in nodes:
        own = [e for e in events if e.kind == "vm" and e.subject == node.vm.name]
        assert [e.step for e in own].count("deployment") == 1
        assert own[-1].step == "deployment"
        assert [e.t for e in own] == sorted(e.t for e in own)
        open_macro = ""
        for e in own:
            if e.status == "start":
                assert not open_macro
                open_macro = e.step
            elif e.detail.get("variant") is not None:
                assert e.step == open_macro
                open_macro = ""
        assert not open_macro
    assert (events[-1].step, events[-1].kind) == ("deployment", "run")
    whole = Measurements.of(events).deployments.iloc[0]
    assert whole["deployed"] + whole["failed"] == 2
    assert not (why and whole["deployed"]), "without a login none is deployed"


def test_each_step_belongs_to_one_macro_step() -> None:
    named = [step for steps in workflow().values() for step in steps]
    assert len(named) == len(set(named))
    assert instance("BroadcastEnvKascade") == ("BroadcastEnv", "Kascade")
    assert instance("Simple") == ("Simple", "")
    assert order("BroadcastEnvUnheardOf") == ()
    assert step_name("BroadcastEnv", "custom_pre_x") == "BroadcastEnv-custom-pre-x"
