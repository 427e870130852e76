"""The runner of phases without a face: when it displays, and what its process need not load."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from backgroundbeds import Bed

from g5kvirt import Spec
from g5kvirt.errors import PhaseOrderError, RunError, TestbedError
from g5kvirt.phase_runner import PhaseRunner, run_phase

SPEC = Spec(sites={"nancy": 1}, vms=2)


class Screen:
    """A display that records, at its begin and end, how many events the journal had."""

    def __init__(self) -> None:
        self.runner: PhaseRunner | None = None
        self.begins: list[int] = []
        self.ends: list[int] = []

    def begin(self) -> Callable[[], None]:
        assert self.runner is not None
        journal = self.runner.journal
        self.begins.append(len(journal))
        return lambda: self.ends.append(len(journal))


def runner(folder: Path, how: str) -> tuple[PhaseRunner, Screen]:
    screen = Screen()
    bed = Bed(f"{how}@{folder}")
    screen.runner = PhaseRunner.create(SPEC, bed, "x", folder / "runs", screen.begin)  # type: ignore[arg-type]
    return screen.runner, screen


def test_display_lasts_from_before_the_phase_until_after_its_last_event(tmp_path: Path) -> None:
    run, screen = runner(tmp_path, "give")
    run.execute("reserve")
    assert screen.begins == [0]
    assert screen.ends == [len(run.journal)]
    assert run.journal.state.done("reserve")


def test_display_ends_when_the_phase_fails(tmp_path: Path) -> None:
    run, screen = runner(tmp_path, "refuse")
    with pytest.raises(TestbedError, match="refused the job"):
        run.execute("reserve")
    assert screen.ends == [len(run.journal)]


def test_nothing_is_displayed_for_a_phase_that_is_done_or_out_of_order(tmp_path: Path) -> None:
    run, screen = runner(tmp_path, "give")
    with pytest.raises(PhaseOrderError, match=r"^launch\(\) needs reserve\(\) first"):
        run.execute("launch")
    assert screen.begins == []
    run.execute("reserve")
    run.execute("reserve")
    assert screen.begins == [0]


def test_run_phase_opens_the_run_by_its_path(tmp_path: Path) -> None:
    run = PhaseRunner.create(SPEC, f"bed:give@{tmp_path}", "x", tmp_path / "runs")
    run_phase(str(run.run.path), "reserve", {})
    assert PhaseRunner.open(run.run.path).journal.state.done("reserve")


def test_a_process_that_runs_a_phase_loads_no_views() -> None:
    script = """
import sys, g5kvirt.phase_runner
unwanted = ("g5kvirt.views", "g5kvirt.experiment", "matplotlib", "IPython")
print([name for name in sys.modules if name.startswith(unwanted)])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_that_is_moved_amid_a_step_is_the_reason_of_its_failure(tmp_path: Path) -> None:
    run, _ = runner(tmp_path, "refuse")
    moved = tmp_path / "elsewhere"
    run.journal.subscribe(lambda _: run.run.path.rename(moved) if run.run.path.exists() else None)
    with pytest.raises(RunError, match="x was moved or removed while a step of it ran") as found:
        run.execute("reserve")
    assert "open the run where it is now" in found.value.advice
    with pytest.raises(RunError, match="is not there any more"):
        run.execute("reserve")
    assert not run.run.path.exists(), "no second run is begun in its place"
    again = PhaseRunner.open(moved)
    assert again.journal.state.phases["reserve"].tries[0].status == "failed"
