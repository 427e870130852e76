"""Following logs goes on after a broken connection, also where the host agent is missing."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any

import pytest

from g5kvirt.errors import PhaseError
from g5kvirt.hostagent import bundle
from g5kvirt.inventory import Host
from g5kvirt.netboot import log_tail
from g5kvirt.planning.services import ServiceMachine
from g5kvirt.remote import Result

HOST = Host("h-1.nancy", "nancy", "h", 4, 1 << 30, address="h-1")
MACHINE = ServiceMachine(HOST, ("http",), {"nancy": IPv4Address("10.0.0.1")})


class Streams:
    """Connections that all end at once, with this on standard error; the machine's fanout beside them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: str) -> None:
        self.connected = 0
        self.installed: list[str] = []
        self.result = Result("h-1", False, 2, b"", error.encode(), 1.0, 2.0, reason="exit code 2")
        monkeypatch.setattr(log_tail, "Stream", self.connect)
        monkeypatch.setattr(log_tail, "PAUSE", 0.0)
        context: Any = SimpleNamespace(access=None, fanout=self)
        self.follower = log_tail.Follower(context, MACHINE, lambda _: None)

    def connect(self, *_: object, **__: object) -> Any:
        self.connected += 1
        return SimpleNamespace(alive=False, error=None, result=self.result, close=lambda: None)

    def run(self, hosts: Sequence[str], command: Sequence[str], **_: Any) -> dict[str, Result]:
        assert tuple(command) == bundle.INSTALL
        self.installed += hosts
        return {host: Result(host, True, 0, b"", b"", 1.0, 2.0) for host in hosts}


def test_missing_agent_is_installed_before_the_next_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Streams(monkeypatch, f"python3: can't open file '{bundle.DIRECTORY}': [Errno 2] No such file\n")
    with lost.follower as follower:
        follower.keep_alive()
        assert (lost.installed, lost.connected) == (["h-1"], 1)
        follower.keep_alive()
        assert lost.connected == 2


def test_connection_that_never_lasts_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Streams(monkeypatch, "Connection reset by peer\n")
    with lost.follower as follower:
        for _ in range(2 * log_tail.TRIES):  # each time it is due, and then made
            follower.keep_alive()
        with pytest.raises(PhaseError, match=r"logs of h-1\.nancy cannot be followed"):
            follower.keep_alive()
    assert lost.connected == 1 + log_tail.TRIES
    assert lost.installed == []
