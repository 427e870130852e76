"""More walltime for a run: who may have it, how it is recorded, and what moves along."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from backgroundbeds import Bed

from g5kvirt import Experiment, Spec, cli
from g5kvirt.errors import PhaseOrderError, SpecError, TestbedError
from g5kvirt.inventory import Reservation
from g5kvirt.phase_runner import PhaseRunner
from g5kvirt.run import event_types, inbox
from g5kvirt.run.state import RunState
from g5kvirt.spec.clock import parse_extension
from g5kvirt.views.text import machines_held

GRANTED = Reservation({"nancy": 7}, (), (), 14, "nancy", 1000.0, 3600.0)


class Extensible(Bed):
    """A testbed whose jobs get more time, unless it is called ``stingy``."""

    def extend(self, reservation: Reservation, seconds: int) -> None:
        """See the class."""
        if self.how == "stingy":
            raise TestbedError("OAR does not extend the walltime")


def runner(tmp_path: Path, how: str = "give") -> PhaseRunner:
    run = PhaseRunner.create(
        Spec(sites={"nancy": 1}, vms=2),
        Extensible(f"{how}@{tmp_path}"),  # type: ignore[arg-type]
        "x",
        tmp_path / "runs",
    )
    run.execute("reserve")
    return run


def test_reservation_has_the_extended_walltime_wherever_it_is_read() -> None:
    events = [
        event_types.reservation_granted("r", GRANTED, 1001.0),
        event_types.walltime_extended("r", 7200.0, 3600, 1002.0),
    ]
    state = RunState.of(events)
    assert state.reservation == Reservation({"nancy": 7}, (), (), 14, "nancy", 1000.0, 7200.0)
    assert state.phases["reserve"].latest is not None
    jobs = [event_types.job_progress("nancy", "submitted", {"job": 7}, 999.0)]
    assert machines_held(RunState.of([*jobs, events[0]]), 4601.0) == "walltime expired"
    assert machines_held(RunState.of([*jobs, *events]), 4601.0).startswith("held until")
    again = RunState.of([*events, event_types.reservation_granted("r", GRANTED, 2001.0)])
    assert again.reservation == GRANTED, "an extension belongs to the jobs that had it"


def test_extension_reports_until_when_the_machines_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "CET-1")
    time.tzset()
    held = Reservation({"nancy": 7, "rennes": 3}, (), (), 14, "nancy", 1796040000.0, 5400.0)
    text = str(held)
    monkeypatch.undo()
    time.tzset()
    assert text == (
        "0 machines until 2026-11-30 14:30:00 CET, walltime 1:30:00: job 7 at nancy, job 3 at rennes"
    )


def test_extension_moves_the_end_of_the_run(tmp_path: Path) -> None:
    run = runner(tmp_path)
    assert run.extend("0:30:00").walltime == 5400.0
    assert run.extend(600).walltime == 6000.0
    assert PhaseRunner.open(run.run.path).reservation == run.reservation
    assert run.reservation is not None
    assert run.reservation.walltime == 6000.0


def test_a_refusal_is_no_event(tmp_path: Path) -> None:
    run = runner(tmp_path, "stingy")
    before = len(run.journal)
    with pytest.raises(TestbedError, match="does not extend"):
        run.extend(600)
    assert len(run.journal) == before


def test_without_machines_there_is_nothing_to_extend(tmp_path: Path) -> None:
    run = PhaseRunner.create(
        Spec(sites={"nancy": 1}, vms=2),
        Extensible(f"give@{tmp_path}"),  # type: ignore[arg-type]
        "x",
        tmp_path / "runs",
    )
    with pytest.raises(PhaseOrderError, match=r"extend\(\) needs reserve\(\) first"):
        run.extend("1:00:00")
    run.execute("reserve")
    run.release()
    with pytest.raises(PhaseOrderError, match="has released its machines"):
        run.extend("1:00:00")


def test_a_walltime_that_is_over_is_not_extended(tmp_path: Path) -> None:
    run = runner(tmp_path)
    old = Reservation({"nancy": 7}, (), (), 14, "nancy", time.time() - 7200, 3600.0)
    run.journal.extend([event_types.reservation_granted("x", old)])
    with pytest.raises(PhaseOrderError, match="the walltime of run 'x' is over"):
        run.extend("1:00:00")


def test_a_prediction_has_nothing_to_extend(tmp_path: Path) -> None:
    exp = Experiment(Spec(sites={"nancy": 1}, vms=2), testbed="simulated:2013", runs=tmp_path)
    exp.reserve()
    with pytest.raises(SpecError, match="is a prediction: there is nothing to extend"):
        exp.extend("1:00:00")


@pytest.mark.parametrize(
    ("value", "words"),
    [("0:00:30", "too short"), (-60, "too short"), ("an hour", "cannot be read"), (True, "cannot be read")],
)
def test_extensions_that_make_no_sense(value: object, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        parse_extension(value)


def test_extension_is_recorded_by_the_process_that_works_on_the_run(tmp_path: Path) -> None:
    run = runner(tmp_path)
    script = """
import sys
from pathlib import Path
from g5kvirt.run.journal import Journal
journal = Journal.open(Path(sys.argv[1]))
with journal.held():
    print("held", flush=True)
    sys.stdin.read()
"""
    argv = [sys.executable, "-c", script, str(run.journal.path)]
    other = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "held\n"
        run.extend("1:00:00")
        assert run.reservation is not None
        assert run.reservation.walltime == 3600.0, "the other process alone writes"
    finally:
        other.communicate("")
    with run._writing():  # the next step
        pass
    assert run.reservation.walltime == 7200.0
    assert inbox.take(run.run.path, run.journal) == 0, "once"


def test_a_damaged_message_stops_nobody(tmp_path: Path) -> None:
    run = runner(tmp_path)
    (run.run.path / "inbox").mkdir()
    (run.run.path / "inbox" / "1-2.json").write_text('{"t": ')
    run.extend(600)
    assert inbox.take(run.run.path, run.journal) == 0


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exp = Experiment(Spec(sites={"nancy": 1}, vms=2), testbed=f"bed:give@{tmp_path}", name="x", runs=tmp_path)
    assert cli.main(["extend", "x", "1:00:00", "--runs", str(tmp_path)]) == 2
    assert "extend() needs reserve() first" in capsys.readouterr().err
    exp.reserve()
    assert cli.main(["extend", "x", "soon", "--runs", str(tmp_path)]) == 2
    assert "extension 'soon' cannot be read" in capsys.readouterr().err
