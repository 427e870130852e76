"""Windowed ssh with a fake ssh that runs the command on this machine or fails as ssh does."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path

import pytest

from g5kvirt.errors import MachineError, SpecError
from g5kvirt.remote import Access, Fanout, Stream, window
from g5kvirt.remote.access import SshIdentity
from g5kvirt.remote.result import Failure, retry_delay

SSH = r"""#!/bin/sh
fail() { echo "$1" >&2; exit 255; }
while [ "$1" != -- ]; do shift; done
host=$2
command=$3
tries=$(cat "$COUNT/$host" 2>/dev/null || echo 0)
tries=$((tries + 1))
echo $tries >"$COUNT/$host"
case $host in
    refuses*)
        [ $tries -gt ${host#refuses} ] || fail 'kex_exchange_identification: Connection closed' ;;
    breaks) fail 'client_loop: send disconnect: Broken pipe' ;;
    key) fail 'root@key: Permission denied (publickey).' ;;
    hangs) exec sleep 60 ;;
    dies) (sleep 0.3; kill -9 $$) & ;;
esac
exec sh -c "$command"
"""


@pytest.fixture
def tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which the fake ssh counts the connections to each host."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(SSH)
    (tmp_path / "bin" / "ssh").chmod(0o755)
    (tmp_path / "count").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    monkeypatch.setattr(window, "retry_delay", _soon)
    monkeypatch.setattr(window, "DRAIN_SECONDS", 0.2)
    return tmp_path / "count"


def _soon(kind: Failure, attempt: int, attempts: int, idempotent: bool = False) -> float | None:
    delay = retry_delay(kind, attempt, attempts, idempotent)
    return None if delay is None else delay / 50


def test_each_host_fails_with_its_own_reason(tries: Path) -> None:
    fanout = Fanout(Access(connect_timeout=0.5), window=3, tree_from=None)
    hosts = ["hangs", "good", "refuses2", "refuses9", "breaks", "key", "dies"]
    begun = time.monotonic()
    results = fanout.run(hosts, ["sh", "-c", "echo hi; sleep 1; exit 3"], timeout=10)
    assert time.monotonic() - begun < 10
    assert list(results) == hosts
    for host in ("good", "refuses2"):
        assert (results[host].returncode, results[host].text, results[host].reason) == (
            3,
            "hi\n",
            "exit code 3",
        )
    assert {host: result.attempt for host, result in results.items()} == {
        "hangs": 1, "good": 1, "refuses2": 3, "refuses9": 4, "breaks": 1, "key": 1, "dies": 1,
    }  # fmt: skip
    assert {host: int((tries / host).read_text()) for host in hosts} == {
        host: result.attempt for host, result in results.items()
    }
    assert results["hangs"].reason == "unreachable: no login within 1.5 s"
    assert results["refuses9"].reason.startswith("unreachable: the host refuses connections")
    assert results["key"].reason.startswith("the host rejects our SSH key")
    assert results["dies"].reason.startswith("connection lost while the command ran")
    assert [host for host, result in results.items() if result.started] == ["good", "refuses2", "dies"]
    assert not any(result.ok for result in results.values())


def test_idempotent_command_is_retried_after_a_broken_connection(tries: Path) -> None:
    fanout = Fanout(Access(connect_timeout=5), tree_from=None, attempts=3)
    results = fanout.run(["breaks", "dies"], ["sleep", "1"], timeout=10, idempotent=True)
    assert {host: int((tries / host).read_text()) for host in results} == {"breaks": 3, "dies": 3}


def test_hosts_get_common_individual_or_empty_input(tries: Path) -> None:
    fanout = Fanout(Access(), tree_from=None)
    hosts = [f"h{n}" for n in range(20)]
    big = bytes(range(256)) * 4096
    assert {r.stdout for r in fanout.run(hosts, ["cat"], stdin=big, timeout=20).values()} == {big}
    own = fanout.run(hosts, ["cat"], stdin={"h3": b"three", "h7": b""}, timeout=20)
    assert [host for host, result in own.items() if result.stdout] == ["h3"]
    empty = fanout.run(hosts, ["cat"], timeout=20)
    assert [(result.ok, result.stdout) for result in empty.values()] == [(True, b"")] * len(hosts)


def test_duplicate_host_is_contacted_once(tries: Path) -> None:
    assert list(Fanout(Access()).run(["a", "b", "a"], ["true"], timeout=5)) == ["a", "b"]
    assert (tries / "a").read_text() == "1\n"
    assert Fanout(Access()).run([], ["true"], timeout=5) == {}


def test_invalid_arguments_and_a_missing_ssh_raise(tries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for hosts, command, timeout, size in (
        (["-x"], ["true"], 5, 64),
        (["h"], [], 5, 64),
        (["h"], ["true"], 0, 64),
        (["h"], ["true"], 5, 0),
    ):
        with pytest.raises(SpecError):
            Fanout(Access(), window=size).run(hosts, command, timeout=timeout)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MachineError, match="ssh not found"):
        Fanout(Access()).run(["h"], ["true"], timeout=5)


def test_a_stream_whose_callback_raises_ends_with_its_error(tries: Path) -> None:
    def refuse(line: str, t: float) -> None:
        raise ArithmeticError(line)

    stream = Stream(Access(), "h", ["sh", "-c", "echo x; cat"], on_line=refuse)
    deadline = time.monotonic() + 5
    while stream.alive and time.monotonic() < deadline:
        time.sleep(0.01)
    assert isinstance(stream.error, ArithmeticError)
    assert "ArithmeticError" in stream.close().reason


def test_a_stream_that_never_logs_in_ends(tries: Path) -> None:
    begun = time.monotonic()
    assert list(Stream(Access(connect_timeout=0.2), "hangs", ["cat"])) == []
    assert time.monotonic() - begun < 5


needs_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="needs openssh-client")


@needs_ssh
def test_server_that_sends_no_banner_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        access = Access(ssh_config=Path("/dev/null"), connect_timeout=1, options=(f"Port={port}",))
        begun = time.monotonic()
        result = Fanout(access).run(["127.0.0.1"], ["true"], timeout=5)["127.0.0.1"]
        assert time.monotonic() - begun < 5
    assert result.reason.startswith("unreachable: no response")
    assert (result.started, result.returncode, result.attempt) == (False, None, 1)


@needs_ssh
def test_connection_to_a_closed_port_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "retry_delay", _soon)
    with socket.create_server(("127.0.0.1", 0)) as once:
        port = once.getsockname()[1]
    access = Access(ssh_config=Path("/dev/null"), connect_timeout=5, options=(f"Port={port}",))
    result = Fanout(access).run(["127.0.0.1"], ["true"], timeout=5)["127.0.0.1"]
    assert result.reason.startswith(
        "unreachable: the host refuses connections (ssh: connect to host 127.0.0.1"
    )
    assert result.attempt == 4


@needs_ssh
def test_identity_has_the_user_and_keys_of_the_ssh_configuration(tmp_path: Path) -> None:
    (tmp_path / "key").touch()
    (tmp_path / "config").write_text(f"Host h*\n User someone\n IdentityFile {tmp_path}/key\n")
    assert Access(None, tmp_path / "config").identity("h1") == SshIdentity("someone", (tmp_path / "key",))
    (tmp_path / "config").write_text("Nonsense here\n")
    with pytest.raises(MachineError, match="ssh rejects its configuration"):
        Access(None, tmp_path / "config").identity("h1")
