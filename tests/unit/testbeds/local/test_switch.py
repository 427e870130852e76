"""The managed switch: what it reads in a frame, and where each broadcast goes."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.hostagent.onhost.light import dhcp
from g5kvirt.testbeds.local import frames, switch
from g5kvirt.testbeds.local.switch import Port, Vlan

EVERYONE = b"\xff" * 6
GATEWAY = "10.16.63.254"


def mac(number: int) -> bytes:
    return bytes((2, 0, 0, 0, 0, number))


def ip(text: str) -> bytes:
    return IPv4Address(text).packed


def arp(source: int, sender: str, target: str, *, to: bytes = EVERYONE, operation: int = 1) -> bytes:
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    return to + mac(source) + b"\x08\x06" + body + mac(source) + ip(sender) + bytes(6) + ip(target)


def udp(source: int, ports: tuple[int, int], payload: bytes) -> bytes:
    header = struct.pack("!BBHHHBBH8x", 0x45, 0, 28 + len(payload), 0, 0, 64, 17, 0)
    return EVERYONE + mac(source) + b"\x08\x00" + header + struct.pack("!HHHH", *ports, 0, 0) + payload


def bootp(client: int) -> bytes:
    return bytes(28) + mac(client) + bytes(260)


@pytest.fixture
def vlan(monkeypatch: pytest.MonkeyPatch) -> Vlan:
    """Two hosts and a service machine on nancy, one of each on rennes; process ids over 100 serve DHCP."""
    monkeypatch.setattr(switch, "serves_dhcp", lambda pid: pid > 100)
    one = Vlan(ip(GATEWAY))
    for name, site, pid in (
        ("host-1", "nancy", 1),
        ("host-2", "nancy", 2),
        ("service-1", "nancy", 101),
        ("host-3", "rennes", 3),
        ("service-2", "rennes", 102),
    ):
        one.ports[name] = Port(name, site, pid, cast(Any, None))
    return one


def receivers(vlan: Vlan, data: bytes, source: str | None, now: float = 0.0) -> list[str]:
    frame = frames.read(data)
    assert frame is not None
    port = None if source is None else vlan.ports[source]
    return [port.name for port in vlan.receivers(frame, port, now)]


OTHERS = ["host-2", "service-1", "host-3", "service-2"]


def test_arp_goes_where_its_target_was_seen(vlan: Vlan) -> None:
    question = arp(1, "10.16.0.1", "10.16.0.3")
    assert receivers(vlan, question, "host-1") == OTHERS, "nobody has seen it yet"
    assert receivers(vlan, arp(3, "10.16.0.3", "10.16.0.1"), "host-3") == ["host-1"], "it has asked itself"
    assert receivers(vlan, question, "host-1") == ["host-3"]
    assert receivers(vlan, arp(9, GATEWAY, "10.16.0.3"), None) == ["host-3"], "from the gateway"


def test_machine_that_only_answers_is_seen_too(vlan: Vlan) -> None:
    reply = arp(5, "10.16.0.5", "10.16.0.1", to=mac(1), operation=2)
    assert receivers(vlan, reply, "service-1") == []
    assert receivers(vlan, arp(1, "10.16.0.1", "10.16.0.5"), "host-1") == ["service-1"]


def test_guests_behind_one_host_share_its_port(vlan: Vlan) -> None:
    for number, address in ((11, "10.16.1.1"), (12, "10.16.1.2")):
        receivers(vlan, arp(number, address, GATEWAY), "host-1")
    assert receivers(vlan, arp(11, "10.16.1.1", "10.16.1.2"), "host-1") == [], "its own bridge has it"
    assert receivers(vlan, arp(2, "10.16.0.2", "10.16.1.2"), "host-2") == ["host-1"]
    receivers(vlan, arp(12, "10.16.1.2", GATEWAY), "host-3")
    assert receivers(vlan, arp(2, "10.16.0.2", "10.16.1.2"), "host-2") == ["host-3"], "it has moved"


def test_announcement_of_an_address_goes_to_all(vlan: Vlan) -> None:
    for operation in (1, 2):
        announcement = arp(3, "10.16.0.3", "10.16.0.3", operation=operation)
        assert receivers(vlan, announcement, "host-3") == ["host-1", "host-2", "service-1", "service-2"]
    assert receivers(vlan, arp(1, "10.16.0.1", "10.16.0.3"), "host-1") == ["host-3"]


def test_bridges_bring_broadcasts_to_the_gateway(vlan: Vlan) -> None:
    assert receivers(vlan, arp(1, "10.16.0.1", GATEWAY), "host-1") == []


def test_probe_for_an_address_teaches_none(vlan: Vlan) -> None:
    receivers(vlan, arp(1, "0.0.0.0", "10.16.0.1"), "host-1")
    assert vlan.addresses == {}


def test_machine_that_is_gone_is_looked_for_everywhere(vlan: Vlan) -> None:
    receivers(vlan, arp(3, "10.16.0.3", GATEWAY), "host-3")
    del vlan.ports["host-3"]
    found = receivers(vlan, arp(1, "10.16.0.1", "10.16.0.3"), "host-1")
    assert found == ["host-2", "service-1", "service-2"]


def test_dhcp_goes_to_the_servers_of_the_site_or_else_to_all(vlan: Vlan) -> None:
    request = dhcp.frame(mac(7), 1, dhcp.DISCOVER, b"")
    assert receivers(vlan, request, "host-1") == ["service-1"]
    assert receivers(vlan, request, "host-3") == ["service-2"]
    del vlan.ports["service-2"]
    assert receivers(vlan, request, "host-3", 10.0) == ["service-1"]


def test_new_server_is_found_in_seconds(vlan: Vlan, monkeypatch: pytest.MonkeyPatch) -> None:
    request = dhcp.frame(mac(7), 1, dhcp.DISCOVER, b"")
    assert receivers(vlan, request, "host-1", 0.0) == ["service-1"]
    monkeypatch.setattr(switch, "serves_dhcp", lambda pid: pid in (2, 101))
    assert receivers(vlan, request, "host-1", 3.0) == ["host-2", "service-1"]


def test_broadcast_of_a_server_goes_to_its_client(vlan: Vlan) -> None:
    receivers(vlan, dhcp.frame(mac(7), 1, dhcp.DISCOVER, b""), "host-3")
    assert receivers(vlan, udp(5, (67, 68), bootp(7)), "service-1") == ["host-3"]
    assert len(receivers(vlan, udp(5, (67, 68), bootp(8)), "service-1")) == 4, "of a client not seen"


def test_any_other_broadcast_goes_to_all(vlan: Vlan) -> None:
    assert receivers(vlan, udp(1, (5000, 5000), b"hello"), "host-1") == OTHERS


def test_unicast_is_none_of_its_business() -> None:
    assert frames.read(mac(2) + udp(1, (67, 68), bootp(7))[6:]) is None


@given(st.binary(max_size=90), st.booleans())
def test_no_frame_is_too_odd(data: bytes, broadcast: bool) -> None:
    frame = frames.read(EVERYONE + data if broadcast else data)
    assert frame is None or len(frame.source) == 6
