"""Reserving, over real OAR: dates, the first common slot, refusals, and jobs that are found again.

No test waits for a start: what other jobs hold for half an hour decides when ours would be.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pytest
from localbed import MARKS, Job, on, wait
from scripts import answer, end, start

from g5kvirt.run.events import Event
from g5kvirt.run.journal import read_events
from g5kvirt.spec.clock import PARIS
from g5kvirt.testbeds.local.state import State

pytest.importorskip("execo_g5k", reason="execo is not installed")
pytestmark = MARKS

SITES = ("nancy", "rennes")


def jobs(state: State, run: str) -> list[str]:
    """(state, site) of the run's jobs that OAR still has."""
    return [
        f"{site} {line.split()[1]}"
        for site in SITES
        for line in on(state, f"{site}.grid5000.fr", "oarstat -u").splitlines()
        if f"N=g5kvirt-{run}-" in line
    ]


def heard(runs: Path, run: str, step: str) -> dict[str, Event]:
    """Site → the last event of that step."""
    journal = runs / run / "journal.jsonl"
    return {e.subject: e for e in read_events(journal) if e.step == step} if journal.exists() else {}


def over(job: Job, site: str) -> float:
    """When what a job holds can be had by others: OAR's end, and execo's two minutes of grace."""
    text = on(job.state, f"{site}.grid5000.fr", f"oarstat -fj {job.id}")
    found = re.search(r"startTime = (.*)", text)
    assert found, text
    begun = datetime.strptime(found[1].strip(), "%Y-%m-%d %H:%M:%S").replace(tzinfo=PARIS).timestamp()
    return begun + 1800 + 121


def test_jobs_of_a_killed_process_are_found_again(bed: State, tmp_path: Path) -> None:
    asked = """
    spec = Spec(sites={"nancy": 1, "rennes": 1}, vms=1, walltime="0:10:00", services=1,
                properties="host LIKE '%-2.%' OR cluster = 'graphene'")
    Experiment(spec, testbed=testbed, name="again", runs=runs).reserve()
    """
    script = """
    exp = Experiment.open(runs + "/again")
    try:
        exp.reserve()
        granted = exp.reservation
        print(json.dumps({"jobs": dict(granted.jobs), "hosts": [h.name for h in granted.hosts]}))
    finally:
        exp.release()
    """
    with Job(bed, "nancy", "{type='kavlan-global'}/vlan=1"):
        process = start(asked, bed, tmp_path)
        try:
            # rennes runs, nancy waits for the KaVLAN
            wait(lambda: jobs(bed, "again") == ["nancy W", "rennes R"] or process.poll() is not None, 90)
            wait(lambda: len(heard(tmp_path, "again", "submitted")) == 2 or process.poll() is not None)
            assert process.poll() is None, process.communicate()
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        before = {site: event.detail["job"] for site, event in heard(tmp_path, "again", "submitted").items()}
        process = start(script, bed, tmp_path)
        wait(lambda: len(heard(tmp_path, "again", "found-again")) == 2 or process.poll() is not None, 90)
    found = answer(process)
    assert found["jobs"] == before
    assert [name for name in found["hosts"] if "rennes" in name] == ["paradent-2.rennes.grid5000.fr"]
    assert len(found["hosts"]) == 3
    assert jobs(bed, "again") == []


@pytest.fixture(scope="module")
def held(bed: State) -> Iterator[dict[str, Job]]:
    """Nancy's only global KaVLAN and all of Rennes' sub-networks are somebody else's for half an hour."""
    with ExitStack() as stack:
        wanted = {"nancy": "{type='kavlan-global'}/vlan=1", "rennes": "slash_18=1"}
        yield {site: stack.enter_context(Job(bed, site, words)) for site, words in wanted.items()}


def test_impossible_reservation_is_one_sentence_and_leaves_no_jobs(
    bed: State, held: dict[str, Job], tmp_path: Path
) -> None:
    script = """
    from g5kvirt.phases.reservation_request import request_for
    from g5kvirt.testbeds import open_testbed
    bed = open_testbed(testbed)
    later = datetime.datetime.fromtimestamp(time.time() + 600, datetime.UTC)
    said, events = {}, {}

    def tried(name, bed, **words):
        exp = None
        try:
            spec = Spec(**{"vms": 1, "walltime": "0:10:00", **words})
            exp = Experiment(spec, testbed=bed, name=name, runs=runs)
            exp.reserve()
            said[name] = "given"
        except G5kvirtError as error:
            said[name] = f"{type(error).__name__}: {error}"
        if exp is not None:
            events[name] = sorted(e.subject for e in exp.journal if e.step == "submitted")
            exp.release()
        return exp

    # all sub-networks of rennes are taken at that time, while nancy would take the job
    tried("full", bed, sites={"rennes": 1, "nancy": 1}, services=2, start=later)
    tried("filter", bed, sites={"nancy": 1, "rennes": 1}, properties="host LIKE '%.nancy.%'")
    tried("nonsense", bed, sites={"nancy": 1}, properties="nonsense > 1")
    tried("open-filter", bed, hosts=2, properties="nonsense > 1")
    tried("environment", bed, sites={"rennes": 1}, host_environment="debian12-mni")
    from g5kvirt.planning.periods import is_working
    day = later.date() + datetime.timedelta(days=1)
    while not is_working(day):
        day += datetime.timedelta(days=1)
    strict = type(bed)(replace(bed.settings, charter=True), bed._state)
    tried("charter", strict, sites={"nancy": 1}, start=f"{day} 10:00", walltime="9:00:00")
    request = request_for(Spec(sites={"nancy": 1, "rennes": 1}, vms=1), "nobody")
    first = {"both": bed.first_start(request)}
    first["properties"] = sorted(bed.select("host LIKE '%-2.%' AND memnode > 1", ["rennes"])["rennes"])
    exp = Experiment(Spec(hosts=2, vms=2, sites=2), testbed=bed, name="open", runs=runs)
    first["sites"], first["kept"] = exp.spec.sites, Experiment.open(exp.path).spec.sites
    print(json.dumps({"said": said, "events": events, "first": first}))
    """
    found = answer(start(script, bed, tmp_path))
    said, submitted, first = found["said"], found["events"], found["first"]
    assert "OAR at rennes refused the job: not at that time: This reservation could run at" in said["full"]
    assert submitted["full"] == ["nancy"]
    assert said["environment"].startswith("SpecError: rennes: Kadeploy3 has no environment debian12-mni (")
    assert submitted["environment"] == []
    assert "OAR at rennes refused the job: There are not enough resources" in said["filter"]
    assert "host LIKE '%.nancy.%'" in said["filter"]
    assert submitted["filter"] == ["nancy"]
    assert 'refused the job: column "nonsense" does not exist' in said["nonsense"]
    assert "SpecError" in said["open-filter"]
    assert "no such column: nonsense" in said["open-filter"]
    assert "the usage charter allows 12 core-hours of nancy's cluster graphene by day" in said["charter"]
    assert submitted["charter"] == []
    for run in said:
        assert jobs(bed, run) == []

    assert first["both"] == pytest.approx(max(over(job, site) for site, job in held.items()), abs=2)
    assert first["properties"] == ["paradent-2.rennes.grid5000.fr"]
    assert first["sites"] == first["kept"] == {"nancy": 1, "rennes": 1}


def test_the_first_common_slot_begins_when_others_end(
    bed: State, held: dict[str, Job], tmp_path: Path
) -> None:
    script = """
    spec = Spec(sites={"nancy": 1, "rennes": 1}, vms=1, walltime="0:10:00", start="first")
    try:
        Experiment(spec, testbed=testbed, name="first", runs=runs).reserve()
    except KeyboardInterrupt:
        print("interrupted")
    """
    process = start(script, bed, tmp_path)
    try:
        wait(lambda: len(heard(tmp_path, "first", "predicted")) == 2 or process.poll() is not None, 90)
        assert sorted(jobs(bed, "first")) == ["nancy W", "rennes W"]
        process.send_signal(signal.SIGINT)
        assert end(process) == "interrupted\n"
    finally:
        process.kill()
    free = max(over(job, site) for site, job in held.items())
    for site, event in heard(tmp_path, "first", "predicted").items():
        assert event.detail["start"] == pytest.approx(free, abs=2), site
    assert jobs(bed, "first") == []
