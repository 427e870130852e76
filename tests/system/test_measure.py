"""Deploying an environment on real VMs by the Kadeploy workflow, again and again, and with faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from localbed import MARKS, PREFIX, below, command_line, nothing_left, wait
from test_experiment import do, start

from g5kvirt.journal import Event, read_events
from g5kvirt.measurements import Measurements
from g5kvirt.testbeds.local import lifecycle
from g5kvirt.testbeds.local.description import make
from g5kvirt.testbeds.local.state import State

pytestmark = [*MARKS, pytest.mark.vm]

RUN = """
import json
exp = Experiment(Spec(sites={"nancy": 1, "rennes": 1}, %s), testbed=testbed, name="m", runs=runs)
try:
    for step in ("reserve", "deploy", "configure", "place", "launch"):
        getattr(exp, step)()
    %s
finally:
    exp.release()
"""


@pytest.fixture(scope="module")
def slow() -> Iterator[State]:
    """Two sites whose links take seconds for an image, so that something can happen meanwhile."""
    name = f"{PREFIX}-slow"
    try:
        yield lifecycle.up(name, make({"nancy": 2, "rennes": 1}, nic_gbps=0.05))
    finally:
        lifecycle.down(name)
        assert nothing_left(name)


def journal(runs: Path) -> list[Event]:
    path = runs / "m" / "journal.jsonl"
    return read_events(path) if path.exists() else []


def seen(runs: Path, what: Callable[[Event], bool], process: subprocess.Popen[str]) -> None:
    """Wait until an event is in the journal."""

    def there() -> bool:
        assert process.poll() is None, process.communicate()
        return any(what(event) for event in journal(runs) if event.phase == "measure")

    wait(there, timeout=300)


def kill(state: State, start_of_command: str) -> None:
    """SIGKILL to the processes of the testbed whose command begins so."""
    pids = [pid for pid in below(state.pid) if command_line(pid).startswith(start_of_command)]
    assert pids, f"no {start_of_command}"
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def test_deployed_again_and_again_and_reached_by_ssh(slow: State, tmp_path: Path) -> None:
    out = do(
        RUN
        % (
            "vms=2",
            """
    result = exp.measure(environment="mini", sizes=[1, 2], repeat=1)
    assert "<" in result._repr_html_()
    for bad in (dict(environment="nothing"), dict(sizes=[3]), dict(sizes=[0]), dict(repeat=0)):
        events = len([e for e in exp.journal if e.kind == "vm"])
        try:
            exp.measure(**bad)
        except G5kvirtError as error:
            assert error.exit_code == 2, error
        assert events == len([e for e in exp.journal if e.kind == "vm"]), "something was rebooted"
    rows = exp.command("cat /etc/g5kvirt-environment; hostname; grep ' / ' /proc/mounts | tail -n 1")
    import subprocess
    words = ["ssh", "-F", str(exp.ssh_config()), "vm-2", "hostname"]
    ssh = subprocess.run(words, capture_output=True, text=True)
    exp.figures.save(exp.run.path / "figures")
    print(json.dumps({"out": dict(zip(rows["vm"], rows["out"])), "ssh": ssh.stdout}))
""".strip(),
        ),
        slow,
        tmp_path,
        timeout=400,
    )
    said = json.loads(out.splitlines()[-1])
    assert said["ssh"] == "vm-2\n"
    assert set(said["out"]) == {"vm-1", "vm-2"}
    for name, text in said["out"].items():
        assert "name=mini" in text
        assert "deployment=d2" in text, "the deployment before left its trace"
        assert f"{name}\n/dev/vda1 / " in text
    tables = Measurements(journal(tmp_path))
    assert list(tables.deployments["deployed"]) == [1, 2]
    assert tables.summary().failed == 0


@pytest.mark.slow
def test_a_vm_killed_in_each_macro_step_and_the_others_finish(slow: State, tmp_path: Path) -> None:
    script = RUN % ('vms=6, windows={"boot": 6}', 'exp.measure(environment="mini", sizes=[6])')
    process = start(script, slow, tmp_path)
    try:
        for vm, step in (("vm-1", "partition"), ("vm-2", "format"), ("vm-3", "sync")):
            seen(tmp_path, lambda e, v=vm, s=step: (e.subject, e.step) == (v, s), process)  # type: ignore[misc]
            kill(slow, f"qemu-system-x86_64 -name {vm} ")
        out, err = process.communicate(timeout=400)
    finally:
        process.kill()
    assert process.returncode == 0, f"{out}\n{err}"
    tables = Measurements(journal(tmp_path))
    summary = tables.summary()
    assert summary.asked == 6
    assert summary.deployed + summary.failed == 6
    assert summary.unfinished == 0
    vms = tables.vms.set_index("vm")
    assert (vms.loc[["vm-4", "vm-5", "vm-6"], "outcome"] == "deployed").all()
    for reason in summary.failures:
        assert reason[3]


def test_services_and_relays_killed_during_the_broadcast(slow: State, tmp_path: Path) -> None:
    script = RUN % ("vms=2", 'exp.measure(environment="mini")')
    process = start(script, slow, tmp_path)
    try:
        seen(tmp_path, lambda e: (e.step, e.kind, e.status) == ("broadcast", "host", "start"), process)
        relay = "python3 -I -S /usr/local/sbin/g5kvirt-relay run"
        wait(lambda: any(command_line(pid).startswith(relay) for pid in below(slow.pid)))
        kill(slow, "nginx: master")
        kill(slow, relay)
        out, err = process.communicate(timeout=400)
    finally:
        process.kill()
    assert process.returncode == 0, f"{out}\n{err}"
    assert Measurements(journal(tmp_path)).summary().deployed == 2


def test_a_disk_that_is_too_small_is_named(slow: State, tmp_path: Path) -> None:
    process = start(RUN % ('vms=1, vm={"disk": 8}', 'exp.measure(environment="mini")'), slow, tmp_path)
    try:
        _, err = process.communicate(timeout=400)
    finally:
        process.kill()
    assert "PhaseError" in err
    (failure,) = Measurements(journal(tmp_path)).summary().failures
    assert failure[2] == "partition"
    assert "the disk is too small" in failure[3]
