"""Names, ssh configuration, state file and status of a testbed, without starting one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.errors import MachineError, SpecError, TestbedError
from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local import lifecycle, proxy, state
from g5kvirt.testbeds.local import namespaces as ns

DESCRIPTION = make({"nancy": 3, "rennes": 2})
TEXT = state.hosts_text(DESCRIPTION)


@given(st.sampled_from(sorted(DESCRIPTION.names())))
def test_proxy_resolves_every_name(name: str) -> None:
    assert proxy.lookup(TEXT, name) == str(DESCRIPTION.names()[name])
    assert proxy.lookup(TEXT, name.upper()) == str(DESCRIPTION.names()[name])


@given(st.sampled_from(sorted(DESCRIPTION.names())), st.data())
def test_proxy_does_not_resolve_parts_of_names(name: str, data: st.DataObject) -> None:
    cut = name[data.draw(st.integers(1, len(name) - 1)) :]
    assert proxy.lookup(TEXT, cut) == (str(DESCRIPTION.names()[cut]) if cut in DESCRIPTION.names() else None)
    assert proxy.lookup(TEXT, name[:-1]) is None


@pytest.mark.parametrize("name", ["", "10.0.7.1", "debian.org", "graphene-4.nancy.grid5000.fr", "# 1"])
def test_proxy_rejects_unknown_names(name: str) -> None:
    assert proxy.lookup(TEXT, name) is None


def test_proxy_reports_errors(tmp_path: Path) -> None:
    me, no = str(os.getpid()), "1"
    assert proxy.main(f"{tmp_path}/none", me, no, "nancy.grid5000.fr", "22") == "testbed 'none' is not up"
    (tmp_path / "names").write_text(TEXT)
    refused = proxy.main(str(tmp_path), me, no, "example.org", "22")
    assert refused is not None
    assert "example.org is not a name of the local testbed" in refused
    # There is a process with this pid, but with another start time.
    gone = proxy.main(str(tmp_path), me, no, "nancy.grid5000.fr", "22")
    assert gone == f"testbed '{tmp_path.name}' is no longer up"


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs ssh")
@pytest.mark.parametrize(
    ("host", "user"),
    [
        ("nancy.grid5000.fr", "g5k"),
        ("graphene-1.nancy.grid5000.fr", "root"),
        ("graphene-1-kavlan-14.nancy.grid5000.fr", "root"),
        ("frontend.nancy.grid5000.fr", "g5k"),
    ],
)
def test_ssh_accepts_the_configuration(tmp_path: Path, host: str, user: str) -> None:
    where = tmp_path / "a b%"  # valid characters in a path
    where.mkdir()
    (where / "ssh_config").write_text(state.ssh_config(where, 12, 3456))
    command = ["ssh", "-G", "-F", str(where / "ssh_config"), host]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    values = dict(line.partition(" ")[::2] for line in done.stdout.splitlines())
    assert values["user"] == user
    assert values["proxyusefdpass"] == "no", "bash would read .bashrc for it"
    assert values["userknownhostsfile"] == "/dev/null"


def test_names_of_testbeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert state.directory().name == "local"
    monkeypatch.setenv("SUDO_USER", "Ada.L")
    assert state.directory().name == "local-ada-l"
    for bad in ("../etc", "Local", "a/b", "1", "x" * 33, ""):
        with pytest.raises(SpecError, match="is not a valid testbed name"):
            state.directory(bad)


def test_state_is_written_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "RUNTIME", tmp_path)
    me = os.getpid()
    began = ns.start_time(me)
    assert began is not None
    one = state.State("one", me, began, "http://127.0.0.1:1/stable", "g5k", "p", DESCRIPTION.to_plain(), 1.0)
    (tmp_path / "one").mkdir()
    state.write(tmp_path / "one/state.json", json.dumps(one.to_plain()))
    again = state.State.load("one")
    assert again == one
    assert again.alive
    assert again.description.names() == DESCRIPTION.names()
    with pytest.raises(TestbedError, match=r"'two' is not up: run g5kvirt local up --name two$"):
        state.State.load("two")
    (tmp_path / "one/state.json").write_text("{")
    with pytest.raises(TestbedError, match="cannot be read"):
        state.State.load("one")


def test_exited_process_has_no_start_time() -> None:
    child = subprocess.Popen(["true"])
    pid = child.pid
    child.wait()
    assert ns.start_time(pid) is None


def test_up_and_down_need_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MachineError, match="needs root"):
        lifecycle.up("unit-never")
    with pytest.raises(MachineError, match="needs root"):
        lifecycle.down("unit-never")


def test_status_is_unknown_without_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(state, "RUNTIME", tmp_path)
    (tmp_path / "unit").mkdir()
    assert str(lifecycle.status("unit")).startswith("testbed unit: unknown – it belongs to root")


def test_lock_is_exclusive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "RUNTIME", tmp_path)
    monkeypatch.setattr(lifecycle, "_LOCK_TIMEOUT", 0.1)
    where = tmp_path / "one"
    with (
        lifecycle._locked(where),
        pytest.raises(TestbedError, match="by another process"),
        lifecycle._locked(where),
    ):
        pass
    with lifecycle._locked(where):
        assert lifecycle._clear(where) is False
    assert not where.exists()


def test_replaced_lock_file_is_detected(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    fd = os.open(lock, os.O_RDWR)
    try:
        assert lifecycle._is_same_file(fd, lock)
        lock.unlink()
        assert not lifecycle._is_same_file(fd, lock)
        other = tmp_path / "other"
        other.touch()
        other.rename(lock)
        assert not lifecycle._is_same_file(fd, lock)
    finally:
        os.close(fd)


def test_interrupted_start_is_reported() -> None:
    one = state.State("none", 1, 1, "http://127.0.0.1:1/stable", "g5k", "p", DESCRIPTION.to_plain(), 1.0)
    assert lifecycle._health_problem(one) == "its start was interrupted"
