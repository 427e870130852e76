"""Output of any size from hosts, with an ssh that runs the command here."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import IO

import pytest

from g5kvirt.remote import Access
from g5kvirt.remote.download import download

#: Runs the command; a host named ``late`` refuses the first two connections, ``shut`` all of them.
SSH = """#!/bin/sh
for word; do previous=$host; host=$last; last=$word; done
case $host in
    shut*) echo "ssh: connect to host: Connection refused" >&2; exit 255;;
    late*) echo x >>"$COUNT"; [ $(wc -l <"$COUNT") -gt 2 ] || { echo "Connection refused" >&2; exit 255; };;
esac
exec sh -c "$last"
"""


@pytest.fixture(autouse=True)
def _ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh").write_text(SSH)
    (tmp_path / "bin/ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))


def digest(_: str, stream: IO[bytes]) -> tuple[int, str]:
    data = stream.read()
    return len(data), hashlib.sha256(data).hexdigest()


def test_output_of_each_host_is_read_whole() -> None:
    size = 3_000_001
    command = ["sh", "-c", f"echo note >&2; head -c {size} /dev/zero"]
    found = download(Access(), dict.fromkeys(["a", "b", "late"], command), digest, timeout=20)
    expected = (size, hashlib.sha256(bytes(size)).hexdigest())
    assert {host: value for host, (_, value) in found.items()} == dict.fromkeys(("a", "b", "late"), expected)
    assert all(result.ok and result.stderr == b"note\n" for result, _ in found.values())
    assert found["late"][0].attempt == 3


def test_failures_are_those_of_their_host() -> None:
    commands = {
        "bad": ["sh", "-c", "echo part; echo sorry >&2; exit 4"],
        "shut": ["true"],
        "slow": ["sh", "-c", "echo begun; sleep 30"],
        "fine": ["echo", "whole"],
    }
    start = time.monotonic()
    found = download(Access(connect_timeout=1), commands, lambda _, stream: stream.read(), timeout=1)
    assert time.monotonic() - start < 20
    result, value = found["bad"]
    assert (result.returncode, result.reason, value) == (4, "exit code 4 (sorry)", b"part\n")
    assert found["shut"][0].reason.startswith("unreachable: the host refuses connections")
    assert found["shut"][1] is None, "the command did not begin"
    assert found["slow"][0].reason == "timed out: ended after 1 s"
    assert found["fine"][1] == b"whole\n"


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_reader_that_fails_ends_the_command_at_once() -> None:
    def fail(_: str, stream: IO[bytes]) -> None:
        stream.read(5)
        raise ValueError("not what it should be")

    start = time.monotonic()
    found = download(Access(), {"a": ["sh", "-c", "yes"]}, fail, timeout=30)
    assert time.monotonic() - start < 10
    assert str(found["a"][1]) == "not what it should be"
    assert not found["a"][0].ok
