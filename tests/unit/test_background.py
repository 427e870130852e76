"""Steps in the background: their results and errors, how they are stopped, and what must wait for them."""

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
from g5kvirt.run.events import Event
from g5kvirt.run.journal import Journal
from g5kvirt.run.recovery import CUT_SHORT
from g5kvirt.views.phase_result import PhaseResult

SPEC = Spec(sites={"nancy": 1}, vms=2)

#: A notebook's kernel: it starts a step that hangs, and prints when it has begun.
KERNEL = """
import sys
sys.path[:0] = sys.argv[3:]
import backgroundbeds
from g5kvirt import Experiment, Spec, background
background._BOOT = background._BOOT.replace("serve(job)", "import backgroundbeds; serve(job)")
spec, testbed = Spec(sites={"nancy": 1}, vms=2), f"bed:hang@{sys.argv[1]}"
exp = Experiment(spec, testbed=testbed, name="x", runs=sys.argv[1])
seen = []
exp.journal.subscribe(seen.append)
running = exp.start("reserve")
while not any(event.step == "submitted" for event in seen):
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


def start_hanging(exp: Experiment, seen: list[Event]) -> Running[PhaseResult]:
    """A reservation that hangs and has begun: its first event was seen by a listener in this process."""
    running = exp.start("reserve")
    wait(lambda: any(event.step == "submitted" for event in seen))
    return running


def test_start_returns_the_result_and_does_not_repeat_a_finished_phase(tmp_path: Path) -> None:
    exp = experiment(tmp_path, "give")
    running = exp.start("reserve")
    assert "reserve() in the background: running" in repr(running)
    assert "<code>.stop()</code>" in running._repr_html_()
    result = running.result(60)
    assert running.done
    assert "done after" in repr(running)
    assert result.status == "ok"
    assert repr(result) == repr(exp.reserve())
    assert exp.reservation is not None
    running.stop()  # too late, and harmless
    events = len(exp.journal)
    again = exp.start("reserve")
    assert (again.done, again.pid, again.seconds) == (True, None, 0)
    assert repr(again) == "<reserve() in the background: was done before>"
    assert repr(again.result(0)) == repr(result)
    assert len(exp.journal) == events
    assert exp.background is running  # a step that runs is not forgotten for one that is done
    exp.release()
    assert "done after" in repr(exp.background)


def test_errors_of_the_process_keep_type_and_attributes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(TestbedError, match=r"^OAR at nancy refused the job: no$"):
        experiment(tmp_path / "a", "refuse").start("reserve").result(60)
    with pytest.raises(CapacityError, match="no room") as caught:
        experiment(tmp_path / "b", "full").start("reserve").result(60)
    assert (caught.value.requested, caught.value.available) == (3, 1)
    exp = experiment(tmp_path, "break")
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*ZeroDivisionError: a bug"):
        exp.start("reserve").result(60)
    assert list(exp.frames.phases["status"]) == ["failed"]


def test_stop_interrupts_the_phase_and_other_phases_are_refused(tmp_path: Path) -> None:
    exp = experiment(tmp_path, "hang")
    seen: list[Event] = []
    exp.journal.subscribe(seen.append)
    running = start_hanging(exp, seen)
    with pytest.raises(PhaseOrderError, match=r"reserve\(\) is still running in the background: wait for it"):
        exp.deploy()
    with pytest.raises(PhaseOrderError, match="still running"):
        exp.start("reserve")
    other = Experiment.open(exp.path)
    with pytest.raises(RunError, match=f"run 'x' is in use by process {running.pid}: wait, or interrupt"):
        other.reserve()
    with pytest.raises(TimeoutError, match="it is still running"):
        running.result(0.01)
    assert [e.step for e in other.journal] == ["phase", "submitted"], "it can be looked at"
    running.stop()
    assert running.done
    assert (tmp_path / "cleaned").exists()
    with pytest.raises(PhaseError, match=r"^reserve\(\) was stopped: call it again to continue$"):
        running.result()
    assert seen[-1].detail["reason"] == "interrupted"


def test_stop_while_the_process_is_still_importing(tmp_path: Path) -> None:
    exp = experiment(tmp_path, "hang")
    for pause in (0.0, 0.05, 0.1, 0.15):  # while its process is still importing
        running = exp.start("reserve")
        time.sleep(pause)
        running.stop(60)
        with pytest.raises(PhaseError, match=r"^reserve\(\) was stopped: call it again to continue$"):
            running.result(0)


def test_run_of_a_killed_phase_can_be_released(tmp_path: Path) -> None:
    exp = experiment(tmp_path, "hang")
    seen: list[Event] = []
    exp.journal.subscribe(seen.append)
    running = start_hanging(exp, seen)
    os.kill(running.pid, signal.SIGKILL)
    with pytest.raises(PhaseError, match=r"in the background died \(exit code -9\): call it again"):
        running.result(60)
    assert list(exp.frames.phases["status"]) == ["unfinished"]
    exp.release()
    assert exp.journal.state.released
    (phase,) = [e for e in exp.journal if (e.step, e.status) == ("phase", "failed")]
    assert phase.detail["reason"] == CUT_SHORT


def test_release_stops_a_running_phase(tmp_path: Path) -> None:
    exp = experiment(tmp_path, "hang")
    seen: list[Event] = []
    exp.journal.subscribe(seen.append)
    with exp:
        running = start_hanging(exp, seen)
    assert running.done
    assert (tmp_path / "cleaned").exists()
    assert [e.status for e in exp.journal if e.step == "release"] == ["start", "ok"]


@pytest.mark.parametrize("end", ["exit", "stay"])
def test_phase_stops_when_the_notebook_is_gone(tmp_path: Path, end: str) -> None:
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


def test_start_refuses_a_testbed_given_as_an_object(tmp_path: Path) -> None:
    exp = Experiment(SPEC, testbed=Bed("give"), name="x", runs=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="give the Experiment its name"):
        exp.start("reserve")
    assert exp.reserve().status == "ok"


def test_start_refuses_unknown_steps_and_arguments(tmp_path: Path) -> None:
    exp = experiment(tmp_path, "give")
    with pytest.raises(SpecError, match=r"^there is no step 'lauch' to start: did you mean 'launch'\?$"):
        exp.start("lauch")  # type: ignore[call-overload]
    with pytest.raises(SpecError, match=r"^there is no step 5 to start"):
        exp.start(5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"got an unexpected keyword argument 'sizes'"):
        exp.start("reserve", sizes=[2])  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="unexpected keyword argument 'wait'"):
        exp.reserve(wait=False)  # type: ignore[call-arg]
    assert exp.background is None


def test_start_measure_checks_order_before_it_starts_a_process(tmp_path: Path) -> None:
    exp = experiment(tmp_path, "give")
    with pytest.raises(PhaseOrderError, match=r"^measure\(\) needs reserve\(\) first: call reserve\(\)$"):
        exp.start("measure", environment="mini", sizes=[2])
    assert exp.background is None
    assert not len(exp.journal)
