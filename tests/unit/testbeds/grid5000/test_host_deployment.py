"""Deploying hosts with Kadeploy3: how often it is tried, and how long."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import execo_g5k
import pytest

from g5kvirt.testbeds.grid5000 import kadeploy

NAMES = ("gros-1.nancy.grid5000.fr", "gros-2.nancy.grid5000.fr")


class Client:
    """Kadeploy3's client: it takes ``seconds``, or until its time-out, and deploys all but ``failing``."""

    seconds = 0.0
    failing: tuple[str, ...] = ()
    made: list[Client]

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.process = SimpleNamespace(
            timeout=None, timeouted=False, stdout="", stderr="", running=False, kill=lambda: None
        )
        self.processes = [self.process]
        self.made.append(self)

    def start(self) -> None:
        self.start_time = time.monotonic()

    def wait(self, timeout: float) -> None:
        time.sleep(min(self.seconds, self.process.timeout, timeout))
        self.process.timeouted = self.seconds > self.process.timeout

    @property
    def deployed_hosts(self) -> list[str]:
        return [] if self.process.timeouted else [name for name in self.names if name not in self.failing]

    @property
    def undeployed_hosts(self) -> list[str]:
        return [name for name in self.names if name not in self.deployed_hosts]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    monkeypatch.setattr(Client, "made", [], raising=False)
    monkeypatch.setattr(execo_g5k, "Kadeployer", Client)
    return Client


def deploy(timeout: float) -> tuple[dict[str, str], float]:
    """The nodes that failed, and the seconds that it took."""
    start = time.monotonic()

    def make(names: Sequence[str]) -> Any:
        return names

    failed = kadeploy.deploy({"nancy": NAMES}, make, tries=2, timeout=timeout)
    return failed, time.monotonic() - start


def test_nodes_that_fail_are_tried_once_more(client: type[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "failing", NAMES[:1])
    failed, _ = deploy(60.0)
    assert set(failed) == {NAMES[0]}
    assert [list(one.names) for one in client.made] == [list(NAMES), [NAMES[0]]]
    assert client.made[1].process.timeout == pytest.approx(60.0, abs=1.0)


def test_site_that_hangs_costs_the_time_out_once(
    client: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "seconds", 60.0)
    failed, took = deploy(1.0)
    assert set(failed) == set(NAMES)
    assert all("did not finish within 1 s" in reason for reason in failed.values())
    assert took < 1.5
    assert len(client.made) == 1


def test_second_try_has_what_is_left(client: type[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "seconds", 1.0)
    monkeypatch.setattr(client, "failing", NAMES)
    failed, took = deploy(6.5)
    assert set(failed) == set(NAMES)
    first, second = (one.process.timeout for one in client.made)
    assert (first, second) == (pytest.approx(6.5, abs=0.3), pytest.approx(5.5, abs=0.3))
    assert took < 7
