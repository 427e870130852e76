"""After any prefix of any journal, all views of a run say the same: they are views of one state."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measuremaker import deploy_events, measure_events
from runmaker import T0, run_events

from g5kvirt.run.directory import find
from g5kvirt.run.events import Event
from g5kvirt.run.journal import read_events
from g5kvirt.run.recovery import missing_ends
from g5kvirt.run.state import RunState
from g5kvirt.run.tables import Frames
from g5kvirt.run.vocabulary import BOOT_STEPS, PHASES
from g5kvirt.views.live.model import LiveModel
from g5kvirt.views.measure_result import MeasureResult
from g5kvirt.views.measure_tables import sizes_table
from g5kvirt.views.phase_result import PhaseResult
from g5kvirt.views.tables import boot_table, durations_table, map_table, timeline_table
from g5kvirt.views.trace import trace_events

ROOT = Path(__file__).parents[3]
BAD = {"vm-2": ("image", 1, "SHA-256 is wrong"), "vm-3": ("partition", 99, "no disk")}
VMS = 4


def check_agreement(events: Sequence[Event]) -> None:
    """Every number that more than one view shows is the same in all of them."""
    frames = Frames(events)
    live = LiveModel.of(events, VMS)
    account, vms = frames.account, frames.vms
    # launch: account, table of VMs, table of hosts, live view, table of boots
    by_state = Counter(vms["state"])
    assert account.requested == account.up + account.failed + account.unfinished == len(vms)
    assert (account.up, account.failed) == (by_state["up"], by_state["failed"])
    assert live.up == account.up == sum(cell.up for cell in live.cells.values())
    placed = vms[vms["host"] != ""]
    assert (frames.hosts["up"].sum(), frames.hosts["vms"].sum()) == (
        (placed["state"] == "up").sum(),
        len(placed),
    )
    boots = boot_table(frames).set_index("name")
    total = durations_table(frames).query("step == 'total'").set_index("name")["seconds"]
    for row in vms.itertuples():
        assert math.isnan(row.t_minimal_system) == (row.name not in total.index)
        if row.name in total.index:
            assert total[row.name] == pytest.approx(row.t_minimal_system)
        assert (row.state == "failed") == (not math.isnan(boots.loc[row.name, "gave_up"]))
        last = live.run.vms[row.name].boot
        assert row.power_on == (math.nan if last is None else last.power_on) or math.isnan(row.power_on)
    # live view: counts, cells
    assert sum(live.counts.values()) == live.total
    assert Counter(cell.state for cell in live.cells.values()) <= Counter(live.counts)
    # measure: tables, summary, live view, map
    known = frames.measurements
    summary, table = known.summary(), known.vms
    outcomes = Counter(table["outcome"])
    assert (summary.deployed, summary.failed) == (outcomes["deployed"], outcomes["failed"])
    assert summary.requested == summary.deployed + summary.failed + summary.unfinished
    assert known.deployments["deployed"].sum() == summary.deployed == sizes_table(known)["deployed"].sum()
    if live.deployment is not None:
        row = known.deployments.set_index("deployment").loc[live.deployment.name]
        assert (row["deployed"], row["failed"]) == (live.deployment.deployed, live.deployment.failed)
    on_map = map_table(frames).query("name != ''").set_index("name")["state"]
    for name, outcome in table.groupby("vm")["outcome"].last().items():
        assert name not in on_map.index or on_map[name] == outcome
    # phases: table, card, timeline, live view
    timeline = timeline_table(frames)
    for row in frames.phases.itertuples():
        phase = live.phases[row.phase]
        card: Any = (
            MeasureResult(frames, run="r", testbed="t")
            if row.phase == "measure"
            else PhaseResult(row.phase, frames, run="r", testbed="t")
        )
        assert row.tries == card.tries == len(phase.tries)
        assert same(row.duration, card.seconds)
        assert same(row.duration, phase.seconds())
        bars = timeline[(timeline["phase"] == row.phase) & (timeline["part"] == "")]
        assert len(bars) == row.tries
        if not math.isnan(row.duration) and all(not math.isnan(one.end) for one in phase.tries):
            assert bars["duration"].sum() == pytest.approx(row.duration, abs=1e-6)
    # the trace is made of the same boots and deployments
    slices = [e for e in trace_events(events) if e["ph"] == "X"]
    assert json.dumps(slices, allow_nan=False)
    boots_drawn = sum((e["name"], e["args"].get("phase")) == ("boot", "launch") for e in slices)
    assert boots_drawn == sum(len(vm.boots) for vm in frames.state.vms.values())
    # what a killed process left open has its end afterwards
    whole = RunState.of([*events, *missing_ends(frames.state)])
    assert missing_ends(whole) == []
    assert all(phase.state != "running" for phase in whole.phases.values())


def same(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or a == pytest.approx(b, abs=1e-6)


def killed(events: Sequence[Event], at: float) -> list[Event]:
    """``events`` until ``at``, and what the next process writes first."""
    cut = [e for e in events if e.t <= at]
    return [*cut, *missing_ends(RunState.of(cut))]


def again(events: Sequence[Event], seconds: float) -> list[Event]:
    """The launch of ``events`` once more, later: another process, which counts from 1."""
    return [dataclasses.replace(e, t=e.t + seconds) for e in events if e.phase == "launch"]


@st.composite
def journals(draw: st.DrawFn) -> list[Event]:
    """A run whose launch and measure may be killed and gone on with, with late and repeated reports."""
    whole = run_events(VMS, lost=draw(st.integers(0, 2)), window=2, seed=draw(st.integers(1, 9)))
    events = list(whole)
    if draw(st.booleans()):  # launch is killed, its QEMUs too or not, and called again
        launch = [e for e in whole if e.phase == "launch"]
        at = draw(st.floats(launch[0].t, launch[-1].t))
        events = killed(whole, at)
        rest = again(whole, draw(st.sampled_from([40.0, 200.0])))
        if draw(st.booleans()):  # the processes were there all the time
            times = {e.subject: e.t for e in events if (e.step, e.status) == ("power-on", "ok")}
            rest = [
                dataclasses.replace(e, t=times[e.subject])
                if (e.step, e.status) == ("power-on", "ok") and e.subject in times
                else e
                for e in rest
            ]
        events += rest
    for _ in range(draw(st.integers(0, 3))):  # late, doubled, out of order
        one = draw(st.sampled_from(events))
        events.insert(draw(st.integers(0, len(events))), one)
    if draw(st.booleans()):
        measured = measure_events((2, VMS), 1, bad=BAD)
        if draw(st.booleans()):
            cut = killed(measured, draw(st.floats(measured[0].t, measured[-1].t)))
            later = [Event("measure", "phase", "run", "r", "start", T0 + 900)]
            measured = [*cut, *later, *deploy_events("d9", VMS, begin=T0 + 901)]
        events += measured
    return events


@settings(max_examples=40)
@given(events=journals(), cut=st.floats(0, 1))
def test_views_agree_after_any_prefix(events: list[Event], cut: float) -> None:
    check_agreement(events[: round(cut * len(events))])
    check_agreement(events)


anything = st.builds(
    Event,
    st.sampled_from(PHASES),
    st.sampled_from(
        [*BOOT_STEPS, "phase", "launch", "deployment", "SetDeploymentEnv", "BootNewEnv", "console"]
    ),
    st.sampled_from(["run", "host", "vm"]),
    st.sampled_from(["vm-1", "vm-2", "vm-9"]),
    st.sampled_from(["start", "ok", "failed", "skipped", "retry"]),
    st.floats(T0, T0 + 100),
    st.integers(1, 3),
    st.sampled_from([{}, {"deployment": "d1"}, {"deployment": "d2", "seconds": 1.5}]),
)


@settings(max_examples=50)
@given(st.lists(anything, max_size=40), st.booleans())
def test_account_adds_up_for_any_journal(events: list[Event], planned: bool) -> None:
    events = [*(run_events(3)[:20] if planned else []), *events]
    frames, live = Frames(events), LiveModel.of(events, 3)
    assert frames.account.requested == frames.account.up + frames.account.failed + frames.account.unfinished
    assert live.up == frames.account.up
    assert sum(live.counts.values()) == live.total
    summary = frames.measurements.summary()
    assert summary.requested == summary.deployed + summary.failed + summary.unfinished
    assert len(frames.measurements.vms) == summary.requested or summary.requested == 0
    assert frames.phases["tries"].sum() == sum(e.is_phase and e.status == "start" for e in events)


@pytest.mark.parametrize(
    "run", sorted(path.parent.name for path in (ROOT / "data" / "runs").glob("*/run.json"))
)
def test_views_agree_on_recorded_runs(run: str) -> None:
    events = read_events(find(ROOT / "data" / "runs", run).journal)
    small = len(events) < 10_000
    for cut in {len(events), len(events) // 2, len(events) // 3, 60} if small else {len(events)}:
        check_agreement(events[:cut])


def test_incremental_state_equals_full_state() -> None:
    events = [*run_events(VMS, lost=1), *measure_events((2, VMS), 1, bad=BAD)]
    state = RunState()
    for number, event in enumerate(events, start=1):
        state.take(event)
        if number % 25 == 0 or number == len(events):
            anew = RunState.of(events[:number])
            assert state.positions == anew.positions
            assert list(state.vms.values()) == list(anew.vms.values())
            assert state.deployments == anew.deployments
            assert state.phases == anew.phases
    assert isinstance(Frames(events).vms, pd.DataFrame)
