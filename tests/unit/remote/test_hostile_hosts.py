"""Hosts that somebody else has taken over: what they answer costs them their connection, and nobody else.

Each host is a Python program in the place of the agent. Beside it a good one is called, whose answer
must come.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from g5kvirt.remote import connections
from g5kvirt.remote.access import Access
from g5kvirt.remote.connections import Program
from g5kvirt.remote.sessions import Sessions

#: What all hosts can do: say a line, and read a call.
HOST = """
import json, os, sys, time
def say(**message): os.write(1, json.dumps(message).encode() + b"\\n")
def take(): return json.loads(sys.stdin.readline())
def endlessly(descriptor, data):
    while True: os.write(descriptor, data)
say(ready=True)
"""
GOOD = """
while True:
    number = take()["id"]
    say(id=number, begun=True); say(id=number, out="fine\\n"); say(id=number, code=0, err="", late=False)
"""
BEGUN = 'number = take()["id"]; say(id=number, begun=True)\n'

#: What a host does → what is said of it.
HOSTILE = {
    "a line without an end": (BEGUN + 'endlessly(1, b"x" * 65536)', "a message of more than"),
    "output without an end": (
        BEGUN + 'endlessly(1, json.dumps({"id": number, "out": "y" * 60000}).encode() + b"\\n")',
        "of output",
    ),
    "begun again and again": (
        BEGUN + "while True: say(id=number, begun=True); time.sleep(0.05)",
        "timed out",
    ),
    "ready again and again": (
        "while True: say(ready=True)",
        "ready a second time",
    ),
    "it asks for the archive for ever": ("while True: say(send=True)", "a second time"),
    "numbers that nobody has": (
        BEGUN
        + 'endlessly(1, b"".join(b\'{"id": %d, "out": "z"}\\n\' % n for n in range(10**9, 10**9 + 500)))',
        "calls that it does not have",
    ),
    "no exit code": (
        BEGUN + 'say(id=number, code="9" * 5000, err="", late=False)',
        "exit code of another form",
    ),
    "an exit code without end": (
        BEGUN + 'say(id=number, code=10**4000, err="", late=False)',
        "exit code of another",
    ),
    "no number": (BEGUN + 'say(id="x", out="")', "cannot be read"),
    "a number beyond all numbers": (BEGUN + "os.write(1, b'{\"id\": 1e999}\\n')", "cannot be read"),
    "nothing of ours": (BEGUN + "say()", "cannot be read"),
    "a list": (BEGUN + 'os.write(1, b"[1]\\n")', "cannot be read"),
    "deeply nested": (BEGUN + 'os.write(1, b"[" * 200000 + b"\\n")', "cannot be read"),
    "half of a surrogate": (
        BEGUN + 'os.write(1, b\'{"id": %d, "out": "\\\\ud800"}\\n\' % number)',
        "cannot be read",
    ),
    "no UTF-8": (BEGUN + 'os.write(1, b\'{"id": 1, "out": "\\xff"}\\n\')', "cannot be read"),
    "its output is closed": (BEGUN + "os.close(1); time.sleep(60)", "connection lost"),
    "its output is closed amid errors": (
        BEGUN + 'os.close(1); endlessly(2, b"e" * 65536)',
        "connection lost",
    ),
    "errors without an end": (BEGUN + 'endlessly(2, b"e" * 65536)', "standard error"),
}


class Hosts:
    """Runs a host's program on this machine; counts the logins."""

    login_timeout = 20.0
    key = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = {"good": GOOD}
        self.logins = 0

    def argv(self, host: str, command: str) -> list[str]:
        self.logins += 1
        file = self.folder / f"{host}.py"
        file.write_text(HOST + self.programs[host])
        return [sys.executable, "-I", "-S", str(file)]

    def environment(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin"}


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    monkeypatch.setattr(connections, "KILL_AFTER", 0.3)
    monkeypatch.setattr(connections, "REPLY_SECONDS", 0.3)
    monkeypatch.setattr(connections, "MOST_OUTPUT", 16 << 20)
    return Hosts(tmp_path)


@pytest.fixture
def sessions(hosts: Hosts) -> Iterator[Sessions]:
    one = Sessions(cast(Access, hosts), Program("", lambda: b"a" * 200_000), window=8, attempts=2)
    yield one
    one.close()


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_host_costs_itself_alone(hosts: Hosts, sessions: Sessions, what: str) -> None:
    program, reason = HOSTILE[what]
    hosts.programs["bad"] = program
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    found = sessions.call({"bad": b"", "good": b""}, timeout=3, idempotent=False)
    assert time.monotonic() - start < 12
    assert found["good"].text == "fine\n"
    assert not found["bad"].ok
    assert reason in found["bad"].reason
    assert "\n" not in found["bad"].reason
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    assert grown < 250, f"{grown} MiB"
    again = sessions.call({"good": b""}, timeout=5, idempotent=False)
    assert again["good"].text == "fine\n"
