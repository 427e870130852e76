"""A host's logins to its guests, with an ssh that only pretends."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path

import pytest
from agent_calls import call

from g5kvirt.guests import commands
from g5kvirt.hostagent import protocol
from g5kvirt.hostagent.onhost import guest_ssh

#: Does what the address says; prints the key that it was given, and the rest of its arguments.
SSH = """#!/bin/sh
key=
for word; do
    case $previous in -i) key=$word;; esac
    previous=$word
    command=$word
done
shift $(($# - 2))
case $1 in
    10.0.0.1) [ -z "$key" ] || cat "$key"; stat -L -c %a "$key" 2>/dev/null; printf '%s\n' "$command" >&2;;
    10.0.0.2) echo "Connection refused" >&2; exit 255;;
    10.0.0.3) exec sleep 60;;
    10.0.0.4) printf 'a\\377b'; exit 3;;
    10.0.0.5) [ -e /tmp/$PPID.up ] || { touch /tmp/$PPID.up; echo "Connection refused" >&2; exit 255; }
        rm /tmp/$PPID.up; echo up;;
    10.0.0.6) exec yes;;
    10.0.0.7) cat; echo to you >&2;;
    10.0.1.*) echo begun; sleep 0.4;;
esac
"""


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh").write_text(SSH)
    (tmp_path / "bin/ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


pytestmark = pytest.mark.usefixtures("ssh")


def test_each_guest_has_its_own_end(home: Path) -> None:
    guests = {f"vm-{i}": f"10.0.0.{i}" for i in (1, 2, 3, 4)}
    start = time.monotonic()
    answers = call(home, protocol.ssh(guests, "true", options=["A=b"], limit=1.0, key="private\n"))
    assert 3.5 <= time.monotonic() - start < 8, "it refused four times"
    found = {answer.subject: answer.detail for answer in answers}
    assert all(answer.ok for answer in answers)
    assert (found["vm-1"]["code"], found["vm-1"]["err"]) == (0, "true\n")
    assert found["vm-1"]["out"] == "private\n600\n", "ssh takes no key that others may read"
    assert (found["vm-2"]["code"], found["vm-2"]["err"]) == (255, "Connection refused\n")
    assert found["vm-3"]["code"] is None
    assert 1.0 <= found["vm-3"]["seconds"] < 3
    assert found["vm-4"]["code"] == 3
    assert found["vm-4"]["out"].encode("utf-8", "surrogateescape") == b"a\xffb"


def test_guest_that_refuses_connections_is_tried_again(home: Path) -> None:
    start = time.monotonic()
    answers = call(home, protocol.ssh({"vm-5": "10.0.0.5"}, "true", options=[], limit=9.0, key="k"))
    assert answers[0].detail["out"] == "up\n"
    assert 0.5 <= time.monotonic() - start < 3


def test_guest_that_prints_without_pause_costs_no_other_its_result(home: Path) -> None:
    guests = {"vm-6": "10.0.0.6", **{f"vm-1{i}": f"10.0.1.{i}" for i in range(4)}}
    found = {
        a.subject: a.detail for a in call(home, protocol.ssh(guests, "true", options=[], limit=2.0, key="k"))
    }
    assert found["vm-6"]["code"] is None
    assert found["vm-6"]["seconds"] < 6
    assert [found[f"vm-1{i}"]["code"] for i in range(4)] == [0] * 4


def test_logins_at_once_are_limited_and_side_by_side(home: Path) -> None:
    guests = {f"vm-{i}": f"10.0.1.{i}" for i in range(8)}
    start = time.monotonic()
    answers = call(home, protocol.ssh(guests, "true", options=[], limit=9.0, key="k", at_once=4))
    assert 0.8 <= time.monotonic() - start < 2.5
    assert {answer.subject for answer in answers} == guests.keys()
    assert all(answer.detail["begun"] < answer.detail["seconds"] - 0.2 for answer in answers)


def test_host_without_a_forwarded_agent_refuses(home: Path) -> None:
    (answer,) = call(home, protocol.ssh({"vm-1": "10.0.0.1"}, "true", options=[], limit=9.0))
    assert (answer.ok, answer.reason) == (False, "no ssh agent is forwarded to this host")


def test_logins_do_not_wait_for_the_lock_of_the_host(home: Path) -> None:
    home.mkdir(exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (answer,) = call(home, protocol.ssh({"vm-1": "10.0.0.1"}, "true", options=[], limit=9.0, key="k"))
    assert answer.ok


def test_input_is_a_file_and_so_is_the_output(home: Path, tmp_path: Path) -> None:
    guests = {"vm-7": "10.0.0.7", "vm-8": "10.0.0.7"}
    (tmp_path / "input").write_bytes(b"a\0b" * 1000)
    files = {"input": str(tmp_path / "input"), "output": str(tmp_path / "output")}
    answers = call(home, protocol.ssh(guests, "true", options=[], limit=9.0, key="k", **files))
    assert {answer.subject for answer in answers} == {"vm-7", "vm-8"}
    for answer in answers:
        assert (answer.detail["out"], answer.detail["err"]) == ("", "to you\n")
        assert answer.detail["bytes"] == 3000
        assert (tmp_path / "output" / answer.subject).read_bytes() == b"a\0b" * 1000
    (tmp_path / "input").unlink()
    (answer,) = call(
        home, protocol.ssh({"vm-7": "10.0.0.7"}, "true", options=[], limit=9.0, key="k", **files)
    )
    assert "No such file" in answer.reason


def test_what_prints_without_end_is_cut_off(home: Path) -> None:
    order = protocol.ssh({"vm-6": "10.0.0.6"}, "true", options=[], limit=30.0, key="k", most=1 << 20)
    (answer,) = call(home, order)
    assert answer.detail["code"] is None
    assert answer.detail["stopped"].startswith("cut off: more than 1 MiB of output")
    assert len(answer.detail["out"]) == 1 << 20
    assert answer.detail["seconds"] < 15
    late = protocol.ssh({"vm-3": "10.0.0.3"}, "true", options=[], limit=1.0, key="k")
    assert call(home, late)[0].detail["stopped"] == "timed out: no end within 1 s"


def test_output_that_is_no_text_takes_little_more_than_its_bytes() -> None:
    for data in (bytes(1 << 20), b"\xff" * (1 << 20), os.urandom(1 << 20), "é".encode() * (1 << 19)):
        found = json.loads(json.dumps(guest_ssh.encoded("out", data)))
        assert len(json.dumps(json.dumps(found))) < 1.5 * len(data)
        assert commands._output(found, "out") == data
    assert guest_ssh.encoded("out", b"a line\n") == {"out": "a line\n"}
    assert commands._output({"out": "", "out64": "no base64!"}, "out") == b""


def test_outputs_leave_room_on_their_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = guest_ssh.Files(None, str(tmp_path / "output"))
    assert not files.are_full()
    monkeypatch.setattr(guest_ssh, "LEAST_ROOM", 1 << 60)
    assert files.are_full()
    assert not guest_ssh.Files(None, None).are_full()
