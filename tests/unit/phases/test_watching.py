"""A step ends when a job does: at once, with the reason, and whatever it waits for."""

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
from g5kvirt.testbeds.grid5000.ending import how_it_ended

HOST = Host("h-1.nancy.grid5000.fr", "nancy", "h", 4, 8 * GIB)
ENDED = "job 7 at nancy ended at 2026-12-01 19:00:00 (it was deleted by g5k)"


class Bed:
    """A testbed of which only the jobs' end is asked."""

    name = "bed"
    polling_interval = 0.0

    def __init__(self) -> None:
        self.why = ""
        self.asked = 0
        self.silent = False

    def ended(self, reservation: Reservation) -> str:
        self.asked += 1
        if self.silent:
            raise TestbedError("nobody answers")
        return self.why

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
def test_whatever_the_step_waits_for_it_ends(context: Context, waits: Callable[[], None]) -> None:
    bed: Any = context.testbed
    cleaned = []
    threading.Timer(0.2, setattr, (bed, "why", ENDED)).start()

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


def test_commands_under_way_are_given_up() -> None:
    fanout = Fanout(nobody(), tree_from=None)
    threading.Timer(0.2, fanout.give_up, ["the job ended"]).start()
    results = fanout.run([f"h{i}" for i in range(3)], ["true"], timeout=60)
    assert {result.reason for result in results.values()} == {"given up: the job ended"}


def nobody() -> Any:
    from g5kvirt.remote import Access

    return Access(options=("ProxyCommand=sleep 60",), connect_timeout=60)


def test_while_all_jobs_run_nothing_happens(context: Context) -> None:
    bed: Any = context.testbed
    with watched(context, "launch"):
        while bed.asked < 3:
            time.sleep(0.01)
    asked = bed.asked
    time.sleep(0.1)
    assert bed.asked <= asked + 1, "it still asks after the step"


def test_nobody_answering_ends_nothing(context: Context) -> None:
    bed: Any = context.testbed
    bed.silent = True
    with watched(context, "launch"):
        while bed.asked < 3:
            time.sleep(0.01)
    with pytest.raises(PhaseError, match=r"^its own$"), watched(context, "launch"):
        raise PhaseError("its own", phase="launch")


def test_an_interrupt_of_a_person_stays_one(context: Context) -> None:
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt) as raised, watched(context, "launch"):
        time.sleep(60)
    assert not isinstance(raised.value, Stopped)
    assert reason_of(raised.value) == "interrupted"
    assert reason_of(SystemExit(143)) == "interrupted"


def test_the_end_of_a_job_is_the_cause_behind_another_failure(context: Context) -> None:
    bed: Any = context.testbed
    bed.polling_interval = 3600.0  # nobody noticed before
    bed.why = ENDED
    with pytest.raises(PhaseError) as raised, watched(context, "configure"):
        raise PhaseError("h-1 is gone", phase="configure", step="facts")
    assert ENDED in str(raised.value)
    assert raised.value.step == "facts"
    assert str(raised.value.__cause__) == "h-1 is gone"


def test_in_another_thread_it_is_asked_only_after_a_failure(context: Context) -> None:
    bed: Any = context.testbed
    bed.why = ENDED
    said = []

    def step() -> None:
        with watched(context, "launch"):
            time.sleep(0.2)
        try:
            with watched(context, "launch"):
                raise PhaseError("gone", phase="launch")
        except PhaseError as error:
            said.append(str(error))

    thread = threading.Thread(target=step)
    thread.start()
    thread.join(30)
    assert bed.asked == 1
    assert ENDED in said[0]


def test_without_a_reservation_nothing_is_watched(tmp_path: Path) -> None:
    spec = Spec(sites={"nancy": 1}, vms=1)
    run = directory.create(tmp_path, "run", {"spec": spec.to_dict(), "testbed": "bed"})
    nowhere: Any = None
    with (
        closing(Journal.open(run.journal)) as journal,
        watched(Context(spec, nowhere, run, journal), "reserve"),
    ):
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("said", "clause"),
    [
        ("", ""),
        ("    state = Running\n", ""),
        ("    state = Waiting\r\n", ""),
        ("    state = Terminated\n", "job 7 at nancy ended (its command was over)"),
        ("    state = Error\n", "job 7 at nancy ended (OAR says Error)"),
        (
            "id: 7\n    state = Terminated\n    stop_time = 2026-12-01 19:00:00\n    events =\n",
            "job 7 at nancy ended at 2026-12-01 19:00:00 (its command was over)",
        ),
        (
            "    state = Error\r\n    walltime = 0:30:0\r\n    stopTime = 2026-12-01 19:00:00\r\n"
            "2026-12-01 18:59:57> FRAG_JOB_REQUEST:User root requested to frag the job 7\r\n"
            "2026-12-01 18:59:57> WALLTIME:[sarko] Job [7] from 1 with 20; current time=2 (Elapsed)\r\n",
            "job 7 at nancy ended at 2026-12-01 19:00:00 (its walltime of 0:30:0 was over)",
        ),
        (
            "    state = Error\n    events = \n2026-12-01 18:59:57> EXECUTE_JOB:the node crashed\n",
            "job 7 at nancy ended at 2026-12-01 18:59:57 (OAR says Error, the node crashed)",
        ),
    ],
)
def test_how_a_job_ended(said: str, clause: str) -> None:
    assert how_it_ended("nancy", 7, said) == clause
