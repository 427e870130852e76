"""Deploying hosts with Kadeploy3: how often it is tried, and how long."""

from __future__ import annotations

import time

import pytest

from g5kvirt.testbeds.grid5000 import kadeploy

NAMES = ("gros-1.nancy.grid5000.fr", "gros-2.nancy.grid5000.fr")


class Client:
    """Kadeploy3's client: it takes ``seconds``, or until its time-out, and deploys all but ``failing``."""

    seconds = 0.0
    failing: tuple[str, ...] = ()
    made: list[Client]

    def __init__(self, site: str, command: str, timeout: float, *, live: bool) -> None:
        assert live, "what a client that is killed has printed must have come"
        self.names = command.split()
        self.timeout, self.timeouted = timeout, False
        self.stdout = self.stderr = ""
        self.exit_code, self.running = 0, False
        self.made.append(self)

    def wait(self, timeout: float) -> None:
        time.sleep(min(self.seconds, self.timeout, timeout))
        self.timeouted = self.seconds > self.timeout
        done = [name for name in self.names if name not in self.failing]
        failed = [f"{name} (no disk)" for name in self.names if name in self.failing]
        lines = ["The deployment is successful on nodes", *done, "The deployment failed on nodes", *failed]
        end = [] if self.timeouted else [*lines, "g5kvirt-end:0"]
        self.stdout = "\r\n".join(["2 users", "g5kvirt-begin:", *end, "bye", ""])


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    monkeypatch.setattr(Client, "made", [], raising=False)
    monkeypatch.setattr(kadeploy, "start_on_frontend", Client)
    return Client


def deploy(timeout: float) -> tuple[dict[str, str], float]:
    """The nodes that failed, and the seconds that it took."""
    start = time.monotonic()

    failed = kadeploy.deploy({"nancy": NAMES}, " ".join, tries=2, timeout=timeout)
    return failed, time.monotonic() - start


def test_nodes_that_fail_are_tried_once_more(client: type[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "failing", NAMES[:1])
    failed, _ = deploy(60.0)
    assert failed == {NAMES[0]: "no disk"}
    assert [list(one.names) for one in client.made] == [list(NAMES), [NAMES[0]]]
    assert client.made[1].timeout == pytest.approx(60.0, abs=1.0)


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
    first, second = (one.timeout for one in client.made)
    assert (first, second) == (pytest.approx(6.5, abs=0.3), pytest.approx(5.5, abs=0.3))
    assert took < 7
