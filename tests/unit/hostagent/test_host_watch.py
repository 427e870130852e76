"""Which hosts count as gone, and what is done about them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from g5kvirt.hostagent import host_watch
from g5kvirt.hostagent.host_watch import HostWatch
from g5kvirt.inventory import GIB, Host
from g5kvirt.remote import Fanout, Result
from g5kvirt.remote.access import _WATCHED, SILENCE, Access

HOSTS = [Host(f"h-{i}.nancy.grid5000.fr", "nancy", "h", 4, GIB, address=f"a-{i}") for i in range(60)]


class Connections:
    """Connections of which some cannot be opened again; ``silent`` hosts never answer."""

    keeps_connections = True

    def __init__(self, dead: set[str], silent: set[str]) -> None:
        self.dead, self.silent = dead, silent
        self.calls: list[int] = []
        self.abandoned: dict[str, str] = {}
        self.lost: Callable[[str], object]

    def on_lost(self, listener: Callable[[str], object]) -> Callable[[], None]:
        self.lost = listener
        return lambda: None

    def call(
        self, program: Any, texts: Mapping[str, bytes], *, given_up: Callable[[], str], **_: Any
    ) -> dict[str, Result]:
        self.calls.append(len(texts))
        while self.silent & set(texts) and not given_up():
            time.sleep(0.01)
        reasons = {host: "refused" if host in self.dead else "" for host in texts}
        reasons |= {host: f"given up: {given_up()}" for host in self.silent & set(texts)}
        return {
            host: Result(host, not why, None if why else 0, b"", b"", 0.0, 0.0, reason=why)
            for host, why in reasons.items()
        }

    def abandon(self, host: str, reason: str) -> None:
        self.abandoned[host] = reason


def test_only_hosts_that_let_nobody_in_again_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_watch, "PATIENCE", 0.5)
    monkeypatch.setattr(host_watch, "COLLECTING", 0.1)
    connections = Connections(dead={"a-1"}, silent={"a-2"})
    found: dict[str, str] = {}
    both = threading.Event()

    def gone(host: Host, reason: str) -> None:
        found[host.address] = reason
        if len(found) == 2:
            both.set()

    with HostWatch(cast(Fanout, connections), HOSTS[:4], gone):
        for address in ("a-0", "a-1", "a-2", "not-ours"):
            connections.lost(address)
        assert both.wait(20)
    assert (
        found
        == connections.abandoned
        == {
            "a-1": "its host h-1.nancy.grid5000.fr is gone (refused)",
            "a-2": "its host h-2.nancy.grid5000.fr is gone (given up: no answer within 0.5 s)",
        }
    )


def test_hosts_of_a_whole_site_are_called_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_watch, "PATIENCE", 1.0)
    monkeypatch.setattr(host_watch, "COLLECTING", 0.2)
    connections = Connections(dead=set(), silent={host.address for host in HOSTS})
    found: list[str] = []
    start = time.monotonic()
    with HostWatch(cast(Fanout, connections), HOSTS, lambda host, reason: found.append(host.address)):
        for host in HOSTS:
            connections.lost(host.address)
        while len(found) < len(HOSTS):
            assert time.monotonic() - start < 20
            time.sleep(0.01)
    assert sorted(found) == sorted(host.address for host in HOSTS)
    assert sum(connections.calls) == len(HOSTS)
    assert len([n for n in connections.calls if n]) <= 4, "one call for many, not one for each"


def test_a_silent_host_is_noticed_within_half_a_minute() -> None:
    values = dict(option.split("=") for option in _WATCHED)
    assert float(values["ServerAliveInterval"]) * (int(values["ServerAliveCountMax"]) + 1) == SILENCE
    assert host_watch.NOTICED_WITHIN < 30
    prefix = Access().forwarding(None).watching().prefix()
    first = next(word for word in prefix if word.startswith("ServerAliveInterval"))
    assert first == _WATCHED[0], "ssh takes the first value of an option"
