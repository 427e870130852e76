"""A step ends at once when a job does, with the reason, whatever it is waiting for."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from g5kvirt.context import Context
from g5kvirt.errors import PhaseError, Stopped, TestbedError, reason_of
from g5kvirt.inventory import GIB, Host, Reservation, to_plain
from g5kvirt.phases import watching
from g5kvirt.phases.watching import watched
from g5kvirt.remote import Fanout
from g5kvirt.run import directory
from g5kvirt.run.journal import Journal
from g5kvirt.spec.spec import Spec

HOST = Host("h-1.nancy.grid5000.fr", "nancy", "h", 4, 8 * GIB)
ENDED = "job 7 at nancy ended at 2026-12-01 19:00:00 (it was deleted by g5k)"


class Bed:
    """A testbed that only reports the end of the jobs."""

    name = "bed"
    polling_interval = 0.0
    world = None
    network = ""
    simulated = False
    real_cores = None

    def __init__(self) -> None:
        self.end = ""
        self.polls = 0
        self.silent = False

    def ended(self, reservation: Reservation) -> str:
        self.polls += 1
        if self.silent:
            raise TestbedError("no answer")
        return self.end

    def access(self, key: str) -> Any:
        from g5kvirt.remote import Access

        return Access()


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    monkeypatch.setattr(watching, "INTERVAL", 0.02)
    before = signal.getsignal(signal.SIGINT)
    spec = Spec(sites={"nancy": 1}, vms=1)
    run = directory.create(tmp_path, "run", {"spec": spec.to_dict(), "testbed": "bed"})
    with closing(Journal.open(run.journal)) as journal:
        granted = Reservation({"nancy": 7}, (HOST,), (), 14, "nancy", time.time(), 3600.0)
        journal.append("reserve", "granted", "run", "run", "ok", **to_plain(granted))
        yield Context(spec, Bed(), run, journal)  # type: ignore[arg-type]
    assert signal.getsignal(signal.SIGINT) == before


def _waits_in_sleep() -> None:
    time.sleep(60)


def _waits_for_a_child() -> None:
    os.waitpid(os.posix_spawn("/bin/sleep", ["sleep", "1"], {}), 0)
    time.sleep(60)


@pytest.mark.parametrize("waits", [_waits_in_sleep, _waits_for_a_child])
def test_end_of_a_job_ends_the_step_in_any_wait(context: Context, waits: Callable[[], None]) -> None:
    bed: Any = context.testbed
    cleaned = []
    threading.Timer(0.2, setattr, (bed, "end", ENDED)).start()

    def step() -> None:
        with context.span("measure", "phase"), watched(context, "measure"):
            try:
                waits()
            except Stopped as stopped:
                cleaned.append(reason_of(stopped))
                raise

    with pytest.raises(PhaseError) as raised:
        step()
    assert cleaned == [ENDED]
    assert str(raised.value).startswith(f"during measure() {ENDED}: ")
    assert list(context.journal)[-1].detail["reason"] == str(raised.value)
    assert context.fanout.given_up == ENDED
    result = context.fanout.run(["h-1.nancy.grid5000.fr"], ["true"], timeout=60)
    assert result["h-1.nancy.grid5000.fr"].reason == f"given up: {ENDED}"


def test_running_commands_are_abandoned() -> None:
    fanout = Fanout(nobody(), tree_from=None)
    threading.Timer(0.2, fanout.give_up, ["the job ended"]).start()
    results = fanout.run([f"h{i}" for i in range(3)], ["true"], timeout=60)
    assert {result.reason for result in results.values()} == {"given up: the job ended"}


def nobody() -> Any:
    from g5kvirt.remote import Access

    return Access(options=("ProxyCommand=sleep 60",), connect_timeout=60)


def test_nothing_happens_while_all_jobs_run(context: Context) -> None:
    bed: Any = context.testbed
    with watched(context, "launch"):
        while bed.polls < 3:
            time.sleep(0.01)
    polls = bed.polls
    time.sleep(0.1)
    assert bed.polls <= polls + 1, "it still polls after the step"


def test_unknown_state_of_the_jobs_ends_nothing(context: Context) -> None:
    bed: Any = context.testbed
    bed.silent = True
    with watched(context, "launch"):
        while bed.polls < 3:
            time.sleep(0.01)
    with pytest.raises(PhaseError, match=r"^its own$"), watched(context, "launch"):
        raise PhaseError("its own", phase="launch")


def test_interrupt_by_a_person_stays_one(context: Context) -> None:
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt) as raised, watched(context, "launch"):
        time.sleep(60)
    assert not isinstance(raised.value, Stopped)
    assert reason_of(raised.value) == "interrupted"
    assert reason_of(SystemExit(143)) == "interrupted"


def test_end_of_a_job_replaces_another_failure_in_the_step(context: Context) -> None:
    bed: Any = context.testbed
    bed.polling_interval = 3600.0  # nobody noticed before
    bed.end = ENDED
    with pytest.raises(PhaseError) as raised, watched(context, "configure"):
        raise PhaseError("h-1 is gone", phase="configure", step="facts")
    assert ENDED in str(raised.value)
    assert raised.value.step == "facts"
    assert str(raised.value.__cause__) == "h-1 is gone"


def test_in_another_thread_jobs_are_polled_only_after_a_failure(context: Context) -> None:
    bed: Any = context.testbed
    bed.end = ENDED
    messages = []

    def step() -> None:
        with watched(context, "launch"):
            time.sleep(0.2)
        try:
            with watched(context, "launch"):
                raise PhaseError("gone", phase="launch")
        except PhaseError as error:
            messages.append(str(error))

    thread = threading.Thread(target=step)
    thread.start()
    thread.join(30)
    assert bed.polls == 1
    assert ENDED in messages[0]


def test_nothing_is_watched_without_a_reservation(tmp_path: Path) -> None:
    spec = Spec(sites={"nancy": 1}, vms=1)
    run = directory.create(tmp_path, "run", {"spec": spec.to_dict(), "testbed": "bed"})
    nowhere: Any = None
    with (
        closing(Journal.open(run.journal)) as journal,
        watched(Context(spec, nowhere, run, journal), "reserve"),
    ):
        time.sleep(0.01)


def test_a_run_that_is_moved_or_removed_ends_the_step(context: Context, tmp_path: Path) -> None:
    def step() -> None:
        with watched(context, "launch"):
            context.run.path.rename(tmp_path / "elsewhere")
            time.sleep(10)

    with pytest.raises(PhaseError, match=r"during launch\(\) the run's directory was moved or removed"):
        step()
