"""Configuration of the DHCP servers of KaVLANs."""

from __future__ import annotations

import re

import pytest

from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.described.model import Vlan
from g5kvirt.testbeds.local.dhcpd import configuration

BED = make({"nancy": 2, "rennes": 1})
NANCY, RENNES = BED.sites


def fixed(text: str) -> dict[str, str]:
    """MAC address → the address that a machine with it gets."""
    return dict(re.findall(r"hardware ethernet (\S+);\s+fixed-address (\S+);", text))


@pytest.mark.parametrize("vlan", [NANCY.vlans[0], NANCY.vlans[3], RENNES.vlans[-1]], ids=lambda v: v.kind)
def test_each_node_that_may_join_has_an_entry_and_nobody_else_gets_an_address(vlan: Vlan) -> None:
    text = configuration(BED, vlan)
    members = BED.nodes if vlan.kind == "global" else BED.site(vlan.site).nodes
    assert fixed(text) == {node.mac: str(BED.kavlan_ip(node, vlan.id)) for node in members}
    assert len(set(re.findall(r"^host (\S+) ", text, re.M))) == len(members)
    assert re.findall(r"^(authoritative|\s*range\b.*);", text, re.M) == ["authoritative"]
    assert f"subnet {vlan.network.network_address} netmask {vlan.network.netmask} {{" in text
    assert f"option routers {vlan.gateway};" in text
