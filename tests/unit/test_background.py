"""Steps in processes of their own: what comes of them, how they are stopped, and who goes first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from backgroundbeds import Bed

from g5kvirt import Experiment, Spec, background
from g5kvirt.background import Running
from g5kvirt.errors import CapacityError, PhaseError, PhaseOrderError, RunError, SpecError, TestbedError
from g5kvirt.run import state
from g5kvirt.run.events import Event
from g5kvirt.run.journal import Journal
from g5kvirt.views.results import PhaseResult

SPEC = Spec(sites={"nancy": 1}, vms=2)

#: A notebook's kernel: it begins a step that hangs, and says so.
KERNEL = """
import sys
sys.path[:0] = sys.argv[3:]
import backgroundbeds
from g5kvirt import Experiment, Spec, background
background._BOOT = background._BOOT.replace("serve(job)", "import backgroundbeds; serve(job)")
spec, testbed = Spec(sites={"nancy": 1}, vms=2), f"bed:hang@{sys.argv[1]}"
exp = Experiment(spec, testbed=testbed, name="x", runs=sys.argv[1])
heard = []
exp.journal.subscribe(heard.append)
running = exp.reserve(wait=False)
while not any(event.step == "submitted" for event in heard):
    assert not running.wait(0.01)
print("begun", flush=True)
if sys.argv[2] == "stay":
    running.wait()
"""


@pytest.fixture(autouse=True)
def _beds(monkeypatch: pytest.MonkeyPatch) -> None:
    boot = background._BOOT.replace("serve(job)", "import backgroundbeds; serve(job)")
    monkeypatch.setattr(background, "_BOOT", boot)


def experiment(folder: Path, how: str) -> Experiment:
    return Experiment(SPEC, testbed=f"bed:{how}@{folder}", name="x", runs=folder)


def wait(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def under_way(exp: Experiment, heard: list[Event]) -> Running[PhaseResult]:
    """A reservation that hangs, seen by who listens here."""
    running = exp.reserve(wait=False)
    wait(lambda: any(event.step == "submitted" for event in heard))
    return running


def test_a_step_gives_what_it_gives_and_is_done_once(tmp_path: Path) -> None:
    exp = experiment(tmp_path, "give")
    running = exp.reserve(wait=False)
    assert "reserve() in the background: running" in repr(running)
    assert "<code>.stop()</code>" in running._repr_html_()
    result = running.result(60)
    assert running.done
    assert "done after" in repr(running)
    assert result.status == "ok"
    assert repr(result) == repr(exp.reserve())
    assert exp.reservation is not None
    events = len(exp.journal)
    assert exp.reserve(wait=False).result(60).status == "ok"
    assert len(exp.journal) == events
    running.stop()  # too late, and harmless


def test_errors_come_back_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(TestbedError, match=r"^OAR at nancy refused the job: no$"):
        experiment(tmp_path / "a", "refuse").reserve(wait=False).result(60)
    with pytest.raises(CapacityError, match="no room") as caught:
        experiment(tmp_path / "b", "full").reserve(wait=False).result(60)
    assert (caught.value.asked, caught.value.available) == (3, 1)
    exp = experiment(tmp_path, "break")
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*ZeroDivisionError: a bug"):
        exp.reserve(wait=False).result(60)
    assert list(exp.frames.phases["status"]) == ["failed"]


def test_stopped_as_by_an_interrupt_while_nobody_else_may_step(tmp_path: Path) -> None:
    exp = experiment(tmp_path, "hang")
    heard: list[Event] = []
    exp.journal.subscribe(heard.append)
    running = under_way(exp, heard)
    with pytest.raises(PhaseOrderError, match=r"reserve\(\) still runs in the background: wait for it"):
        exp.deploy()
    with pytest.raises(PhaseOrderError, match="still runs"):
        exp.reserve(wait=False)
    other = Experiment.open(exp.path)
    with pytest.raises(RunError, match=f"run 'x' is in use by process {running.pid}: wait, or interrupt"):
        other.reserve()
    with pytest.raises(TimeoutError, match="it goes on"):
        running.result(0.01)
    assert [e.step for e in other.journal] == ["phase", "submitted"], "it can be looked at"
    running.stop()
    assert running.done
    assert (tmp_path / "cleaned").exists()
    with pytest.raises(PhaseError, match=r"^reserve\(\) was stopped: call it again to go on$"):
        running.result()
    assert heard[-1].detail["reason"] == "interrupted"


def test_stopped_before_it_had_begun(tmp_path: Path) -> None:
    exp = experiment(tmp_path, "hang")
    for pause in (0.0, 0.05, 0.1, 0.15):  # while its process is still importing
        running = exp.reserve(wait=False)
        time.sleep(pause)
        running.stop(60)
        with pytest.raises(PhaseError, match=r"^reserve\(\) was stopped: call it again to go on$"):
            running.result(0)


def test_killed_it_leaves_the_run_to_the_next_one(tmp_path: Path) -> None:
    exp = experiment(tmp_path, "hang")
    heard: list[Event] = []
    exp.journal.subscribe(heard.append)
    running = under_way(exp, heard)
    os.kill(running.pid, signal.SIGKILL)
    with pytest.raises(PhaseError, match=r"ended without a word \(exit code -9\): call it again"):
        running.result(60)
    assert list(exp.frames.phases["status"]) == ["unfinished"]
    exp.release()
    assert state.released(exp.journal)
    (phase,) = [e for e in exp.journal if (e.step, e.status) == ("phase", "failed")]
    assert phase.detail["reason"] == state.CUT_SHORT


def test_release_stops_it_first(tmp_path: Path) -> None:
    exp = experiment(tmp_path, "hang")
    heard: list[Event] = []
    exp.journal.subscribe(heard.append)
    with exp:
        running = under_way(exp, heard)
    assert running.done
    assert (tmp_path / "cleaned").exists()
    assert [e.status for e in exp.journal if e.step == "release"] == ["start", "ok"]


@pytest.mark.parametrize("end", ["exit", "stay"])
def test_it_stops_when_the_notebook_is_gone(tmp_path: Path, end: str) -> None:
    """At the interpreter's exit, and when the kernel is killed."""
    here = str(Path(__file__).parents[1] / "support")
    words = [sys.executable, "-c", KERNEL, str(tmp_path), end, here, *sys.path]
    kernel = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert kernel.stdout is not None
        assert kernel.stdout.readline(), "it has not begun"
        if end == "stay":
            kernel.kill()
        kernel.wait(60)
    finally:
        kernel.kill()
        kernel.communicate()
    journal = Journal.open(tmp_path / "x" / "journal.jsonl")

    def free() -> bool:
        try:
            with journal.held():
                return True
        except RunError:
            return False

    wait(free)
    assert (tmp_path / "cleaned").exists()
    assert list(journal)[-1].detail["reason"] == "interrupted"


def test_a_testbed_without_a_name_cannot_be_opened_elsewhere(tmp_path: Path) -> None:
    exp = Experiment(SPEC, testbed=Bed("give"), name="x", runs=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="by its name"):
        exp.reserve(wait=False)
    assert exp.reserve().status == "ok"
