"""What a person sees when something goes wrong with the jobs: one sentence each time, soon, and nothing is
left. The same faults over recorded answers: tests/contract/test_recorded_answers.py.

Real OAR in every case; all share a testbed, each with sites or nodes of its own, and what waits for OAR runs
side by side.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from localbed import MARKS, below, command_line, inside, on, temporary_testbed, wait
from scripts import end, start

from g5kvirt.run.events import Event
from g5kvirt.run.journal import read_events
from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local.oardb import connector
from g5kvirt.testbeds.local.state import State

pytestmark = MARKS


@pytest.fixture(scope="module")
def grid() -> Iterator[State]:
    with temporary_testbed("contract", make({"nancy": 4, "rennes": 2, "lyon": 4})) as state:
        yield state


#: Machines of which nobody gets a word: they let one in, and the host agent says nothing.
SILENT = """
spec = Spec(sites={SITE: 1}, vms=1)
object.__setattr__(spec, "walltime", WALLTIME)  # shorter than what may be asked for
exp = Experiment(spec, testbed=testbed, name=SITE, runs=runs)
try:
    exp.reserve()
    exp.deploy()
    hosts = [host.address for host in exp.journal.state.deployed_hosts]
    mute = "printf '#!/bin/sh\\nsleep 300\\n' > /usr/local/bin/python3; chmod 755 /usr/local/bin/python3"
    assert all(r.ok for r in exp._runner.context.fanout.run(hosts, ["sh", "-c", mute], timeout=60).values())
    PREPARE
    exp.configure()
except G5kvirtError as error:
    print(type(error).__name__, error)
finally:
    exp.release()
"""
#: The API that was there does not answer any more.
NO_API = 'from execo_g5k import api_utils; api_utils._get_g5k_api().base_uri = "http://127.0.0.1:9/stable"'


def silent(site: str, walltime: int, prepare: str = "") -> str:
    text = SILENT.replace("SITE", repr(site)).replace("WALLTIME", str(walltime))
    return text.replace("PREPARE", prepare)


Runs = dict[str, subprocess.Popen[str]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def ends(grid: State, runs: Path) -> Iterator[Runs]:
    """Two runs whose jobs end amid a step, by site: on their way while the other tests run."""
    processes = {
        "nancy": start(silent("nancy", 45), grid, runs),
        "rennes": start(silent("rennes", 3600, NO_API), grid, runs),
    }
    try:
        for site, process in processes.items():
            wait(lambda: seen(runs / site, "reserve", "granted") or process.poll() is not None, timeout=120)  # noqa: B023
            assert process.poll() is None, process.communicate()
        yield processes
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()


def seen(run: Path, phase: str, step: str) -> list[Event]:
    journal = run / "journal.jsonl"
    events = read_events(journal) if journal.exists() else []
    return [event for event in events if (event.phase, event.step) == (phase, step)]


def sentence(text: str, *words: str) -> None:
    """One line that says all this."""
    assert "\n" not in text
    assert len(text) < 500
    for word in words:
        assert word in text


def jobs(state: State, site: str) -> str:
    return on(state, f"{site}.grid5000.fr", "oarstat")


ALONE = """
exp = Experiment(Spec(%s), testbed=testbed, name="%s", runs=runs)
try:
    exp.reserve()
except G5kvirtError as error:
    print(type(error).__name__, error)
else:
    print("it was given")
finally:
    %s
"""


# The first two run while the fixture's jobs live: they need what those hold.


def test_the_only_global_kavlan_is_taken(grid: State, ends: Runs, tmp_path: Path) -> None:
    words = ALONE % ('sites={"nancy": 1}, vms=1, timeouts={"reserve": 3}', "taken", "exp.release()")
    text = end(start(words, grid, tmp_path)).strip()
    sentence(text, "TestbedError", "at nancy did not start", "KaVLAN", "raise timeouts.reserve")
    assert "g5kvirt-taken" not in jobs(grid, "nancy")


def test_a_job_is_deleted_from_outside_while_the_api_is_down(grid: State, ends: Runs, runs: Path) -> None:
    wait(lambda: seen(runs / "rennes", "configure", "phase"), timeout=120)
    [granted] = seen(runs / "rennes", "reserve", "granted")
    job = granted.detail["jobs"]["rennes"]
    on(grid, "rennes.grid5000.fr", f"oardel {job}")
    text = end(ends["rennes"]).strip()
    sentence(text, "PhaseError during configure()", f"job {job} at rennes ended at", "deleted by g5k")
    sentence(text, "create a new Experiment")
    [_, over] = seen(runs / "rennes", "configure", "phase")
    assert over.status == "failed"
    assert "deleted by g5k" in over.detail["reason"]
    assert "g5kvirt" not in jobs(grid, "rennes")


def test_deployments_of_hosts_that_fail(grid: State, tmp_path: Path) -> None:
    """First on more than may, then on some."""
    script = """
    from pathlib import Path
    exp = Experiment(Spec(sites={"lyon": 3}, vms=4, min_hosts=2), testbed=testbed, name="some", runs=runs)
    try:
        exp.reserve()
        logs = Path("/run/g5kvirt") / testbed.partition(":")[2] / "log"
        _, *hosts, last = exp.reservation.hosts
        for host in hosts:  # a node whose console has nowhere to go does not start
            file = logs / f"{host.uid}.lyon.log"
            file.rename(file.with_suffix(".kept"))
            file.mkdir()
        try:
            exp.deploy()
        except G5kvirtError as error:
            print(type(error).__name__, error)
        (logs / f"{hosts[1].uid}.lyon.log").rmdir()
        exp.deploy()
    finally:
        exp.release()
    """
    text = end(start(script, grid, tmp_path)).strip()
    sentence(text, "PhaseError 2 of 4 machines were not deployed (first", "Is a directory")
    sentence(text, "1 host for VMs came up, but min_hosts is 2", "call deploy() again")
    [_, ok] = [event for event in seen(tmp_path / "some", "deploy", "phase") if event.status != "start"]
    assert ok.status == "ok"
    assert len(ok.detail["hosts"]) == 3
    assert len(ok.detail["failed"]) == 1
    assert "g5kvirt" not in jobs(grid, "lyon")


def test_a_node_is_suspected(grid: State, tmp_path: Path) -> None:
    """OAR says so of nodes whose jobs went wrong; it gives them to nobody until it is mended."""
    socket = f"/proc/{inside(grid, 'lyon')}/root/run/postgresql/.s.PGSQL.5432"
    node = grid.description.site("lyon").nodes[0].fqdn

    def turn(state: str) -> None:
        connection = connector(socket, "postgres")()
        connection.run("UPDATE resources SET state = :s WHERE network_address = :n", s=state, n=node)
        connection.close()

    turn("Suspected")
    try:
        words = ALONE % ('sites={"lyon": 3}, vms=1, timeouts={"reserve": 3}', "suspected", "exp.release()")
        text = end(start(words, grid, tmp_path)).strip()
    finally:
        turn("Alive")
    sentence(text, "TestbedError", "lyon")
    assert "it was given" not in text
    assert "g5kvirt" not in jobs(grid, "lyon")


@contextmanager
def frontend_down(state: State, site: str) -> Iterator[None]:
    """Its sshd is killed, and what would start it again is stopped meanwhile."""
    root = inside(state, site)
    os.kill(root, signal.SIGSTOP)
    try:
        for pid in below(root):
            if command_line(pid).startswith("sshd: /usr/sbin/sshd -D -e [listener]"):
                os.kill(pid, signal.SIGKILL)
        yield
    finally:
        os.kill(root, signal.SIGCONT)
    wait(lambda: jobs_or_none(state, site) is not None)


def jobs_or_none(state: State, site: str) -> str | None:
    try:
        return jobs(state, site)
    except AssertionError:
        return None


def test_a_frontend_is_not_reachable(grid: State, tmp_path: Path) -> None:
    asked = 'sites={"rennes": 1, "lyon": 1}, vms=1'
    with frontend_down(grid, "lyon"):
        text = end(start(ALONE % (asked, "unreachable", "pass"), grid, tmp_path)).strip()
        assert "g5kvirt-unreachable" not in jobs(grid, "rennes"), (
            "what the other site gave was not given back"
        )
    sentence(text, "TestbedError", "lyon", "Connection refused")


def test_more_walltime_for_all_or_for_none(grid: State, tmp_path: Path) -> None:
    """Real OAR: first both sites give more; then lyon's machines are somebody's right afterwards."""
    script = """
    exp = Experiment(Spec(sites={"lyon": 3}, vms=1), testbed=testbed, name="more", runs=runs)
    try:
        exp.reserve()
        print(exp.extend("0:20:00").walltime, exp.reservation.walltime)
        print(*exp.reservation.jobs.values(), flush=True)
        from pathlib import Path
        while not Path(runs, "go").exists():
            time.sleep(0.1)
        exp.extend("10:00:00")
    except G5kvirtError as error:
        print(type(error).__name__, error)
        print(exp.reservation.walltime)
    finally:
        exp.release()
    """
    process = start(script, grid, tmp_path)
    assert process.stdout is not None
    walltimes, job = process.stdout.readline().split(), process.stdout.readline().strip()
    if walltimes != ["4800.0", "4800.0"]:
        process.kill()
        pytest.fail(f"{walltimes} {process.communicate()}")
    printed = on(grid, "lyon.grid5000.fr", f"oarstat -fj {job}; oarwalltime {job}")
    assert "walltime = 1:20:0" in printed
    assert "Pending/unsatisfied:    0:0:0" in printed
    after = "$(date -d '+3 hours' '+%Y-%m-%d %H:%M:%S')"
    taken = on(
        grid, "lyon.grid5000.fr", f"oarsub -l nodes=4,walltime=0:30:00 -t deploy -r \"{after}\" 'sleep 9'"
    )
    (tmp_path / "go").touch()
    try:
        text = end(process).strip()
    finally:
        on(grid, "lyon.grid5000.fr", f"oardel {taken.partition('OAR_JOB_ID=')[2].split()[0]}")
    sentence(
        text.splitlines()[0], "TestbedError OAR does not extend the walltime", f"job {job} at lyon", "of that"
    )
    assert "it ends as before" in text
    assert text.splitlines()[1] == "4800.0"


def test_oar_accepts_the_first_slot_of_a_job_of_the_type_night(grid: State, tmp_path: Path) -> None:
    """Real OAR with the rule of the local testbed: a weekend that was found is taken; a Wednesday is not."""
    script = """
    from datetime import datetime, timedelta
    from g5kvirt.testbeds.base import ReservationRequest
    from g5kvirt.testbeds.grid5000 import jobs, scheduling
    exp = Experiment(Spec(sites={"lyon": 1}, vms=1), testbed=testbed, name="night", runs=runs)
    bed = exp._runner.testbed
    bed.connect()
    noon = datetime.now().replace(hour=12, minute=0, second=0)
    noon += timedelta(days=2 + (7 - noon.weekday()) % 7)
    for kind, hours in (("night", 61), ("day", 10)):
        request = ReservationRequest({"lyon": 1}, {}, hours * 3600, kind, start="first", job_types=(kind,))
        start = scheduling.reservation_date(bed, request, None)
        job = jobs.submit("lyon", request, start)
        print(kind, start, job)
        try:
            jobs.submit("lyon", request, noon.timestamp())
        except G5kvirtError as error:
            print(type(error).__name__, error)
    """
    lines = end(start(script, grid, tmp_path)).strip().splitlines()
    for kind, made, refused in zip(("night", "day"), lines[::2], lines[1::2], strict=True):
        known, _, job = made.split()
        printed = on(grid, "lyon.grid5000.fr", f"oarstat -fj {job}; oardel {job}")
        assert known == kind
        assert f", {kind}" in printed or f"{kind}," in printed
        sentence(refused, "TestbedError OAR", f"a job of the type {kind} cannot run then for so long")


def test_the_api_is_down(grid: State, tmp_path: Path) -> None:
    script = """
    from pathlib import Path
    from g5kvirt.testbeds.grid5000.driver import Grid5000, Settings
    nobody = Grid5000(Settings(name="grid5000", api_uri="http://g5k:secret@127.0.0.1:9/", cache=Path(runs)))
    try:
        Experiment(Spec(sites={"nancy": 1}, vms=1), testbed=nobody, runs=runs)
    except G5kvirtError as error:
        print(type(error).__name__, error)
    """
    text = end(start(script, grid, tmp_path)).strip()
    sentence(text, "TestbedError the testbed's API does not answer", "check that it is up")
    assert "secret" not in text
    assert not (tmp_path / "runs").exists()


def test_the_walltime_ends_amid_a_step(grid: State, ends: Runs, runs: Path) -> None:
    text = end(ends["nancy"]).strip()
    ended = "its walltime of 0:0:45 was over"
    sentence(text, "PhaseError during", "at nancy ended at", ended, "create a new")
    [granted] = seen(runs / "nancy", "reserve", "granted")
    over = [event for event in read_events(runs / "nancy" / "journal.jsonl") if event.status == "failed"][-1]
    assert over.step == "phase"
    assert over.t - granted.detail["start"] >= 45
    wait(lambda: "g5kvirt" not in jobs(grid, "nancy"))
    assert "\n.g5kvirt-" not in on(grid, "nancy.grid5000.fr", "ls -a")
