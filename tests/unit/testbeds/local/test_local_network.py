"""The commands of the testbed for ip, bridge and tc."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.errors import TestbedError
from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.described.site_networks import site_networks
from g5kvirt.testbeds.local import network

TWO = make({"nancy": 3, "rennes": 2}, nic_gbps=1, uplink_gbps=10, uplink_latency_ms=5)
NANCY = TWO.site("nancy")


def test_shape_limits_the_rate_and_delays_only_with_a_latency() -> None:
    plain = list(network.shape("eth0", 1e9))
    assert len(plain) == 2
    assert "rate 1000000000bit" in plain[1]
    [*_, delay] = network.shape("eth0", 1e9, 0.0125)
    assert "netem delay 12500us" in delay


@given(st.floats(1e6, 1e12))
def test_burst_is_limited(rate: float) -> None:
    burst = int(next(iter(list(network.shape("x", rate))[1].partition(" burst ")[2].split("b"))))
    assert burst >= 65536  # a segment as large as the card may take
    assert burst * 8 / rate <= max(0.0011, (256 << 13) / rate)


def test_backbone_routes_to_every_network_but_local_vlans() -> None:
    lines = network.backbone(TWO, {"nancy": 11, "rennes": 22}, netem=False).ip
    routes = [line for line in lines if line.startswith("route")]
    assert len(routes) == 2 * (2 + 6 + 1)  # per site: production, sub-networks, routed and global vlans
    for site in TWO.sites:
        for one in (site.network, site.subnet_network):
            assert any(f"add {one} via {site.wan_ip} " in line for line in routes)
        for vlan in site.vlans:
            assert any(str(vlan.network) in line for line in routes) == (vlan.kind != "local")
    assert not any("default" in line for line in routes)


def test_networks_routed_over_the_backbone_do_not_overlap() -> None:
    everywhere = make(dict.fromkeys(site_networks(), 1))
    networks: list[IPv4Network] = []
    for site in everywhere.sites:
        networks += [site.network, site.subnet_network]
        networks += [vlan.network for vlan in site.vlans if vlan.kind != "local"]
    assert len(networks) > 2 * len(everywhere.sites)
    for i, one in enumerate(networks):
        assert not any(one.overlaps(other) for other in networks[i + 1 :]), one


def test_without_netem_there_is_no_latency() -> None:
    assert "netem" not in " ".join(network.router(NANCY, netem=False).tc)
    assert "netem delay 5000us" in " ".join(network.router(NANCY, netem=True).tc)


def test_global_vlan_reaches_every_other_site_once() -> None:
    batch = network.vlan_bridge(TWO, NANCY, NANCY.global_vlan)
    assert [line.split()[-1] for line in batch.bridge] == [str(TWO.site("rennes").wan_ip)]
    assert any(f"addr add {NANCY.global_vlan.gateway}/" in line for line in batch.ip)
    elsewhere = network.vlan_bridge(TWO, TWO.site("rennes"), NANCY.global_vlan)
    assert not any(line.startswith("addr") for line in elsewhere.ip)  # one gateway in the whole vlan


def test_local_vlan_is_isolated() -> None:
    local = NANCY.vlans[0]
    lines = network.vlan_bridge(TWO, NANCY, local).ip
    assert f"rule add iif {network.bridge_name(local.id)} prohibit" in lines
    assert not network.vlan_bridge(TWO, NANCY, local).bridge


def test_node_gets_its_address_of_the_vlan_it_is_in() -> None:
    node = NANCY.nodes[1]
    inside = " ".join(network.configure_node(TWO, node, None).ip)
    assert f"addr add {node.ip}/{NANCY.network.prefixlen} " in inside
    assert f"default via {NANCY.gateway}" in inside
    vlan = NANCY.global_vlan
    moved = network.configure_node(TWO, node, vlan.id, first=False)
    assert f"addr add {TWO.kavlan_ip(node, vlan.id)}/{vlan.network.prefixlen} " in " ".join(moved.ip)
    assert not moved.tc  # the card is limited already


def test_links_have_the_described_mac_addresses_and_short_names() -> None:
    batch = network.attach([(node, 100 + node.index) for node in NANCY.nodes], NANCY.global_vlan.id)
    for node in NANCY.nodes:
        line = next(line for line in batch.ip if f"netns {100 + node.index}" in line)
        assert f"address {node.mac} " in line
        assert len(network.port_name(node)) < 16
    assert sum("master vlan" in line for line in batch.ip) == 3


def test_error_names_the_failed_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Done:
        returncode = 1
        stderr = "RTNETLINK answers: File exists\nCommand failed -:2\n"

    monkeypatch.setattr("subprocess.run", lambda *_, **__: Done())
    with pytest.raises(TestbedError, match=r"File exists at “link add b type bridge”"):
        network.apply(network.Batch(("link add a type bridge", "link add b type bridge")))
