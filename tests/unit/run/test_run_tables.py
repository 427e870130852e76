"""The tables say what the journal says, and the account adds up whatever happened."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from exactmaker import boot, phase, plan, vm
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.inventory import Facts
from g5kvirt.run.event_types import job_progress
from g5kvirt.run.events import Event
from g5kvirt.run.state import RunState
from g5kvirt.run.tables import Frames
from g5kvirt.run.vocabulary import BOOT_STATES, BOOT_STEPS

TIMES = [column for column in Frames([]).vms.columns if Frames([]).vms[column].dtype == "float64"]


def row(frame: pd.DataFrame, name: str) -> Any:
    (found,) = frame[frame["name"] == name].to_dict("records")
    return found


def test_vms_table_of_one_boot() -> None:
    frame = Frames([plan(), *boot("vm-1", 100.0)]).vms
    first = row(frame, "vm-1")
    assert (first["state"], first["attempts"], first["reason"]) == ("up", 1, "")
    assert (first["power_on"], first["dhcp"], first["minimal_system"]) == (100.0, 101.0, 105.0)
    assert (first["t_dhcp"], first["t_script"], first["t_minimal_system"]) == (1.0, 2.0, 5.0)
    assert (first["host"], first["ip"], first["mac"]) == (
        "h-1.nancy.grid5000.fr",
        "10.144.0.1",
        "52:54:0a:90:00:01",
    )
    second = row(frame, "vm-2")
    assert (second["state"], second["attempts"]) == ("placed", 0)
    assert all(math.isnan(second[column]) for column in TIMES)
    assert list(frame["index"]) == [1, 2, 3]


def test_vms_table_has_the_last_attempt() -> None:
    late = vm("vm-1", "initrd", 203.0, attempt=1)
    events = [plan(), *boot("vm-1", 100.0, upto=3), *boot("vm-1", 200.0, attempt=2, upto=2), late]
    found = row(Frames(events).vms, "vm-1")
    assert (found["state"], found["attempts"]) == ("booting", 2)
    assert (found["power_on"], found["t_dhcp"]) == (200.0, 1.0)
    assert math.isnan(found["script"])
    assert math.isnan(found["initrd"])


def test_first_of_repeated_milestones_counts() -> None:
    events = [plan(), *boot("vm-1", 100.0), vm("vm-1", "dhcp", 104.5)]
    assert row(Frames(events).vms, "vm-1")["dhcp"] == 101.0


def test_vm_that_reports_after_being_given_up_is_up() -> None:
    lost = [
        plan(),
        *boot("vm-1", 100.0, upto=2),
        vm("vm-1", "launch", 160.0, "failed", at="script", reason="mute"),
    ]
    found = row(Frames(lost).vms, "vm-1")
    assert (found["state"], found["failed_at"], found["reason"]) == ("failed", "script", "mute")
    late = row(Frames([*lost, vm("vm-1", "minimal-system", 161.0)]).vms, "vm-1")
    assert (late["state"], late["reason"]) == ("up", "")


def test_given_up_vm_launched_by_another_process_is_up() -> None:
    lost = [
        *boot("vm-1", 100.0, upto=2),
        *boot("vm-1", 200.0, attempt=2, upto=2),
        vm("vm-1", "launch", 260.0, "failed", at="dhcp", reason="mute"),
    ]
    found = row(Frames([plan(), *lost, *boot("vm-1", 300.0)]).vms, "vm-1")
    assert (found["state"], found["attempts"], found["t_minimal_system"]) == ("up", 3, 5.0)


def test_running_boot_found_by_a_later_process_is_the_same_boot() -> None:
    found_again = [vm("vm-1", "power-on", 130.0, "start"), vm("vm-1", "power-on", 100.0)]
    rest = [vm("vm-1", step, 131.0 + i) for i, step in enumerate(BOOT_STEPS[1:])]
    found = row(Frames([plan(), *boot("vm-1", 100.0, upto=1), *found_again, *rest]).vms, "vm-1")
    assert (found["state"], found["attempts"], found["power_on"]) == ("up", 1, 100.0)


def test_vm_whose_qemu_died_with_its_launch_has_a_new_boot() -> None:
    """Killed with its QEMU, launched again at attempt 1: the time is that of the second boot alone."""
    call = Event("launch", "phase", "run", "r", "start", 99.0)
    killed = [plan(), call, vm("vm-1", "power-on", 99.5, "start"), *boot("vm-1", 100.0, upto=4)]
    again = [replace(call, t=200.0), vm("vm-1", "power-on", 200.1, "start"), *boot("vm-1", 200.5)]
    found = row(Frames([*killed, *again]).vms, "vm-1")
    assert (found["state"], found["attempts"]) == ("up", 2)
    assert (found["power_on"], found["t_minimal_system"]) == (200.5, 5.0)


def test_second_launch_counting_from_one_is_a_new_boot() -> None:
    """The first call was at the second attempt when it was killed; the other's first one is what counts."""
    call = Event("launch", "phase", "run", "r", "start", 99.0)
    first = [plan(), call, vm("vm-1", "power-on", 99.5, "start"), *boot("vm-1", 100.0, upto=1)]
    first += [vm("vm-1", "power-on", 150.0, "start", 2), *boot("vm-1", 150.5, attempt=2, upto=2)]
    again = [replace(call, t=200.0), vm("vm-1", "power-on", 200.1, "start"), *boot("vm-1", 200.5)]
    found = row(Frames([*first, *again]).vms, "vm-1")
    assert (found["state"], found["attempts"], found["t_minimal_system"]) == ("up", 3, 5.0)


def test_power_on_after_a_vm_was_given_up_and_found_by_the_next_launch() -> None:
    """The report that tells of the process comes after the failure, and the next launch finds it running."""
    found = [vm("vm-1", "power-on", 100.0), *boot("vm-1", 100.0)[2:]]
    events = [
        plan(1),
        phase("launch", 99.0),
        vm("vm-1", "power-on", 99.5, "start"),
        vm("vm-1", "launch", 160.0, "failed", at="power-on", reason="not confirmed"),
        vm("vm-1", "power-on", 100.0),
        phase("launch", 161.0, "failed"),
        phase("launch", 200.0),
        vm("vm-1", "power-on", 200.5, "start"),
        *found,
        phase("launch", 210.0, "ok"),
    ]
    frames = Frames(events)
    first = row(frames.vms, "vm-1")
    assert (first["state"], first["attempts"], first["t_minimal_system"]) == ("up", 1, 5.0)
    assert (frames.account.up, frames.account.failures) == (1, ())


def launched_again_after_a_kill(*found: Event) -> list[Event]:
    """`launch` is killed before the answer to its power-on came, and called again 100 s later."""
    return [
        plan(1),
        phase("launch", 99.0),
        vm("vm-1", "power-on", 99.5, "start"),
        phase("launch", 150.0, "failed"),
        phase("launch", 200.0),
        vm("vm-1", "power-on", 200.5, "start"),
        *found,
        phase("launch", 210.0, "ok"),
    ]


def test_launch_killed_before_the_answer_to_its_power_on() -> None:
    """The next launch is told when the process began, which is before its own request: one boot."""
    frames = Frames(launched_again_after_a_kill(*boot("vm-1", 100.0)[1:]))
    first = row(frames.vms, "vm-1")
    assert (first["state"], first["attempts"], first["power_on"]) == ("up", 1, 100.0)
    assert first["t_minimal_system"] == 5.0
    (only,) = frames.state.vms["vm-1"].boots
    assert (only.requested, only.call, only.outcome) == (99.5, 2, "ok")


def test_power_on_just_before_its_request_is_a_new_boot() -> None:
    """The clocks of a host and of this machine differ a little: the killed launch had started nothing."""
    frames = Frames(launched_again_after_a_kill(*boot("vm-1", 200.2)[1:]))
    first = row(frames.vms, "vm-1")
    assert (first["state"], first["attempts"], first["power_on"]) == ("up", 2, 200.2)
    killed, last = frames.state.vms["vm-1"].boots
    assert (killed.requested, killed.outcome, killed.steps) == (99.5, "failed", {})
    assert (last.requested, last.outcome) == (200.5, "ok")


def test_steps_reported_before_the_power_on_that_found_the_process_are_of_its_boot() -> None:
    events = [
        plan(1),
        phase("launch", 99.0),
        *boot("vm-1", 100.0, upto=2),
        phase("launch", 150.0, "failed"),
        phase("launch", 200.0),
        vm("vm-1", "power-on", 200.5, "start"),
        *[vm("vm-1", step, 200.0 + i) for i, step in enumerate(BOOT_STEPS[2:], start=2)],
        vm("vm-1", "power-on", 100.0),
        phase("launch", 210.0, "ok"),
    ]
    frames = Frames(events)
    first = row(frames.vms, "vm-1")
    assert (first["state"], first["attempts"]) == ("up", 1)
    reached = [first[step.replace("-", "_")] for step in BOOT_STEPS]
    assert reached == [100.0, 101.0, 202.0, 203.0, 204.0, 205.0]
    assert (first["t_dhcp"], first["t_minimal_system"]) == (1.0, 105.0)
    (only,) = frames.state.vms["vm-1"].boots
    assert (only.call, only.outcome, only.end) == (2, "ok", 205.0)


def test_journal_without_phases_begins_a_boot_with_each_request() -> None:
    """Two boots of a hand-made journal: times are those of the second, never from one to the other."""
    first = row(Frames([plan(1), *boot("vm-1", 100.0, upto=3), *boot("vm-1", 200.0)]).vms, "vm-1")
    assert (first["attempts"], first["power_on"], first["t_minimal_system"]) == (2, 200.0, 5.0)


def test_submitted_job_without_its_number_is_no_job() -> None:
    numbered = job_progress("nancy", "submitted", {"job": 7}, 6.0)
    events = [plan(1), job_progress("nancy", "submitted", {}, 5.0), numbered, *boot("vm-1", 9.0)]
    frames = Frames(events)
    assert frames.state.jobs == [("nancy", 7)]
    assert frames.account.up == 1


def test_facts_of_a_host_that_are_missing_are_zero() -> None:
    name = "h-1.nancy.grid5000.fr"
    events = [plan(1), Event("configure", "facts", "host", name, "ok", 5.0), *boot("vm-1", 9.0)]
    frames = Frames(events)
    assert frames.state.facts == {name: Facts(cores=0, memory=0, kvm=False, clock_offset=0.0)}
    assert frames.hosts["up"].sum() == 1


def test_plan_is_read_back() -> None:
    planned = RunState.of([plan()]).placed_vms
    assert [v.name for v in planned] == ["vm-1", "vm-2", "vm-3"]
    assert str(planned[0].ip) == "10.144.0.1"
    assert RunState.of([]).placed_vms == []
    assert len(RunState.of([plan(3), plan(2)]).placed_vms) == 2, "the last plan is the one"


def test_hosts_table() -> None:
    events = [
        plan(5),
        Event("deploy", "kadeploy3", "host", "m-1.rennes.grid5000.fr", "ok", 5.0),
        *boot("vm-1", 100.0),
        vm("vm-2", "launch", 1.0, "failed", at="dhcp", reason="x"),
    ]
    frame = Frames(events).hosts.set_index("host")
    assert frame.loc["h-1.nancy.grid5000.fr"].tolist() == ["nancy", 3, 1, 1, 1]
    assert frame.loc["h-2.nancy.grid5000.fr"].tolist() == ["nancy", 2, 0, 0, 2]
    assert frame.loc["m-1.rennes.grid5000.fr"].tolist() == ["rennes", 0, 0, 0, 0]


def test_spans_table() -> None:
    def event(step: str, status: Any, t: float, attempt: int = 1) -> Event:
        return Event("deploy", step, "host", "h", status, t, attempt)

    frame = Frames(
        [
            event("a", "start", 1.0),
            event("b", "start", 2.0),
            event("milestone", "ok", 2.5),
            event("a", "failed", 4.0),
            event("a", "start", 5.0, attempt=2),
            event("a", "ok", 8.0, attempt=2),
            event("a", "ok", 9.0, attempt=2),
        ]
    ).spans
    assert frame[["step", "attempt", "status"]].values.tolist() == [
        ["a", 1, "failed"],
        ["b", 1, "unfinished"],
        ["a", 2, "ok"],
    ]
    assert frame["duration"].tolist()[::2] == [3.0, 3.0]
    assert math.isnan(frame["end"][1])


def test_phase_time_is_the_sum_of_its_tries() -> None:
    def event(phase: str, status: Any, t: float, step: str = "phase") -> Event:
        return Event(phase, step, "run", "r", status, t)

    frame = Frames(
        [
            event("reserve", "start", 1.0),
            event("reserve", "failed", 3.0),
            event("reserve", "start", 10.0),
            event("reserve", "start", 11.0, "granted"),
            event("reserve", "ok", 14.0),
            event("deploy", "start", 15.0),
        ]
    ).phases
    assert frame["phase"].tolist() == ["reserve", "deploy"]
    assert frame["status"].tolist() == ["ok", "unfinished"]
    assert frame["tries"].tolist() == [2, 1]
    assert frame["duration"][0] == 2.0 + 4.0
    assert (frame["start"][0], frame["end"][0]) == (1.0, 14.0)
    assert math.isnan(frame["duration"][1]), "it has not ended"


def test_empty_tables_have_columns_and_types() -> None:
    full = [
        plan(),
        Event("place", "phase", "run", "r", "start", 1.0),
        Event("deploy", "x", "host", "h", "start", 1.0),
        *boot("vm-1", 100.0),
    ]
    for name in ("events", "spans", "phases", "vms", "hosts"):
        empty, filled = getattr(Frames([]), name), getattr(Frames(full), name)
        assert len(empty) == 0
        assert len(filled) > 0
        assert empty.dtypes.to_dict() == filled.dtypes.to_dict()


def test_export_writes_every_table(tmp_path: Path) -> None:
    frames = Frames([plan(), *boot("vm-1", 1_700_000_000.123456)])
    files = frames.export(tmp_path / "csv")
    assert sorted(f.name for f in files) == ["events.csv", "hosts.csv", "phases.csv", "spans.csv", "vms.csv"]
    back = pd.read_csv(tmp_path / "csv" / "vms.csv")
    assert len(back) == 3
    assert back["power_on"][0] == pytest.approx(1_700_000_000.123456, abs=1e-6)
    assert len(pd.read_csv(tmp_path / "csv" / "events.csv")) == len(frames.events)


NAMES = st.sampled_from(["vm-1", "vm-2", "vm-3", "stranger"])
ANY = st.one_of(
    st.builds(
        vm,
        NAMES,
        st.sampled_from([*BOOT_STEPS, "launch", "other"]),
        st.floats(0, 1e9),
        st.sampled_from(["start", "ok", "failed", "retry", "skipped"]),
        st.integers(1, 3),
    ),
    st.builds(lambda n, r: vm(n, "launch", 1.0, "failed", at="dhcp", reason=r), NAMES, st.text(max_size=3)),
    st.just(plan(2)),
    st.builds(
        Event, st.just("launch"), st.just("phase"), st.just("run"), st.just("r"), st.just("ok"), st.just(1.0)
    ),
)


@given(events=st.lists(ANY, max_size=30))
def test_account_adds_up_for_any_events(events: list[Event]) -> None:
    found = Frames(events).account
    assert found.requested == found.up + found.failed + found.unfinished
    assert min(found.up, found.failed, found.unfinished) >= 0
    assert len(found.failures) == found.failed == sum(found.reasons.values())
    assert all(step and isinstance(reason, str) for _, step, reason in found.failures)

    frame = Frames(events).vms
    assert set(frame["state"]) <= set(BOOT_STATES)
    assert (frame["state"] == "up").sum() == found.up
    assert (frame["state"] == "failed").sum() == found.failed
    assert frame["name"].is_unique
    hosts = Frames(events).hosts
    assert (hosts["vms"] == hosts["up"] + hosts["failed"] + hosts["unfinished"]).all()


@given(st.lists(ANY, max_size=30))
def test_spans_of_one_subject_do_not_overlap(events: list[Event]) -> None:
    frame = Frames(events).spans
    assert len(frame) == sum(e.status == "start" for e in events)
    done = frame[frame["status"] != "unfinished"]
    assert done["end"].notna().all()
    assert ((done["end"] - done["start"]) == done["duration"]).all()
