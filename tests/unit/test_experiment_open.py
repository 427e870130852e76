"""A run is read where its testbed is gone, and continues only where it may."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest
from runmaker import run_events

from g5kvirt import Experiment, Spec, runs
from g5kvirt.errors import PhaseOrderError, RunError, TestbedError
from g5kvirt.inventory import GIB, Host
from g5kvirt.journal import Journal
from g5kvirt.phases import recall
from g5kvirt.testbeds.base import Notify, Request

SPEC = Spec(sites={"nancy": 1}, vms=2)
HOSTS = {"nancy": [Host(f"h-{i}.nancy.grid5000.fr", "nancy", "h", 4, 8 * GIB) for i in range(1, 4)]}


class Refusing:
    """A testbed whose sites have machines and refuse every job."""

    name = "refusing"
    simulated = False
    guest = ""
    real_cores = None

    def __init__(self) -> None:
        self.released: list[list[tuple[str, int]]] = []

    def connect(self) -> None:
        pass

    def hosts(self) -> Mapping[str, Sequence[Host]]:
        return HOSTS

    def reserve(self, request: Request, notify: Notify) -> None:
        notify("nancy", "submitted", {"job": 12})
        raise TestbedError("OAR at nancy refused the job: no")

    def release(self, jobs: Iterable[tuple[str, int]], job_name: str, sites: Sequence[str]) -> None:
        assert (job_name, list(sites)) == ("g5kvirt-x", ["nancy"])
        self.released.append(list(jobs))


def test_a_finished_run_is_read_without_its_testbed(tmp_path: Path) -> None:
    run = runs.create(tmp_path, "old", {"spec": SPEC.to_dict(), "testbed": "local:long-gone"})
    journal = Journal.open(run.journal)
    journal.extend(run_events(2))
    journal.close()
    exp = Experiment.open(run.path)
    assert exp.spec == SPEC
    assert exp.frames.account.up == 2
    assert "on local" in repr(exp)
    assert "Experiment old" in exp._repr_html_()
    assert exp.launch().status == "ok"  # done before: read back, nothing is asked of anybody
    with pytest.raises(TestbedError, match="not up"):
        _ = exp.testbed


def test_what_is_no_run_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run 'nothing'"):
        Experiment.open(tmp_path / "nothing")


def test_a_refused_reservation_can_be_tried_again_and_given_back(tmp_path: Path) -> None:
    testbed = Refusing()
    exp = Experiment(SPEC, testbed=testbed, name="x", runs=tmp_path)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(TestbedError, match="refused the job"):
            exp.reserve()
    assert list(exp.frames.phases["status"]) == ["failed"]
    assert recall.jobs(exp.journal) == [("nancy", 12)] * 2
    assert testbed.released == [[("nancy", 12)]]  # before it was tried again
    with pytest.raises(PhaseOrderError, match="call reserve\\(\\) first"):
        exp.launch()
    exp.release()
    exp.release()
    assert testbed.released[1:] == [[("nancy", 12)] * 2]
    with pytest.raises(PhaseOrderError, match="given its machines back"):
        exp.reserve()


def test_each_run_has_a_key_of_its_own(tmp_path: Path) -> None:
    keys = []
    for name in ("a", "b"):
        exp = Experiment(SPEC, testbed=Refusing(), name=name, runs=tmp_path)  # type: ignore[arg-type]
        key = exp.run.path / "ssh" / "id_ed25519"
        assert key.stat().st_mode & 0o777 == 0o600
        assert key.parent.stat().st_mode & 0o777 == 0o700
        keys.append(key.read_text())
        exp.journal.close()
    assert keys[0] != keys[1]
