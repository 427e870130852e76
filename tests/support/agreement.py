"""All views of a run are views of one state: what more than one of them shows is the same."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from g5kvirt.run.events import Event
from g5kvirt.run.recovery import missing_ends
from g5kvirt.run.state import RunState
from g5kvirt.run.tables import Frames
from g5kvirt.views.live.model import LiveModel
from g5kvirt.views.measure_result import MeasureResult
from g5kvirt.views.measure_tables import sizes_table
from g5kvirt.views.phase_result import PhaseResult
from g5kvirt.views.tables import boot_table, durations_table, map_table, timeline_table
from g5kvirt.views.trace import trace_events

__all__ = ["check_agreement", "same"]


def check_agreement(events: Sequence[Event], vms_requested: int) -> None:
    """Every number that more than one view of a run shows is the same in all of them."""
    frames = Frames(events)
    live = LiveModel.of(events, vms_requested)
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
