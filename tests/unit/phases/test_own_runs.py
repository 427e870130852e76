"""Whose the machines are for which a reservation waits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from g5kvirt.errors import TestbedError
from g5kvirt.inventory import Reservation
from g5kvirt.phases.own_runs import explained, holding
from g5kvirt.run import event_types
from g5kvirt.run.directory import Run, create
from g5kvirt.run.events import Event

NOW = 1_790_000_000.0
GRANTED = Reservation({"nancy": 7}, (), (), 4, "nancy", NOW - 60, 3600.0)
SUBMITTED = event_types.job_progress("nancy", "submitted", {"job": 7}, NOW - 70)
HELD = [SUBMITTED, event_types.reservation_granted("r", GRANTED, NOW - 60)]
RELEASED = Event("reserve", "release", "run", "r", "ok", NOW - 1)


def run(folder: Path, name: str, events: list[Event], testbed: str = "grid5000", **about: object) -> Run:
    made = create(folder, name, {"testbed": testbed, **about})
    made.journal.write_text("".join(event.to_json() + "\n" for event in events))
    return made


def test_runs_that_hold_machines_of_the_same_sites_are_found(tmp_path: Path) -> None:
    own = run(tmp_path, "own", HELD)
    run(tmp_path, "holds", HELD)
    run(tmp_path, "waits", [SUBMITTED])
    run(tmp_path, "released", [*HELD, RELEASED])
    late = event_types.reservation_granted("r", replace(GRANTED, start=NOW - 9999), NOW - 9999)
    run(tmp_path, "over", [SUBMITTED, late])
    run(tmp_path, "elsewhere", HELD, testbed="local")
    run(tmp_path, "model", HELD, prediction=True)
    run(tmp_path, "empty", [])
    run(tmp_path, "damaged", HELD).journal.write_text('{"t": 1}\n' * 3)
    assert {one.name for one in holding(tmp_path, own, ["nancy"], NOW)} == {"holds", "waits"}
    assert holding(tmp_path, own, ["rennes"], NOW) == []


def test_error_says_how_to_release_them(tmp_path: Path) -> None:
    own = run(tmp_path, "own", [])
    error = TestbedError("job 9 at nancy did not start in time (Waiting)", advice="request fewer machines")
    context: Any = SimpleNamespace(run=own, spec=SimpleNamespace(sites={"nancy": 2}))
    assert explained(context, error) is error
    (tmp_path / "first").mkdir()
    (tmp_path / "first/run.json").write_text(json.dumps({"created": 1, "testbed": "grid5000"}))
    (tmp_path / "first/journal.jsonl").write_text(SUBMITTED.to_json() + "\n")
    said = str(explained(context, error))
    assert said.startswith(
        "job 9 at nancy did not start in time (Waiting); your run 'first' holds machines there:"
    )
    assert f'Experiment.open("{tmp_path}/first").release()' in said
    assert said.endswith("request fewer machines")
