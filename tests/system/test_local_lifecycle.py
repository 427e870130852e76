"""Starting and stopping local testbeds, and recovery from crashes. Needs root."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from localbed import MARKS, SMALL, Job, below, children, command_line, nothing_left, on, ssh, wait

from g5kvirt.errors import SpecError, TestbedError
from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local import layers, lifecycle
from g5kvirt.testbeds.local import namespaces as ns
from g5kvirt.testbeds.local.shared_limits import LIMITS, SharedLimits
from g5kvirt.testbeds.local.state import State, directory

pytestmark = MARKS


def test_up_is_idempotent(bed: State) -> None:
    again = lifecycle.up(bed.name)
    assert (again.pid, again.start_time) == (bed.pid, bed.start_time)
    with pytest.raises(SpecError, match="another description"):
        lifecycle.up(bed.name, SMALL)
    assert lifecycle.status(bed.name).state == "up"
    small = {key: value for key, value in SharedLimits().current().items() if value < LIMITS[key]}
    assert not small, "the kernel tables that all nodes share are raised"


def test_concurrent_calls_start_one_testbed(name: str) -> None:
    states: list[State] = []
    threads = [threading.Thread(target=lambda: states.append(lifecycle.up(name, SMALL))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(states) == 3
    assert len({state.pid for state in states}) == 1


def test_two_testbeds_side_by_side(bed: State, name: str) -> None:
    other = lifecycle.up(name, make({"nancy": 1}))
    assert on(other, "nancy.grid5000.fr", "oarnodes -l").split() == ["graphene-1.nancy.grid5000.fr"]
    assert ssh(other, "rennes.grid5000.fr", "true").returncode != 0
    assert lifecycle.down(name)
    assert on(bed, "nancy.grid5000.fr", "hostname").strip() == "nancy"


def test_down_without_a_testbed(name: str) -> None:
    assert lifecycle.down(name) is False
    assert lifecycle.status(name).state == "down"
    with pytest.raises(TestbedError, match="not up"):
        State.load(name)


@pytest.mark.parametrize("victim", ["init", "daemon"])
def test_crash_leaves_nothing_and_up_repairs(name: str, victim: str) -> None:
    state = lifecycle.up(name, SMALL)
    every = below(state.pid)
    assert len(every) > 10
    target = state.pid if victim == "init" else children(state.pid)[0]
    os.kill(target, signal.SIGKILL)
    wait(lambda: not any(ns.start_time(pid) for pid in every))
    assert lifecycle.status(name).state == "broken"
    new = lifecycle.up(name, SMALL)
    assert new.pid != state.pid
    assert on(new, "lyon.grid5000.fr", "hostname").strip() == "lyon"


def test_down_without_state_file(name: str) -> None:
    state = lifecycle.up(name, SMALL)
    (state.directory / "state.json").unlink()
    assert lifecycle.status(name).state == "broken"
    assert lifecycle.down(name)
    assert ns.start_time(state.pid) is None


def test_down_does_not_kill_a_reused_pid(name: str) -> None:
    state = lifecycle.up(name, SMALL)
    file = state.directory / "state.json"
    text = file.read_text().replace(f'"pid": {state.pid}', f'"pid": {os.getpid()}')
    assert f'"pid": {os.getpid()}' in text
    file.write_text(text)
    assert lifecycle.down(name)  # and this test still runs
    assert ns.start_time(state.pid) is None


@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGINT"])
@pytest.mark.parametrize("after", [0.0, 0.2, 0.4])
def test_killed_or_interrupted_up_leaves_nothing(name: str, after: float, signal_name: str) -> None:
    program = "import sys; from g5kvirt.testbeds.local import lifecycle\n"
    program += "from g5kvirt.testbeds.described import description\n"
    program += "lifecycle.up(sys.argv[1], description.make({'lyon': 1}), lambda *a: None)"
    root = str(Path(lifecycle.__file__).parents[3])
    starter = subprocess.Popen(
        [sys.executable, "-c", program, name], env={**os.environ, "PYTHONPATH": root}, start_new_session=True
    )
    wait(lambda: (directory(name) / "id_ed25519").exists() or starter.poll() is not None)
    time.sleep(after)
    starter.send_signal(signal.Signals[signal_name])
    starter.wait(60)
    if signal_name == "SIGKILL":
        lifecycle.down(name)
        assert nothing_left(name)
    else:  # all or nothing: removed, or complete if the signal came after it was up
        assert nothing_left(name) or lifecycle.status(name).state == "up"


def test_failure_leaves_nothing_and_names_the_log(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = layers.ensure()
    broken = {**images, "node": Path("/nonexistent.sqfs")}
    monkeypatch.setattr(layers, "ensure", lambda *_: broken)
    with pytest.raises(TestbedError, match=r"could not be started .*nonexistent.*its logs: /"):
        lifecycle.up(name, SMALL)
    assert nothing_left(name)


def test_oar_and_its_database_are_restarted(name: str) -> None:
    state = lifecycle.up(name, SMALL)
    before: list[Job] = []
    for program in ("/usr/lib/oar/Almighty", "postgres -D"):
        every = below(state.pid)
        victims = [pid for pid in every if program in command_line(pid)]
        assert victims, program
        os.kill(victims[0], signal.SIGKILL)
        wait(lambda victim=victims[0]: ns.start_time(victim) is None)  # type: ignore[misc]
        time.sleep(2)
        with Job(state, "lyon", "nodes=1") as job:
            # job ends committed just before the database was killed are not lost
            assert all(ended.state_is("Error", "Terminated") for ended in before)
            assert "is successful on nodes" in job.deploy(job.nodes)
        before.append(job)


def test_dead_node_is_restarted(name: str) -> None:
    state = lifecycle.up(name, SMALL)
    [node] = state.description.nodes
    inits = [pid for pid in below(state.pid) if _hostname(pid) == node.uid and "daemon" in command_line(pid)]
    os.kill(inits[0], signal.SIGKILL)
    wait(lambda: ns.start_time(inits[0]) is None)
    wait(lambda: "Permission denied" in ssh(state, node.fqdn, "true").stderr)


def _hostname(pid: int) -> str:
    """The hostname in the UTS namespace of ``pid``."""
    argv = ["nsenter", f"--uts=/proc/{pid}/ns/uts", "hostname"]
    return subprocess.run(argv, capture_output=True, text=True).stdout.strip()
