"""Opening a run: reading it without its testbed, continuing it, releasing its machines."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest
from runmaker import run_events

from g5kvirt import Experiment, Spec
from g5kvirt.errors import PhaseOrderError, RunError, SpecError, TestbedError
from g5kvirt.inventory import GIB, Host
from g5kvirt.planning.preflight import Finding
from g5kvirt.run import directory
from g5kvirt.run.journal import Journal
from g5kvirt.run.recovery import CUT_SHORT
from g5kvirt.testbeds.base import Notify, ReservationRequest

SPEC = Spec(sites={"nancy": 1}, vms=2)
HOSTS = {"nancy": [Host(f"h-{i}.nancy.grid5000.fr", "nancy", "h", 4, 8 * GIB) for i in range(1, 4)]}


class Refusing:
    """A testbed whose sites have machines and refuse every job."""

    name = "refusing"
    simulated = False
    guest = ""
    world = None
    network = ""
    real_cores = None

    def __init__(self) -> None:
        self.released: list[list[tuple[str, int]]] = []
        self.names: list[str] = []  #: of the jobs
        self.earlier: list[tuple[tuple[str, int], ...] | None] = []

    def connect(self) -> None:
        pass

    def hosts(self) -> Mapping[str, Sequence[Host]]:
        return HOSTS

    def find_environment(self, environment: str, sites: Sequence[str]) -> Sequence[Finding]:
        return []

    def reserve(self, request: ReservationRequest, notify: Notify) -> None:
        self.names.append(request.job_name)
        self.earlier.append(request.earlier)
        notify("nancy", "submitted", {"job": 12})
        raise TestbedError("OAR at nancy refused the job: no")

    def release(self, jobs: Iterable[tuple[str, int]], job_name: str, sites: Sequence[str]) -> None:
        assert list(sites) == ["nancy"]
        self.names.append(job_name)
        self.released.append(list(jobs))


def test_open_reads_a_finished_run_without_its_testbed(tmp_path: Path) -> None:
    run = directory.create(tmp_path, "old", {"spec": SPEC.to_dict(), "testbed": "local:long-gone"})
    journal = Journal.open(run.journal)
    journal.extend(run_events(2))
    exp = Experiment.open(run.path)
    assert exp.spec == SPEC
    assert exp.frames.account.up == 2
    assert "on local:long-gone" in repr(exp), "two local testbeds are two testbeds"
    assert "Experiment old" in exp._repr_html_()
    assert exp.launch().status == "ok"  # done before: read back, nothing is asked of anybody
    assert exp.launch().frames is exp.figures.frames  # made once,
    del exp.frames.vms["state"]  # and those that a person works on are others
    assert "state" in exp.figures.frames.vms
    exp.journal.append("launch", "launch", "vm", "vm-2", "failed", at="x", reason="y")
    assert exp.launch().frames.account.failed == 1  # until something else happens
    with pytest.raises(TestbedError, match="not up"):
        _ = exp.testbed


def test_open_reads_a_run_that_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = directory.create(tmp_path, "old", {"spec": SPEC.to_dict(), "testbed": "local:long-gone"})
    events = run_events(2)
    Journal.open(run.journal).extend(events)
    with run.journal.open("ab") as file:
        file.write(b'{"t": 17')  # it was killed while it wrote
    before = {path: path.read_bytes() for path in run.path.iterdir()}

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("g5kvirt.run.journal.FileIO", refuse)  # root may write where permissions forbid it
    run.path.chmod(0o555)
    try:
        monkeypatch.chdir(run.path)
        exp = Experiment.open(".")
        assert exp.name == "old"
        assert len(exp.frames.events) == len(events)
        assert exp.frames.account.up == 2
        assert "Experiment old" in exp._repr_html_()
        assert exp.launch().status == "ok"
        exp.figures.timeline()
        with pytest.raises(RunError, match="this run can only be read here"):
            exp.release()
        assert {path: path.read_bytes() for path in run.path.iterdir()} == before
    finally:
        run.path.chmod(0o755)


def test_continuing_closes_spans_of_a_killed_process(tmp_path: Path) -> None:
    testbed = Refusing()
    exp = Experiment(SPEC, testbed=testbed, name="x", runs=tmp_path)  # type: ignore[arg-type]
    exp.journal.append("reserve", "phase", "run", "x", "start", t=1.0)
    exp.journal.append("reserve", "submitted", "site", "nancy", "ok", t=2.0, job=11)
    assert list(exp.frames.phases["status"]) == ["unfinished"]
    with pytest.raises(TestbedError, match="refused the job"):
        exp.reserve()
    first, second = [e for e in exp.journal if (e.step, e.status) == ("phase", "failed")]
    assert (first.t, first.detail) == (2.0, {"reason": CUT_SHORT})
    assert "refused" in second.detail["reason"]
    assert testbed.earlier == [(("nancy", 11),)]


def test_open_refuses_a_directory_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run 'nothing'"):
        Experiment.open(tmp_path / "nothing")


def test_refused_reservation_can_be_retried_and_released(tmp_path: Path) -> None:
    testbed = Refusing()
    exp = Experiment(SPEC, testbed=testbed, name="x", runs=tmp_path)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(TestbedError, match="refused the job"):
            exp.reserve()
    assert list(exp.frames.phases["status"]) == ["failed"]
    assert exp.journal.state.jobs == [("nancy", 12)] * 2
    assert testbed.earlier == [None, (("nancy", 12),)]  # to go on with, or to be given back first
    with pytest.raises(PhaseOrderError, match=r"^launch\(\) needs reserve\(\) first: call reserve\(\)$"):
        exp.launch()
    exp.release()
    exp.release()
    assert testbed.released == [[("nancy", 12)] * 2]
    with pytest.raises(PhaseOrderError, match="released its machines"):
        exp.reserve()


def test_each_run_has_its_own_ssh_key(tmp_path: Path) -> None:
    keys = []
    for name in ("a", "b"):
        exp = Experiment(SPEC, testbed=Refusing(), name=name, runs=tmp_path)  # type: ignore[arg-type]
        key = exp.path / "ssh" / "id_ed25519"
        assert key.stat().st_mode & 0o777 == 0o600
        assert key.parent.stat().st_mode & 0o777 == 0o700
        keys.append(key.read_text())
    assert keys[0] != keys[1]


@pytest.mark.parametrize(("code", "reserves"), [("unknown-environment", False), ("unusable", True)])
def test_reserve_refuses_an_unknown_environment_before_it_submits(
    code: str, reserves: bool, tmp_path: Path
) -> None:
    class Without(Refusing):
        def find_environment(self, environment: str, sites: Sequence[str]) -> Sequence[Finding]:
            return [Finding("environment", "nancy", "problem", code, f"no {environment}", "register it")]

    testbed = Without()
    exp = Experiment(SPEC, testbed=testbed, name="x", runs=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(TestbedError if reserves else SpecError):
        exp.reserve()
    assert bool(testbed.names) == reserves
    assert bool(len(exp.journal)) == reserves, "what is refused before anything is touched is no try"


def test_runs_of_the_same_name_have_different_job_names(tmp_path: Path) -> None:
    testbed = Refusing()
    for folder in ("mine", "elsewhere"):
        exp = Experiment(SPEC, testbed=testbed, name="x", runs=tmp_path / folder)  # type: ignore[arg-type]
        with pytest.raises(TestbedError, match="refused the job"):
            exp.reserve()
        exp.release()
        time.sleep(0.002)
    mine, own, elsewhere, _ = testbed.names
    assert mine == own != elsewhere
    assert mine.startswith("g5kvirt-x-")


@pytest.mark.parametrize("how", ["full", "removed"])
def test_release_gives_machines_back_even_if_the_journal_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    testbed = Refusing()
    exp = Experiment(SPEC, testbed=testbed, name="x", runs=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(TestbedError, match="refused the job"):
        exp.reserve()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if how == "full":
        monkeypatch.setattr("g5kvirt.run.journal.os.write", full)
    else:
        shutil.rmtree(exp.path)
    with pytest.raises(
        RunError, match=r"^the machines are released, but .*journal.jsonl (is not|cannot be written \(No)"
    ):
        exp.release()
    assert testbed.released == [[("nancy", 12)]]
    assert exp.path.exists() == (how == "full")


def test_release_is_refused_while_another_process_works_on_the_run(tmp_path: Path) -> None:
    testbed = Refusing()
    exp = Experiment(SPEC, testbed=testbed, name="x", runs=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(TestbedError, match="refused the job"):
        exp.reserve()
    with Journal.open(exp.path / "journal.jsonl").held(), pytest.raises(RunError, match="is in use by"):
        exp.release()
    assert testbed.released == []
