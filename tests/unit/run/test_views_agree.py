"""After any prefix of any journal, all views of a run say the same: they are views of one state."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from agreement import check_agreement
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

ROOT = Path(__file__).parents[3]
BAD = {"vm-2": ("image", 1, "SHA-256 is wrong"), "vm-3": ("partition", 99, "no disk")}
VMS = 4


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
    check_agreement(events[: round(cut * len(events))], VMS)
    check_agreement(events, VMS)


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
    "run",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == "slides-light" else [])
        for name in sorted(path.parent.name for path in (ROOT / "data" / "runs").glob("*/run.json"))
    ],
)
def test_views_agree_on_recorded_runs(run: str) -> None:
    events = read_events(find(ROOT / "data" / "runs", run).journal)
    small = len(events) < 10_000
    for cut in {len(events), len(events) // 2, len(events) // 3, 60} if small else {len(events)}:
        check_agreement(events[:cut], VMS)


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
