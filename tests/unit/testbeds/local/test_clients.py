"""Configurations for other programs: readable by their owner only, and read back as those programs do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from g5kvirt import cli
from g5kvirt.errors import TestbedError
from g5kvirt.testbeds.described import description
from g5kvirt.testbeds.local import clients
from g5kvirt.testbeds.local import namespaces as ns
from g5kvirt.testbeds.local import state as states
from g5kvirt.testbeds.local.state import State

PASSWORD = "a b'\"\\: {é}@/#%"


def a_state(pid: int) -> State:
    plain = description.make({"nancy": 1}).to_plain()
    start_time = ns.start_time(pid) or 0
    return State("mine", pid, start_time, "http://127.0.0.1:7/3.0", "g5k", PASSWORD, plain, 0.0)


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    monkeypatch.setattr(states, "RUNTIME", tmp_path)
    found = a_state(os.getpid())
    found.directory.mkdir()
    monkeypatch.setattr(State, "load", classmethod(lambda cls, name=None: found))
    return found


def test_each_program_reads_the_password_back(up: State) -> None:
    made = clients.write_configurations()
    read = yaml.safe_load(made.python_grid5000.read_text())
    assert read == {"uri": up.api_uri, "username": "g5k", "password": PASSWORD, "timeout": 120}
    found: dict[str, Any] = {}
    exec(made.execo.read_text(), found)  # as execo does
    uri = found["g5k_configuration"]["api_uri"]
    assert uri.startswith("http://g5k:a%20b%27%22%5C%3A%20%7B%C3%A9%7D%40%2F%23%25@127.0.0.1:7/3.0")
    for name in ("default_connection_params", "default_frontend_connection_params"):
        assert found[name]["ssh_options"][:2] == ("-F", str(up.ssh_config))


def test_only_the_owner_may_read_them(up: State) -> None:
    for _ in range(2):  # again over the first ones
        made = clients.write_configurations()
    assert made.directory.stat().st_mode & 0o777 == 0o700
    files = list(made.directory.iterdir())
    assert len(files) == 2
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_the_command_names_everything_but_the_password(up: State, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["local", "clients"]) == 0
    printed = capsys.readouterr().out
    for needed in (up.api_uri, "g5k", str(up.ssh_config), str(up.directory / "clients"), "nancy.grid5000.fr"):
        assert needed in printed
    assert PASSWORD not in printed
    assert "%27" not in printed


def test_a_testbed_that_has_ended_has_no_clients(up: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ns, "start_time", lambda pid: None)
    with pytest.raises(TestbedError, match="has ended"):
        clients.write_configurations("mine")
    assert not (up.directory / "clients").exists()
