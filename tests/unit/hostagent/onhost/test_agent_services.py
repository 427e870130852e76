"""Services under their supervisor."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import agent_copy
import pytest
from agent_calls import call

from g5kvirt.hostagent import bundle, protocol
from g5kvirt.hostagent.onhost import supervisor
from g5kvirt.hostagent.onhost.child import Child
from g5kvirt.hostagent.onhost.processes import start_time


def service(path: Path, content: str, command: list[str], **more: Any) -> dict[str, Any]:
    return protocol.serve("s", command=command, files=[protocol.file(str(path), content)], **more)


def test_service_runs_is_unchanged_restarts_and_ends(home: Path, tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    order = service(conf, "one\n", ["sh", "-c", f"cat {conf}; exec sleep 100"], ready_log="one")
    (first,) = call(home, order)
    assert first.ok, first.reason
    (second,) = call(home, order)
    assert second.unchanged
    assert second.detail["pid"] == first.detail["pid"]
    (third,) = call(
        home, service(conf, "two\n", ["sh", "-c", f"cat {conf}; exec sleep 100"], ready_log="two")
    )
    assert third.ok, third.reason
    assert third.detail["child"] != first.detail["child"]
    log = Path(protocol.service_log("s", str(home))).read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in log] == ["one", "two"]
    assert abs(float(log[0].split()[0]) - time.time()) < 60
    (ended,) = call(home, protocol.stop_service())
    assert ended.ok
    assert start_time(third.detail["child"]) is None
    assert start_time(third.detail["pid"]) is None
    assert call(home, protocol.stop_service())[0].unchanged


def relay(tmp_path: Path) -> dict[str, Any]:
    """The order for a relay that has its image already."""
    image = tmp_path / "image"
    image.write_bytes(b"image")
    job = {
        "host": "h-1",
        "sha256": hashlib.sha256(b"image").hexdigest(),
        "size": 5,
        "token": "0" * 16,
        "source": str(image),
    }
    command = ["python3", "-I", "-S", str(agent_copy.directory()), "relay", "run", str(tmp_path / "c")]
    return service(tmp_path / "c", json.dumps(job), command, ready_log='"state": "ok"')


@pytest.mark.parametrize("kind", ["program", "relay"])
def test_killed_service_is_started_again(home: Path, tmp_path: Path, kind: str) -> None:
    program = service(tmp_path / "c", "", ["sh", "-c", "echo up; exec sleep 100"], ready_log="up")
    order = program if kind == "program" else relay(tmp_path)
    (started,) = call(home, order)
    assert started.ok, started.reason
    name = Path(f"/proc/{started.detail['child']}/comm").read_text().strip()
    assert name == ("sleep" if kind == "program" else "g5kvirt-s"), "a relay is a fork, not another Python"
    os.kill(started.detail["child"], signal.SIGKILL)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        (now,) = call(home, protocol.services())
        if now.detail["state"] == "running" and now.detail["child"] != started.detail["child"]:
            break
        time.sleep(0.05)
    else:
        pytest.fail(f"the service did not come back: {now}")
    assert now.detail["starts"] == 2
    assert now.detail["last_exit"] == -signal.SIGKILL
    os.kill(started.detail["pid"], signal.SIGKILL)  # the supervisor too: its child must not outlive it
    deadline = time.monotonic() + 20
    while start_time(now.detail["child"]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert start_time(now.detail["child"]) is None
    (again,) = call(home, order)
    assert again.ok, again.reason


def test_service_keeps_running_when_a_newer_agent_arrives(home: Path, tmp_path: Path) -> None:
    order = service(tmp_path / "c", "", ["sh", "-c", "echo up; exec sleep 100"], ready_log="up")
    (started,) = call(home, order)
    newer = bundle.unpack(tmp_path / "newer")
    (newer / "onhost" / "clock.py").write_text("import time\n\nCALL_START = time.time()  # newer\n")
    words = [*agent_copy.argv()[:-1], str(newer)]
    document = protocol.document(order, protocol.services(), home=str(home))
    done = subprocess.run(words, input=document, capture_output=True, timeout=60, check=True)
    again, state = protocol.parse(done.stdout)
    assert again.unchanged
    assert (state.detail["state"], state.detail["child"]) == ("running", started.detail["child"])
    supervisor = Path(f"/proc/{started.detail['pid']}/cmdline").read_bytes().split(b"\0")
    assert os.fsencode(agent_copy.directory()) in supervisor, "the version that started it"


def test_service_ends_when_its_time_is_over_and_is_not_started_again(home: Path, tmp_path: Path) -> None:
    command = ["sh", "-c", "echo up; exec sleep 100"]
    (tmp_path / "spec.json").write_text(json.dumps({"command": command, "until": time.time()}))
    program = "from onhost.supervisor import supervise; supervise(sys.argv[2], lambda _: None)"
    words = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, sys.argv[1]); {program}"]
    done = subprocess.run([*words, str(agent_copy.directory()), str(tmp_path)], timeout=60, check=False)
    assert done.returncode == 0
    state = json.loads((tmp_path / "state.json").read_text())
    assert state["starts"] == 1
    assert start_time(state["child"]) is None
    assert "supervisor: its time limit is over" in (tmp_path / "log").read_text()

    order = service(tmp_path / "c", "", command, ready_log="up", until=time.time() - 5)
    (late,) = call(home, order)
    assert not late.ok
    assert "its time limit ended" in late.reason
    order["until"] = time.time() + 600
    (started,) = call(home, order)
    assert started.ok, started.reason
    assert call(home, order)[0].unchanged


def test_end_of_a_service_is_put_off_without_a_restart(home: Path, tmp_path: Path) -> None:
    command = ["sh", "-c", "echo up; exec sleep 100"]
    order = service(tmp_path / "c", "", command, ready_log="up", until=time.time() + 4)
    (first,) = call(home, order)
    later = {**order, "files": [], "check": [], "until": time.time() + 600}
    (same,) = call(home, later)
    assert same.unchanged
    time.sleep(5)
    (state,) = call(home, protocol.services())
    assert (state.detail["state"], state.detail["child"]) == ("running", first.detail["child"])
    sooner = {**later, "until": time.time() + 500}
    assert call(home, sooner)[0].detail["child"] != first.detail["child"], "an earlier end is a new service"


def test_program_that_fails_at_once_is_not_started_again_and_again(home: Path, tmp_path: Path) -> None:
    command = ["sh", "-c", f"echo x >>{tmp_path}/starts; exit 1"]
    call(home, service(tmp_path / "c", "", command, ready_log="up", limit=2.0))
    call(home, protocol.stop_service())
    assert len((tmp_path / "starts").read_text().split()) <= 5, "after 0.2, 0.4, 0.8 and 1.6 s"


def test_refused_configuration_changes_nothing(home: Path, tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    check = [["sh", "-c", f"grep -q good {conf} || {{ echo no good; exit 1; }}"]]
    command = ["sh", "-c", "echo up; exec sleep 100"]
    (first,) = call(home, service(conf, "good", command, check=check, ready_log="up"))
    (refused,) = call(home, service(conf, "bad", command, check=check, ready_log="up"))
    assert not refused.ok
    assert "no good" in refused.reason
    assert conf.read_text() == "good"
    assert call(home, protocol.services())[0].detail["child"] == first.detail["child"]


def test_service_that_is_not_ready_gives_the_end_of_its_log(home: Path, tmp_path: Path) -> None:
    order = service(tmp_path / "c", "", ["sh", "-c", "echo cannot bind; exit 1"], ready_log="up", limit=1.0)
    (answer,) = call(home, order)
    assert not answer.ok
    assert "cannot bind" in answer.reason


#: A program that writes its own log, and opens it again at SIGUSR1 as nginx does.
OWN_LOG = """
import signal, sys, time
log = open(sys.argv[1], "a", buffering=1)
def reopen(*_):
    global log
    log = open(sys.argv[1], "a", buffering=1)
signal.signal(signal.SIGUSR1, reopen)
for number in range(int(sys.argv[2])):
    log.write(f"line {number}\\n")
    time.sleep(0.01)
"""


def test_a_log_that_a_service_writes_itself_has_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "access.log"
    monkeypatch.setattr(supervisor, "OWN_LOG_LIMIT", 400)
    monkeypatch.setattr(supervisor, "OWN_LOG_PAUSE", 0.05)
    child = Child([sys.executable, "-c", OWN_LOG, str(own), "100"])
    wake, waker = os.pipe()
    os.set_blocking(wake, False)
    try:
        until = supervisor.Deadline(str(tmp_path / "none"))
        assert supervisor.run_until_end(child, wake, str(tmp_path / "log"), until, [str(own)]) == (
            False,
            False,
        )
    finally:
        os.close(wake)
        os.close(waker)
    older = Path(f"{own}.1").read_text().splitlines()
    newer = own.read_text().splitlines()
    assert 0 < own.stat().st_size < 800
    assert older + newer == [f"line {number}" for number in range(100)][-len(older + newer) :], (
        "no line is lost"
    )


def test_a_full_disk_costs_lines_and_not_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(supervisor, "open", full, raising=False)
    monkeypatch.setattr(supervisor, "write_text", full)
    supervisor.log_lines(str(tmp_path / "log"), ["a line"])
    supervisor.save_state(str(tmp_path), {"pid": 1})
    own = tmp_path / "own"
    own.write_text("x" * 10)
    monkeypatch.setattr(supervisor, "OWN_LOG_LIMIT", 1)
    monkeypatch.setattr(supervisor.os, "replace", full)
    supervisor.put_aside([str(own)])
