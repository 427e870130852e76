"""What VMs print about a link is read, whatever ping they have."""

from __future__ import annotations

import pytest

from g5kvirt.guests.link_probe import read_ping, read_transfer

BUSYBOX = """PING 10.0.0.2 (10.0.0.2): 56 data bytes
64 bytes from 10.0.0.2: seq=0 ttl=64 time=20.115 ms

--- 10.0.0.2 ping statistics ---
60 packets transmitted, 57 packets received, 5% packet loss
round-trip min/avg/max = 20.069/20.500/20.115 ms
"""
IPUTILS = """
5 packets transmitted, 5 received, 0% packet loss, time 4006ms
rtt min/avg/max/mdev = 0.038/0.125/0.050/0.005 ms
"""


def test_ping() -> None:
    assert read_ping(BUSYBOX) == (pytest.approx(0.0205), pytest.approx(0.05))
    assert read_ping(IPUTILS) == (pytest.approx(125e-6), 0.0)
    assert read_ping("5 packets transmitted, 0 received, 100% packet loss, time 4000ms\n") == (None, 1.0)
    assert read_ping("sh: ping: not found\n") is None


def test_transfer() -> None:
    assert read_transfer("10.00\n4999999\n12.00\n", 5_000_000) == pytest.approx(20e6, rel=1e-5)
    assert read_transfer("10.00\n0\n12.00\n", 5_000_000) == "only 1 of 5,000,000 bytes were received"
    assert read_transfer("10.00\n4999999\n10.01\n", 5_000_000) == "5,000,000 bytes came too fast to be timed"
    assert read_transfer("", 5_000_000) == "nothing was received"
