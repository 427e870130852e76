"""More walltime moves what hangs on it: services that must end before the jobs do end later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from g5kvirt.errors import PhaseError
from g5kvirt.hostagent import calls
from g5kvirt.inventory import GIB, Host, Reservation, SubNetwork
from g5kvirt.phases import extend as phase
from g5kvirt.remote import Result
from g5kvirt.run.events import Event
from g5kvirt.spec.spec import Spec

PART = SubNetwork("nancy", IPv4Network("10.144.0.0/20"), IPv4Address("10.147.255.254"))
HOSTS = [Host(f"h-{i}.nancy.grid5000.fr", "nancy", "h", 4, 16 * GIB, address=f"h-{i}") for i in range(4)]
GRANTED = Reservation({"nancy": 7}, tuple(HOSTS), (PART,), 14, "nancy", 1000.0, 3600.0)


class Bed:
    """A run with two service machines, of which the second has nothing to do with DHCP."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, configured: bool = True) -> None:
        self.asked: dict[str, list[dict[str, Any]]] = {}
        self.events: list[Event] = []
        self.extended: list[int] = []
        self.lost = ""
        state = SimpleNamespace(
            reservation=GRANTED,
            deployed_hosts=HOSTS,
            facts={},
            detail=lambda _: {},
            done=lambda name: configured and name == "configure",
        )
        self.context: Any = SimpleNamespace(
            spec=Spec(sites={"nancy": 2}, services=2, vms=4),
            journal=SimpleNamespace(state=state),
            testbed=SimpleNamespace(extend=lambda _, seconds: self.extended.append(seconds)),
            run=SimpleNamespace(name="r", path=tmp_path),
            fanout=None,
            now=lambda: 1500.0,
        )
        monkeypatch.setattr(calls, "call_agents", self.answer)
        monkeypatch.setattr(phase.inbox, "record", lambda *words: self.events.append(words[-1]))

    def answer(self, _: object, documents: Mapping[Host, bytes], timeout: float) -> list[calls.AgentReply]:
        self.asked = {host.name: json.loads(text)["requests"] for host, text in documents.items()}
        return [
            calls.AgentReply(h, Result(h.address, True, 0, b"", b"", 1.0, 2.0), (), self.lost)
            for h in documents
        ]


def test_dhcp_ends_a_minute_before_the_later_end_and_keeps_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed = Bed(tmp_path, monkeypatch)
    extended = phase.extend(bed.context, 1800)
    assert (extended.walltime, extended.start, bed.extended) == (5400.0, 1000.0, [1800])
    assert [event.detail["walltime"] for event in bed.events] == [5400.0]
    orders = [order for requests in bed.asked.values() for order in requests]
    assert [order["name"] for order in orders] == ["dnsmasq"]
    assert orders[0]["until"] == 1000.0 + 5400.0 - 60.0
    assert (orders[0]["files"], orders[0]["check"]) == ([], []), "its configuration is left as it is"


def test_nothing_is_told_to_machines_that_have_no_services_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed = Bed(tmp_path, monkeypatch, configured=False)
    assert phase.extend(bed.context, 600).walltime == 4200.0
    assert bed.asked == {}


def test_a_machine_that_cannot_be_told_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bed = Bed(tmp_path, monkeypatch)
    bed.lost = "unreachable"
    with pytest.raises(PhaseError, match=r"was extended, but DHCP on h-\d.nancy.grid5000.fr still ends at"):
        phase.extend(bed.context, 600)
    assert len(bed.events) == 1, "the jobs have the time all the same"
