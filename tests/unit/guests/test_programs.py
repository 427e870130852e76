"""Programs in the background: the scripts that VMs run, run here by this machine's shell."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from measuremaker import vms

from g5kvirt.errors import PhaseOrderError, RunError, SpecError
from g5kvirt.guests import programs
from g5kvirt.guests.programs import Program, start_program
from g5kvirt.remote import Result
from g5kvirt.run import inbox
from g5kvirt.run.directory import Run
from g5kvirt.run.events import Event
from g5kvirt.run.state import RunState

KNOWN = vms(2, hosts=1)
SHELLS = [["sh"], *([["busybox", "sh"]] if shutil.which("busybox") else [])]


class Journal:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.busy = False
        granted = SimpleNamespace(start=time.time(), walltime=3600.0)
        self.state: Any = SimpleNamespace(
            reservation=granted, placed_vms=KNOWN, deployed_vms=["vm-1"], released=False, programs={}
        )

    def extend(self, events: Sequence[Event]) -> None:
        if self.busy:
            raise RunError("another process writes it")
        self.events += events
        self.state.programs = RunState.of(self.events).programs


class LocalCommands:
    """`GuestCommands`, with this machine in the place of the VMs; ``unreachable``: VMs that do not answer."""

    unreachable: frozenset[str] = frozenset()
    shell: Sequence[str] = ("sh",)

    def __init__(self, *_: object) -> None:
        pass

    def run(self, names: Sequence[str], argv: Sequence[str], **_: object) -> dict[str, Result]:
        return {name: self._run(name, argv) for name in names}

    def _run(self, name: str, argv: Sequence[str]) -> Result:
        if name in self.unreachable:
            return Result(name, False, None, b"", b"", 0.0, 1.0, reason="unreachable: no response")
        done = subprocess.run([*self.shell, *argv[1:]], capture_output=True, timeout=30, check=False)
        return Result(name, not done.returncode, done.returncode, done.stdout, done.stderr, 0.0, 1.0)


Start = Callable[..., Program]


@pytest.fixture(params=SHELLS, ids=lambda words: words[0])
def context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[SimpleNamespace]:
    monkeypatch.setattr(programs, "FOLDER", str(tmp_path / "programs"))
    monkeypatch.setattr(programs, "GuestCommands", LocalCommands)
    monkeypatch.setattr(LocalCommands, "shell", request.param)
    monkeypatch.setattr(LocalCommands, "unreachable", frozenset())
    run = Run(tmp_path, {"created": 1})
    made = SimpleNamespace(journal=Journal(), run=run, now=time.time)
    yield made
    for start in made.journal.state.programs.values():
        made.journal.state.released = False
        Program(lambda: made, start).stop()


@pytest.fixture
def start(context: SimpleNamespace) -> Start:
    def begin(command: str, names: list[str] | None = None, timeout: float | None = 60) -> Program:
        return start_program(lambda: context, command, names, timeout)

    return begin


def row(program: Program, tail: int = 100) -> dict[str, Any]:
    return dict(program.status(tail).iloc[0])


def test_output_and_end_can_be_had_while_it_runs_and_afterwards(start: Start, tmp_path: Path) -> None:
    go = tmp_path / "go"
    program = start(
        f"echo begun; echo oops >&2; until [ -e {go} ]; do sleep 0.05; done; echo 'it''s'; exit 3"
    )
    now = row(program)
    assert (now["vm"], now["state"], now["code"]) == ("vm-1", "running", None)
    assert 0 <= now["seconds"] < 10
    assert not program.done
    assert not program.wait(0.1)
    with pytest.raises(TimeoutError):
        program.result(0.1)
    go.touch()
    found = program.result(20).iloc[0]
    assert (found["ok"], found["code"], found["reason"]) == (False, 3, "exit code 3")
    assert (found["out"], found["err"]) == ("begun\nits\n", "oops\n")
    assert program.done
    assert row(program, 3)["out"] == "ts\n", "the end of it"
    assert (Path(program.path) / "out").read_text() == "begun\nits\n"


def test_it_starts_in_roots_home_as_a_command_that_is_waited_for(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    program = start("pwd")
    assert program.wait(15)
    assert row(program)["out"].strip() == str(tmp_path)


def test_time_is_limited_and_its_whole_group_is_ended(start: Start, tmp_path: Path) -> None:
    program = start(f"sleep 300 & echo $! >{tmp_path}/child; wait; echo never", timeout=1)
    assert program.wait(15)
    found = row(program)
    assert (found["state"], found["reason"]) == ("ended", "timed out: ended after 1 s")
    assert found["out"] == ""
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text()


def test_output_is_limited(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "MOST_OUTPUT", 50_000)
    program = start("while :; do echo xxxxxxxxxxxxxxxxxxxx; done")
    assert program.wait(20)
    assert row(program)["reason"] == "ended after more than 50000 bytes of output"


def test_stop_ends_it_also_if_it_ignores_sigterm(start: Start) -> None:
    program = start("trap '' TERM; while :; do sleep 0.1; done")
    found = program.stop().iloc[0]
    assert (found["state"], found["reason"], found["code"]) == ("ended", "stopped", 137)
    assert program.stop().iloc[0]["reason"] == "stopped", "harmless when it has ended"


def test_killed_shell_is_lost_and_a_vm_without_it_says_so(start: Start) -> None:
    program = start("exec sleep 300")
    state = (Path(program.path) / "state").read_text().split()
    os.kill(int(state[0]), signal.SIGKILL)
    os.killpg(int(state[3]), signal.SIGKILL)
    deadline = time.monotonic() + 5  # a busy machine takes a while to end a process
    while row(program)["state"] == "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    found = row(program)
    assert (found["state"], found["code"]) == ("lost", None)
    assert math.isnan(found["seconds"])
    assert program.done
    shutil.rmtree(program.path)
    assert row(program)["state"] == "absent"


def test_recycled_process_id_is_not_taken_for_it(start: Start) -> None:
    program = start("exit 0")
    assert program.wait(10)
    (Path(program.path) / "end").unlink()
    (Path(program.path) / "state").write_text(f"{os.getpid()} 1 0 1\n")
    assert row(program)["state"] == "lost"


def test_unreachable_vm_is_unknown_and_not_over(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    program = start("exit 0", ["vm-2"])
    monkeypatch.setattr(LocalCommands, "unreachable", frozenset({"vm-2"}))
    found = row(program)
    assert (found["state"], found["reason"]) == ("unknown", "unreachable: no response")
    assert not program.done


def test_started_twice_it_runs_once(start: Start, context: SimpleNamespace, tmp_path: Path) -> None:
    program = start(f"echo x >>{tmp_path}/times; sleep 0.3")
    arguments = [program.path, "60", "1000", f"echo x >>{tmp_path}/times", programs._SUPERVISE]
    assert LocalCommands().run(["vm-1"], ["sh", "-c", programs._START, "sh", *arguments])["vm-1"].ok
    assert program.wait(10)
    assert (tmp_path / "times").read_text() == "x\n"


def test_programs_of_a_run_are_found_again(start: Start, context: SimpleNamespace) -> None:
    first = start("exit 0")
    context.journal.busy = True  # another process measures
    second = start("exit 1", ["vm-2"], None)
    assert [event.subject for event in inbox.waiting(context.run.path)] == [second.name]
    found = programs.programs(lambda: context, context.run, context.journal)
    assert [(one.name, one.command, one.vms) for one in found] == [
        (first.name, "exit 0", ("vm-1",)),
        (second.name, "exit 1", ("vm-2",)),
    ]
    assert "exit 1" in repr(found[1])
    context.journal.state.released = True
    with pytest.raises(PhaseOrderError, match="has released its machines"):
        found[0].status()


def test_bad_input_starts_nothing(start: Start, context: SimpleNamespace) -> None:
    for command, names, timeout in (("", None, 1), ("x", ["vm-9"], 1), ("x", None, 0), ("x", None, "1")):
        with pytest.raises(SpecError):
            start(command, names, timeout)  # type: ignore[arg-type]
    assert not context.journal.events
