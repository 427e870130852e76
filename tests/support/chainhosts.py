"""Hosts of made-up broadcasts."""

from __future__ import annotations

from g5kvirt.broadcast.chain import Payload
from g5kvirt.inventory import Host

SUM = "ab" * 32
IMAGE = Payload(SUM, 1000)
HEAD = "http://10.0.0.9:80/images/mini.tar.gz"


def host(site: str, switch: str, number: int) -> Host:
    return Host(f"node-{number}.{site}", site, "node", 4, 1 << 30, switch=switch)
