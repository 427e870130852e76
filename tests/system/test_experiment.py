"""The first five steps on a local testbed with real VMs, and what is left when they are cut short.

execo knows one testbed a process, so every experiment runs in a process of its own, as a notebook's would.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from dhcpwatch import DhcpWatch, Sent
from localbed import MARKS, below, command_line, nothing_left, on, temporary_testbed, wait
from scripts import LAUNCHED, answer, end, start

from g5kvirt.hostagent.onhost.light import dhcp
from g5kvirt.run.events import Event
from g5kvirt.run.journal import read_events
from g5kvirt.run.tables import Frames
from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local import lifecycle
from g5kvirt.testbeds.local.state import State

pytestmark = [*MARKS, pytest.mark.vm]

STEPS = LAUNCHED % ("vms=2", "cut", "")


@pytest.fixture(scope="module")
def grid() -> Iterator[State]:
    """Two sites with a service machine and two hosts each."""
    with temporary_testbed("grid", make({"nancy": 3, "rennes": 3})) as state:
        yield state


def guests(state: State) -> list[int]:
    """The VMs of a testbed; not the guest with which a host finds out whether KVM answers."""
    return [pid for pid in below(state.pid) if re.match(r"qemu-system\S* -name vm-", command_line(pid))]


def jobs(state: State) -> str:
    return "".join(on(state, f"{site}.grid5000.fr", "oarstat") for site in ("nancy", "rennes"))


def only_the_runs_own_dhcp_reached_vms(messages: Collection[Sent], other: str) -> None:
    """``other``: the KaVLAN's own server. Its refusals reach the hosts of VMs, but no VM."""
    to_vms = [m for m in messages if m.out and re.fullmatch("v[0-9a-f]{12}", m.interface)]
    assert {m.kind for m in to_vms} == {dhcp.OFFER, dhcp.ACK}
    assert len({m.interface for m in to_vms}) == 3
    assert other not in {m.server for m in to_vms}
    assert Sent("eth0", out=False, kind=dhcp.NAK, server=other) in messages


def test_five_steps_with_real_vms(grid: State, tmp_path: Path) -> None:
    script = """
    import json
    exp = Experiment(Spec(sites={"nancy": 2, "rennes": 1}, vms=3), testbed=testbed, name="whole", runs=runs)
    said = []
    try:
        try:
            exp.deploy()
        except PhaseOrderError as error:
            said.append(str(error))
        for step in ("reserve", "deploy", "configure", "place", "launch"):
            first = getattr(exp, step)()
            events = len(exp.journal)
            again = getattr(exp, step)()
            assert len(exp.journal) == events, f"{step} was done twice"
            assert repr(again) == repr(first)
            assert first.status == "ok" and "<" in first._repr_html_()
        same = Experiment.open(exp.path)
        assert repr(same.launch()) == repr(exp.launch())
        figures = exp.figures.save(exp.path / "figures")
        try:
            Experiment(exp.spec, testbed=testbed, name="whole", runs=runs)
        except G5kvirtError as error:
            said.append(str(error))
    finally:
        exp.release()
        exp.release()
    print(json.dumps({"said": said, "figures": [str(f) for f in figures]}))
    """
    with DhcpWatch(grid.pid) as watch:
        found = answer(start(script, grid, tmp_path))
    only_the_runs_own_dhcp_reached_vms(
        watch.messages, str(grid.description.site("nancy").global_vlan.gateway)
    )
    order, taken = found["said"]
    assert "needs reserve() first: call reserve()" in order
    assert "already a run 'whole'" in taken
    for file in found["figures"]:
        assert Path(file).stat().st_size > 100

    events = read_events(tmp_path / "whole" / "journal.jsonl")
    frames = Frames(events)
    assert frames.account.up == 3
    assert list(frames.phases["status"]) == ["ok"] * 5
    vms = frames.vms
    steps = ["power_on", "dhcp", "script", "kernel", "initrd", "minimal_system"]
    times = vms[steps].to_numpy()
    assert (times[:, 1:] >= times[:, :-1]).all(), "milestones out of order"
    assert sorted(vms["host"].str.extract(r"\.(\w+)\.")[0].unique()) == ["nancy", "rennes"]
    key = tmp_path / "whole" / "ssh" / "id_ed25519"
    assert key.stat().st_mode & 0o777 == 0o600
    wait(lambda: not guests(grid))
    assert "g5kvirt" not in jobs(grid)
    for site in ("nancy", "rennes"):
        left = on(grid, f"{site}.grid5000.fr", "ls -a").split()
        assert not [name for name in left if name.startswith(".g5kvirt-")], "the public key was left behind"


def test_bad_input_is_one_sentence_and_reserves_nothing(grid: State, tmp_path: Path) -> None:
    script = """
    bad = [
        dict(sites={"nacny": 1}, vms=1),
        dict(sites={"nancy": 30}, vms=1),
        dict(sites={"nancy": 1}, vms=4000),
        dict(sites={"nancy": 1}, vms=0),
        dict(sites={"nancy": -1}, vms=1),
        dict(sites={"nancy": 1}, vms=1, walltime="0:00:10"),
        dict(sites={"nancy": 1}, vms=1, walltime="soon"),
        dict(sites={"nancy": 1}, vms=1, placement="whereever"),
    ]
    for words in bad:
        try:
            Experiment(Spec(**words), testbed=testbed, runs=runs)
        except G5kvirtError as error:
            assert error.exit_code == 2
            print(error)
        else:
            raise SystemExit(f"accepted: {words}")
    """
    runs = tmp_path / "runs"
    said = end(start(script, grid, runs)).splitlines()
    assert len(said) == 8
    assert "did you mean 'nancy'" in said[0]
    assert not runs.exists()
    assert "g5kvirt" not in jobs(grid)


def reached(journal: Path, phase: str) -> list[Event]:
    """The events of ``phase``, while another process writes them."""
    return [e for e in read_events(journal) if e.phase == phase] if journal.exists() else []


CUTS = [
    ("reserve", signal.SIGKILL),
    ("deploy", signal.SIGINT),
    ("configure", signal.SIGKILL),  # launch and measure: below
    ("launch", signal.SIGINT),
    *(
        pytest.param(phase, how, marks=pytest.mark.slow)
        for phase, how in (
            ("reserve", signal.SIGINT),
            ("deploy", signal.SIGKILL),
            ("configure", signal.SIGINT),
        )
    ),
]


@pytest.mark.parametrize(("phase", "how"), CUTS, ids=lambda value: getattr(value, "name", value))
def test_interrupted_step_continues(phase: str, how: signal.Signals, grid: State, tmp_path: Path) -> None:
    journal = tmp_path / "cut" / "journal.jsonl"
    process = start(STEPS, grid, tmp_path)
    try:
        # not at the very first event, but amid the step
        wait(lambda: len(reached(journal, phase)) >= 2, timeout=120)
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode != 0
    if how is signal.SIGINT:
        assert "KeyboardInterrupt" in err
    else:  # somebody else gives back what it left
        end(start('Experiment.open(runs + "/cut").release()', grid, tmp_path))
    wait(lambda: not guests(grid))
    wait(lambda: "g5kvirt" not in jobs(grid))


def test_killed_background_steps_continue(grid: State, tmp_path: Path) -> None:
    script = """
    import json, os, signal, time
    from dataclasses import replace

    spec = Spec(sites={"nancy": 1, "rennes": 1}, vms=2, timeouts={"boot": 300})
    exp = Experiment(spec, testbed=testbed, name="on", runs=runs)

    def killed(running, step):
        heard = set()
        leave = exp.journal.subscribe(lambda e: e.step == step and e.status == "ok" and heard.add(e.subject))
        while len(heard) < 2:
            assert not running.wait(0.05), running
        leave()
        os.kill(running.pid, signal.SIGKILL)
        try:
            running.result()
        except G5kvirtError as error:
            assert "exit code -9" in str(error), error
        return time.time()

    try:
        for step in ("reserve", "deploy", "configure"):
            assert exp.start(step).result(300).status == "ok"
        exp.place()
        t = killed(exp.start("launch"), "dhcp")
        exp = Experiment.open(exp.path)
        # Now one waits for the other, and both are on their way already.
        exp._runner.spec = replace(exp.spec, windows={"boot": 1})
        exp.launch()
        killed(exp.start("measure"), "partition")
        before = exp.frames.measurements.summary()
    finally:
        exp.release()
    print(json.dumps([t, before.unfinished]))
    """
    killed, unfinished = answer(start(script, grid, tmp_path), timeout=600)
    frames = Frames(read_events(tmp_path / "on" / "journal.jsonl"))
    assert frames.account.up == 2
    assert (frames.vms["power_on"] < killed).all(), "what runs is not started again"
    assert set(frames.events["attempt"]) == {1}, "and nothing that it did meanwhile was lost"
    summary = frames.measurements.summary()
    assert unfinished == 2
    assert (summary.requested, summary.failed, summary.unfinished) == (2, 2, 0)
    assert "unfinished" not in set(frames.phases["status"])
    wait(lambda: not guests(grid))
    assert "g5kvirt" not in jobs(grid)


def test_down_while_vms_run_leaves_nothing(name: str, tmp_path: Path) -> None:
    state = lifecycle.up(name, make({"nancy": 3, "rennes": 2}))
    process = start(STEPS, state, tmp_path)
    try:
        wait(lambda: len(guests(state)) == 2, timeout=120)
        everyone = below(state.pid)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
    finally:
        process.kill()
    interfaces = set(Path("/sys/class/net").iterdir())
    lifecycle.down(name)
    assert nothing_left(name)
    assert not [pid for pid in everyone if command_line(pid).startswith(("qemu", "sshd", "nginx", "dnsmasq"))]
    assert set(Path("/sys/class/net").iterdir()) == interfaces


@pytest.mark.slow  # tests/faults does the same to light guests
def test_a_vm_and_services_are_killed_while_vms_boot(grid: State, tmp_path: Path) -> None:
    """The VM is powered on again, once; the other one needs no second start, and the services are back."""
    script = LAUNCHED % ("vms=2, timeouts={'boot': 90}", "dies", "")
    process = start(script, grid, tmp_path)

    def pids(word: str) -> list[int]:
        return [pid for pid in below(grid.pid) if command_line(pid).startswith(word)]

    try:
        wait(lambda: len(guests(grid)) == 2, timeout=120)
        services = [*pids("dnsmasq"), *pids("nginx: master")]
        assert len(services) >= 2
        for pid in (guests(grid)[0], *services):
            with contextlib.suppress(ProcessLookupError):  # a service's second process ends with its first
                os.kill(pid, signal.SIGKILL)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, f"{out}\n{err}"
    frames = Frames(read_events(tmp_path / "dies" / "journal.jsonl"))
    assert frames.account.up == 2
    assert sorted(frames.vms["attempts"]) == [1, 2]


@pytest.mark.slow
def test_32_vms_on_8_hosts_of_2_sites(name: str, tmp_path: Path) -> None:
    state = lifecycle.up(name, make({"nancy": 5, "rennes": 4}))
    script = """
    exp = Experiment(Spec(sites={"nancy": 4, "rennes": 4}, vms=32), testbed=testbed, name="32", runs=runs)
    try:
        for step in ("reserve", "deploy", "configure", "place", "launch"):
            print(getattr(exp, step)())
    finally:
        exp.release()
    """
    began = time.monotonic()
    out = end(start(script, state, tmp_path), timeout=900)
    frames = Frames(read_events(tmp_path / "32" / "journal.jsonl"))
    print(out, f"{time.monotonic() - began:.0f} s")
    assert frames.account.up == 32
    per_host: dict[Any, int] = frames.vms.groupby("host")["name"].count().to_dict()
    assert list(per_host.values()) == [4] * 8
