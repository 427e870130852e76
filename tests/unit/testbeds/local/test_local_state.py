"""Names, keys and ways of a testbed that is up; finding one that is not."""

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
from g5kvirt.testbeds.local import lifecycle, proxy, state
from g5kvirt.testbeds.local import namespaces as ns
from g5kvirt.testbeds.local.description import make

DESCRIPTION = make({"nancy": 3, "rennes": 2})
TEXT = state.hosts_text(DESCRIPTION)


@given(st.sampled_from(sorted(DESCRIPTION.names())))
def test_proxy_finds_every_name(name: str) -> None:
    assert proxy.lookup(TEXT, name) == str(DESCRIPTION.names()[name])
    assert proxy.lookup(TEXT, name.upper()) == str(DESCRIPTION.names()[name])


@given(st.sampled_from(sorted(DESCRIPTION.names())), st.data())
def test_proxy_finds_no_part_of_a_name(name: str, data: st.DataObject) -> None:
    cut = name[data.draw(st.integers(1, len(name) - 1)) :]
    assert proxy.lookup(TEXT, cut) == (str(DESCRIPTION.names()[cut]) if cut in DESCRIPTION.names() else None)
    assert proxy.lookup(TEXT, name[:-1]) is None


@pytest.mark.parametrize("name", ["", "10.0.7.1", "debian.org", "graphene-4.nancy.grid5000.fr", "# 1"])
def test_proxy_refuses_what_is_no_name(name: str) -> None:
    assert proxy.lookup(TEXT, name) is None


def test_proxy_says_what_is_wrong(tmp_path: Path) -> None:
    assert proxy.main(f"{tmp_path}/none", "nancy.grid5000.fr", "22") == "testbed 'none' is not up"
    (tmp_path / "names").write_text(f"# {os.getpid()} 1\n{TEXT}")
    refused = proxy.main(str(tmp_path), "example.org", "22")
    assert refused is not None
    assert "example.org is not a name of the local testbed" in refused
    # A process with this pid there is, but it is not the one that was meant.
    gone = proxy.main(str(tmp_path), "nancy.grid5000.fr", "22")
    assert gone == f"testbed '{tmp_path.name}' is not up any more"


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
def test_ssh_understands_the_configuration(tmp_path: Path, host: str, user: str) -> None:
    where = tmp_path / "a b%"  # what may stand in a path
    where.mkdir()
    (where / "ssh_config").write_text(state.ssh_config(where))
    words = ["ssh", "-G", "-F", str(where / "ssh_config"), host]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    values = dict(line.partition(" ")[::2] for line in done.stdout.splitlines())
    assert values["user"] == user
    assert values["proxyusefdpass"] == "yes"
    assert values["userknownhostsfile"] == "/dev/null"


def test_names_of_testbeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert state.directory().name == "local"
    monkeypatch.setenv("SUDO_USER", "Ada.L")
    assert state.directory().name == "local-ada-l"
    for bad in ("../etc", "Local", "a/b", "1", "x" * 33, ""):
        with pytest.raises(SpecError, match="cannot name a testbed"):
            state.directory(bad)


def test_state_survives_writing_and_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    with pytest.raises(TestbedError, match=r"'two' is not up: g5kvirt local up --name two\."):
        state.State.load("two")
    (tmp_path / "one/state.json").write_text("{")
    with pytest.raises(TestbedError, match="cannot be read"):
        state.State.load("one")


def test_start_time_of_nobody() -> None:
    child = subprocess.Popen(["true"])
    pid = child.pid
    child.wait()
    assert ns.start_time(pid) is None


def test_without_root_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MachineError, match="needs root"):
        lifecycle.up("unit-never")
    with pytest.raises(MachineError, match="needs root"):
        lifecycle.down("unit-never")


def test_without_root_nobody_knows_how_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(state, "RUNTIME", tmp_path)
    (tmp_path / "unit").mkdir()
    assert str(lifecycle.status("unit")).startswith("testbed unit: unknown – it belongs to root")


def test_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "RUNTIME", tmp_path)
    monkeypatch.setattr(lifecycle, "_LOCK_TIMEOUT", 0.1)
    where = tmp_path / "one"
    with (
        lifecycle._locked(where),
        pytest.raises(TestbedError, match="by somebody else"),
        lifecycle._locked(where),
    ):
        pass
    with lifecycle._locked(where):
        assert lifecycle._clear(where) is False
    assert not where.exists()


def test_a_lock_that_was_removed_while_waiting_is_not_trusted(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    fd = os.open(lock, os.O_RDWR)
    try:
        assert lifecycle._same(fd, lock)
        lock.unlink()
        assert not lifecycle._same(fd, lock)
        other = tmp_path / "other"
        other.touch()
        other.rename(lock)
        assert not lifecycle._same(fd, lock)
    finally:
        os.close(fd)


def test_a_testbed_that_was_not_raised_to_the_end_is_no_good() -> None:
    one = state.State("none", 1, 1, "http://127.0.0.1:1/stable", "g5k", "p", DESCRIPTION.to_plain(), 1.0)
    assert lifecycle._unhealthy(one) == "it was never raised to the end"
