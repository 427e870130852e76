"""What a phase knows of its run when it is called again, and what a killed process left open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from measuremaker import measure_events
from runmaker import run_events

from g5kvirt.inventory import VM, Facts, to_plain
from g5kvirt.run import event_types
from g5kvirt.run.deployment_tables import Measurements
from g5kvirt.run.event_types import host_facts, job_progress, placement
from g5kvirt.run.events import Event
from g5kvirt.run.journal import Journal, read_events
from g5kvirt.run.recovery import CUT_SHORT, missing_ends
from g5kvirt.run.state import RunState
from g5kvirt.run.tables import Frames

FACTS = Facts(cores=4, memory=8, kvm=False, clock_offset=0.25)
VMS = [
    VM(n, f"vm-{n}", "h-1", "nancy", IPv4Address(0x0A000000 + n), f"52:54:00:00:00:{n:02x}") for n in (1, 2)
]


def test_constructed_events_are_read_back() -> None:
    """Also through JSON, as a journal keeps it."""
    events = [
        job_progress("nancy", "submitted", {"job": 7, "resources": "nodes=3"}, 1.0),
        job_progress("rennes", "submitted", {"job": 9}, 1.0),
        job_progress("rennes", "running", {"job": 9}, 2.0),
        host_facts("h-1", FACTS, 2.0, kvm_reason="none"),
        placement("r", [to_plain(vm) for vm in VMS], 3.0),
    ]
    state = RunState.of(Event.from_json(event.to_json()) for event in events)
    assert state.jobs == [("nancy", 7), ("rennes", 9)]
    assert state.facts == {"h-1": FACTS}
    assert state.placed_vms == VMS


def test_placement_of_older_journals_may_have_labels() -> None:
    event = placement("r", [to_plain(vm) for vm in VMS], 3.0)
    old = replace(event, detail={"vms": [{**row, "labels": {"a": "b"}} for row in event.detail["vms"]]})
    assert RunState.of([old]).placed_vms == VMS


def test_detail_is_that_of_the_last_success() -> None:
    def end(status: Any, **detail: Any) -> Event:
        return Event("deploy", "phase", "run", "r", status, 1.0, 1, detail)

    assert RunState.of([]).detail("deploy") is None
    state = RunState.of([end("ok", hosts=[1]), end("ok", hosts=[2]), end("failed", reason="no")])
    assert (state.detail("deploy"), state.done("deploy")) == ({"hosts": [2]}, True)
    assert not RunState.of([end("failed")]).done("deploy")


def test_deployments_vms_and_macro_steps_end_once_and_not_before_they_began() -> None:
    events = [
        event_types.deployment_started("d1", 10.0, 1, {"vms": ["vm-1"]}),
        event_types.macro_step("d1", "vm-1", "SetDeploymentEnv", "start", 10.0, 1, "untrusted", ""),
        event_types.macro_step("d1", "vm-1", "BroadcastEnv", "start", 14.0, 1, "chain", ""),
        event_types.macro_step("d1", "vm-1", "SetDeploymentEnv", "ok", 14.0, 1, "untrusted", ""),  # swapped
        event_types.macro_step("d1", "vm-1", "BroadcastEnv", "ok", 3.0, 1, "chain", ""),
        event_types.vm_deployment_ended("d1", "vm-1", "deployed", 20.0, 1, ""),
        event_types.vm_deployment_ended("d1", "vm-1", "failed", 12.0, 1, "", reason="late"),
        event_types.deployment_ended("d1", 20.0, 1, 0),
        event_types.deployment_ended("d1", 12.0, 0, 1),
    ]
    deployment = RunState.of(events).deployments["d1"]
    vm = deployment.vms["vm-1"]
    assert (deployment.status, deployment.end, deployment.deployed, deployment.failed) == ("ok", 20.0, 1, 0)
    assert (vm.outcome, vm.end, vm.reason) == ("deployed", 20.0, "")
    seconds = {name: (span.outcome, span.seconds) for name, span in vm.macros.items()}
    assert seconds == {"SetDeploymentEnv": ("ok", 4.0), "BroadcastEnv": ("ok", 0.0)}


def test_a_late_step_does_not_make_a_deployed_vm_a_failed_one() -> None:
    events = [
        Event("measure", "phase", "run", "r", "start", 1.0),
        event_types.deployment_started("d1", 2.0, 1, {"vms": ["vm-1"]}),
        event_types.vm_deployment_ended("d1", "vm-1", "deployed", 9.0, 1, ""),
        event_types.micro_step("d1", "vm-1", "ready", "ok", 8.9, 1, 0.5),
    ]
    ends = missing_ends(RunState.of(events))
    assert [(e.step, e.kind, e.status) for e in ends] == [
        ("deployment", "run", "ok"),
        ("phase", "run", "failed"),
    ]
    deployment = RunState.of([*events, *ends]).deployments["d1"]
    assert (deployment.deployed, deployment.failed) == (1, 0)


def test_deployment_that_is_named_by_its_subject_alone_is_ended() -> None:
    start = event_types.deployment_started("d1", 2.0, 1, {"vms": ["vm-1"]})
    bare = replace(start, detail={key: value for key, value in start.detail.items() if key != "deployment"})
    phase = Event("measure", "phase", "run", "r", "start", 1.0)
    state = RunState.of([phase, replace(bare, subject="d1")])
    assert missing_ends(state)[-1].is_phase


def test_number_that_is_too_large_is_no_event() -> None:
    line = Event("measure", "phase", "run", "r", "start", 1.0).to_json().replace("1.0", "9" * 400, 1)
    with pytest.raises(ValueError, match="too large"):
        Event.from_json(line)


def test_a_try_of_a_phase_ends_once() -> None:
    def phase(status: Any, t: float) -> Event:
        return Event(
            "launch", "phase", "run", "r", status, t, 1, {"reason": "cut short"} if status == "failed" else {}
        )

    launch = RunState.of([phase("start", 10.0), phase("ok", 30.0), phase("failed", 5.0)]).phases["launch"]
    assert (launch.state, launch.end, launch.seconds()) == ("ok", 30.0, 20.0)
    early = RunState.of([phase("start", 10.0), phase("ok", 9.0)]).phases["launch"]
    assert (early.state, early.seconds()) == ("ok", 0.0), "the clock was set back meanwhile"


def test_up_and_deployed_vms_are_in_placement_order() -> None:
    events = [*run_events(4, lost=1), *measured((3,), {"vm-2": ("format", 9, "no disk")})]
    state = RunState.of(events)
    assert state.up_vms == [name for name in ("vm-1", "vm-2", "vm-3", "vm-4") if state.vms[name].up]
    assert len(state.up_vms) == 3
    assert state.deployed_vms == ["vm-1", "vm-3"]
    assert state.deployments["d1"].planned == ["vm-1", "vm-2", "vm-3"]


# ---- cut short --------------------------------------------------------------------------------------------


def measured(sizes: Sequence[int], bad: Any = None) -> list[Event]:
    """`measure_events`, with the names of the VMs at each beginning, as `measure` writes them."""
    return [
        replace(e, detail={**e.detail, "vms": [f"vm-{n + 1}" for n in range(e.detail["asked"])]})
        if (e.step, e.kind, e.status) == ("deployment", "run", "start")
        else e
        for e in measure_events(sizes, 1, bad=bad)
    ]


def test_missing_ends_close_a_run_killed_anywhere() -> None:
    """For each place where the process may have been killed: all spans and all VMs have an end afterwards."""
    events = [*run_events(4, lost=1), *measured((2, 4), {"vm-2": ("format", 9, "no disk")})]
    closed = 0
    for cut in range(0, len(events) + 1, 3):
        known = events[:cut]
        ends = missing_ends(RunState.of(known))
        whole = [*known, *ends]
        assert missing_ends(RunState.of(whole)) == []
        assert {e.status for e in ends} <= {"failed", "ok"}
        assert all(e.t >= max(k.t for k in known) for e in ends)
        frames = Frames(whole)
        assert "unfinished" not in set(frames.phases["status"])
        summary = Measurements.of(whole).summary()
        assert summary.requested == summary.deployed + summary.failed
        for step, reason in summary.reasons:
            assert step, "where it was is known"
            assert reason in (CUT_SHORT, "no disk")
        spans = frames.spans[frames.spans["phase"] == "measure"]
        assert "unfinished" not in set(spans["status"])
        closed += bool(ends)
    assert closed > 40


def test_failed_phase_has_no_missing_ends() -> None:
    events = run_events(2)
    end = next(n for n, e in enumerate(events) if (e.phase, e.step, e.status) == ("launch", "phase", "ok"))
    failed = Event("launch", "phase", "run", "r", "failed", events[end].t, 1, {"reason": "interrupted"})
    some = [e for e in events[:end] if (e.step, e.status) != ("power-on", "ok")]
    assert missing_ends(RunState.of([*some, failed])) == []
    assert missing_ends(RunState.of([])) == []


def test_missing_ends_name_the_step_of_each_vm(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    events = measured((1,))
    cut = next(n for n, e in enumerate(events) if (e.step, e.kind) == ("format", "vm")) + 1
    journal = Journal.open(path)
    journal.extend(events[:cut])
    journal.extend(missing_ends(journal.state))
    (failure,) = Measurements.of(read_events(path)).summary().failures
    done = [e.step for e in events[:cut] if "seconds" in e.detail][-1]
    assert done == "format"
    assert failure[2] == "broadcast", "the step after the last one that was done"
