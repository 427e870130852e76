"""Calls to many agents at once: each machine has a reply, and a missing agent is sent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from g5kvirt.errors import PhaseError
from g5kvirt.hostagent import bundle, calls, protocol
from g5kvirt.inventory import Host
from g5kvirt.remote import File, Result
from g5kvirt.run.journal import Journal

HOSTS = [Host(f"h-{i}.nancy", "nancy", "h", 4, 1 << 30, address=f"h-{i}") for i in range(3)]
DOCUMENTS = {host: protocol.document(protocol.status(["vm-1"])) for host in HOSTS}


class Fanout:
    """Machines by their address: some without the agent, some that fail, some that answer nonsense."""

    keeps_connections = False

    def __init__(self, lacking: Iterable[str] = (), fates: Mapping[str, str] | None = None) -> None:
        self.lacking = set(lacking)
        self.fates = fates or {}
        self.commands: list[tuple[str, list[str]]] = []

    def run(
        self, hosts: Iterable[str], command: Sequence[str], *, stdin: Any, timeout: float, idempotent: bool
    ) -> dict[str, Result]:
        hosts = list(hosts)
        self.commands.append((command[0], hosts))
        if tuple(command) == bundle.INSTALL:
            assert stdin == bundle.archive()
            self.lacking -= {host for host in hosts if self.fates.get(host) != "full"}
            return {host: result(host) for host in hosts}
        assert tuple(command) == protocol.COMMAND
        assert set(stdin) == set(hosts)
        return {host: self.answer(host) for host in hosts}

    def put(self, hosts: Iterable[str], files: Sequence[File], *, timeout: float) -> dict[str, Result]:
        return {host: result(host, reason=self.fates.get(host, "")) for host in hosts}

    def answer(self, host: str) -> Result:
        if host in self.lacking:
            error = f"python3: can't open file '{bundle.DIRECTORY}': [Errno 2] No such file or directory\n"
            return result(host, code=2, reason="exit code 2", err=error)
        fate = self.fates.get(host, "")
        line = {"op": "status", "subject": "vm-1", "t": 1.0}
        if fate == "bad":
            return result(host, json.dumps({**line, "status": "failed", "detail": {"reason": "no vm"}}))
        if fate == "nonsense":
            return result(host, "Welcome\n")
        return result(host, json.dumps({**line, "status": "ok", "detail": {"state": "running"}}))


def result(host: str, out: str = "", code: int = 0, reason: str = "", err: str = "") -> Result:
    return Result(host, not reason, code, out.encode(), err.encode(), 1.0, 2.0, reason=reason)


def call(fanout: Fanout) -> dict[str, calls.AgentReply]:
    replies = calls.call_agents(fanout, DOCUMENTS, timeout=5)  # type: ignore[arg-type]
    assert [reply.host for reply in replies] == HOSTS
    return {reply.host.address: reply for reply in replies}


def test_each_machine_has_its_own_reply() -> None:
    fanout = Fanout(fates={"h-1": "bad", "h-2": "nonsense"})
    replies = call(fanout)
    assert [reply.ok for reply in replies.values()] == [True, False, False]
    assert replies["h-0"].answers[0].detail["state"] == "running"
    assert replies["h-1"].reason == "status of vm-1: no vm"
    assert "'Welcome'" in replies["h-2"].reason
    assert fanout.commands == [("python3", ["h-0", "h-1", "h-2"])], "one round trip"


def test_missing_agent_is_sent_and_called_again() -> None:
    fanout = Fanout(lacking=["h-1"])
    assert all(reply.ok for reply in call(fanout).values())
    assert fanout.commands[1:] == [("sh", ["h-1"]), ("python3", ["h-1"])]


def test_missing_agent_is_recognised_by_pythons_error() -> None:
    assert not Path(bundle.DIRECTORY).exists(), "this machine is no host"
    done = subprocess.run([sys.executable, *protocol.COMMAND[1:]], capture_output=True, check=False)
    missing = result("h-0", code=done.returncode, reason="exit code 2", err=done.stderr.decode())
    assert calls.agent_is_missing(missing)
    assert not calls.agent_is_missing(result("h-0", code=2, reason="exit code 2", err="cannot be read"))


def test_agent_that_cannot_be_installed_is_a_reply_with_a_reason() -> None:
    fanout = Fanout(lacking=["h-1"], fates={"h-1": "full"})
    assert [reply.reason for reply in call(fanout).values()] == ["", "exit code 2", ""]
    assert len(fanout.commands) == 3, "it is tried once"


def test_require_journals_every_machine_before_it_raises(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.jsonl")
    replies = list(call(Fanout(fates={"h-1": "bad"})).values())
    with pytest.raises(PhaseError, match=r"1 of 3 machines, first h-1\.nancy: status of vm-1") as e:
        calls.require(journal, "configure", "prepare", replies)
    assert (e.value.phase, e.value.step) == ("configure", "prepare")
    assert [(event.subject, event.status, event.t) for event in journal] == [
        (host.name, *end)
        for host in HOSTS
        for end in (("start", 1.0), ("failed" if host.address == "h-1" else "ok", 2.0))
    ]
    journal.close()


def test_send_files_journals_one_span_per_machine_and_names_the_failed_one(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.jsonl")
    with pytest.raises(
        PhaseError, match=r"image failed on 1 of 3 machines, first h-2\.nancy: disk full: call measure"
    ):
        calls.send_files(
            Fanout(fates={"h-2": "disk full"}),  # type: ignore[arg-type]
            journal,
            HOSTS,
            [File(b"", "/x")],
            step="image",
            phase="measure",
            timeout=5,
        )
    assert [e.status for e in journal if e.phase == "measure"] == ["start", "ok"] * 2 + ["start", "failed"]
    journal.close()
