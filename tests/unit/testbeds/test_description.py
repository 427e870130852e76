from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g5kvirt.errors import CapacityError, SpecError
from g5kvirt.testbeds.described.description import MAX_NODES, from_plain, load, make
from g5kvirt.testbeds.described.site_networks import site_networks

SITES = tuple(site_networks())


def test_default_is_two_sites_of_three_nodes_as_on_grid5000() -> None:
    d = load()
    assert [site.name for site in d.sites] == ["nancy", "rennes"]
    nancy = d.site("nancy")
    assert [node.fqdn for node in nancy.nodes] == [f"graphene-{n}.nancy.grid5000.fr" for n in (1, 2, 3)]
    node = nancy.nodes[0]
    assert (node.cores, node.memory, node.nic_rate) == (4, 8 << 30, 1e9)
    assert (nancy.uplink_rate, nancy.uplink_latency) == (10e9, 0)
    assert str(nancy.network) == "172.16.64.0/20"
    assert str(nancy.gateway) == "172.16.79.254"
    assert str(nancy.subnet_pool) == "10.144.0.0/18"
    assert str(nancy.subnet_gateway) == "10.147.255.254"
    assert [vlan.id for vlan in nancy.vlans] == [*range(1, 10), 14]
    assert str(nancy.global_vlan.network) == "10.19.192.0/18"
    assert "debian12-min" in [environment.name for environment in d.environments]


def test_default_file_is_the_default_of_make() -> None:
    assert load().sites == make().sites


def test_names_resolve_to_their_networks() -> None:
    d = load()
    names = d.names()
    nancy = d.site("nancy")
    assert names["nancy.grid5000.fr"] == names["frontend.nancy.grid5000.fr"] == nancy.gateway
    assert names["graphene-2.nancy.grid5000.fr"] == nancy.nodes[1].ip
    # its own local and routed vlans, and the global ones of both sites
    assert names["graphene-2-kavlan-1.nancy.grid5000.fr"] in nancy.vlans[0].network
    assert names["graphene-2-kavlan-16.nancy.grid5000.fr"] in d.site("rennes").global_vlan.network
    for unknown in (
        "graphene-4.nancy.grid5000.fr",
        "graphene-2.rennes.grid5000.fr",
        "graphene-2-kavlan-11.nancy.grid5000.fr",
        "lyon.grid5000.fr",
        "api.grid5000.fr",
        "nancy",
        "example.org",
        "",
    ):
        assert unknown not in names


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from(SITES), st.integers(1, 40), min_size=1, max_size=10))
def test_addresses_and_macs_are_unique_and_inside_their_networks(sites: dict[str, int]) -> None:
    d = make(sites)
    names = d.names()
    gateways = {name: address for name, address in names.items() if name.startswith("kavlan-")}
    assert set(gateways.values()) == {site.gateway for site in d.sites}
    nodes = [name for name in names if "-" in name and name not in gateways]
    by_address = Counter(
        (names[name], name.split(".")[1] if "192.168" in str(names[name]) else "") for name in nodes
    )
    assert max(by_address.values()) == 1  # local vlans have the same networks on every site, nothing else has
    assert len({node.mac for node in d.nodes}) == len(d.nodes)
    for site in d.sites:
        for node in site.nodes:
            assert node.ip in site.network
            for vlan in d.vlans_of(site.name):
                address = d.kavlan_ip(node, vlan.id)
                assert address in vlan.network
                assert address not in (vlan.gateway, vlan.network[0], vlan.network[-1])


def test_ten_sites_of_four_hundred_nodes() -> None:
    d = make(dict.fromkeys(SITES[:10], 400))
    assert len(d.nodes) == 4000
    vlan = d.site(SITES[0]).global_vlan
    assert len({d.kavlan_ip(node, vlan.id) for node in d.nodes}) == 4000


def test_networks_of_sites_do_not_overlap() -> None:
    d = make(dict.fromkeys(SITES, 1))
    networks = [site.network for site in d.sites] + [site.subnet_network for site in d.sites]
    networks += [vlan.network for site in d.sites for vlan in site.vlans if vlan.kind != "local"]
    assert len(networks) == len(SITES) * (2 + 6 + 1)  # production, sub-networks, routed, global
    assert not [(str(a), str(b)) for a, b in combinations(networks, 2) if a.overlaps(b)]


@given(
    st.dictionaries(st.sampled_from(SITES), st.integers(1, 5), min_size=1, max_size=3),
    st.integers(1, 64),
    st.floats(0.5, 64),
)
def test_plain_description_round_trip(sites: dict[str, int], cores: int, memory: float) -> None:
    d = make(sites, cores=cores, memory_gib=memory, nic_gbps=10, uplink_latency_ms=2.5)
    again = from_plain(json.loads(json.dumps(d.to_plain())))
    assert again == d
    assert again.version == d.version


def test_version_differs_with_the_description() -> None:
    others = [make(), make({"nancy": 3}), make(cores=8), make(name="other"), make(uplink_latency_ms=1)]
    assert len({d.version for d in others}) == len(others)


def test_clusters_of_different_machines() -> None:
    d = from_plain(
        {
            "defaults": {"cores": 2},
            "sites": {
                "lyon": {"clusters": {"taurus": 2, "nova": {"nodes": 1, "cores": 16}}, "uplink_gbps": 1}
            },
        }
    )
    assert [(node.uid, node.index, node.cores) for node in d.nodes] == [
        ("taurus-1", 1, 2),
        ("taurus-2", 2, 2),
        ("nova-1", 3, 16),
    ]
    assert d.site("lyon").clusters == ("taurus", "nova")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("sites: {atlantis: 3}", "'atlantis' is unknown"),
        ("sites: {bordeaux: 3}", "'bordeaux' is unknown"),  # has no networks
        ("sites: {nancy: 0}", "nodes must be a whole number of at least 1"),
        ("sites: {nancy: -2}", "not -2"),
        ("sites: {nancy: 2.5}", "not 2.5"),
        ("sites: {nancy: true}", "not True"),
        ("sites: {nancy: many}", "not 'many'"),
        ("sites: {nancy: .nan}", "not '.nan'"),
        ("sites: {}", "at least one site"),
        ("nodes: 3", "unknown key 'nodes'"),
        ("sites: {nancy: {clusters: {graphene: {nodes: 3, ram: 4}}}}", "unknown key 'ram'"),
        ("sites: {nancy: {nodes: 3}}", "unknown key 'nodes'"),
        ("sites: {nancy: {clusters: {gra-phene: 3}}}", "'gra-phene'"),
        (
            "sites: {nancy: {clusters: {a: 1}}, rennes: {clusters: {a: 1}}}",
            "cluster a is on both nancy and rennes",
        ),
        ("sites: {nancy: 3}\ndefaults: {cores: 0}", "defaults: cores"),
        ("sites: {nancy: 3}\ndefaults: {uplink_latency_ms: -1}", "from 0 to 1000"),
        ("sites: {nancy: 3}\nname: 'No way'", "'No way'"),
        ("sites: {nancy: 3}\nenvironments: {'a b': x}", "'a b'"),
        ("sites: {nancy: 3}\nenvironments: {}", "at least one environment"),
        ("- nancy", "must be a mapping"),
        ("sites: [", "cannot be read as YAML (line 1"),
        ("", "must be a mapping"),
        (f"sites: {{nancy: {MAX_NODES + 1}}}", f"{MAX_NODES + 1} or more nodes"),
    ],
)
def test_invalid_files_raise_a_one_line_error(tmp_path: Path, text: str, part: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(SpecError) as caught:
        load(file)
    message = str(caught.value)
    assert part in message
    assert "mine.yaml" in message
    assert "\n" not in message


def test_too_many_nodes_raise_with_the_numbers() -> None:
    with pytest.raises(CapacityError) as caught:
        make({"nancy": 5000})
    assert (caught.value.requested, caught.value.available) == (5000, MAX_NODES)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot read"):
        load(tmp_path / "none.yaml")


def test_duplicate_keys_and_invalid_dates_raise(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    for text, message in (
        ("sites: {nancy: 3, nancy: 2}", "the key 'nancy' is given twice"),
        ("sites: {nancy: 2026-13-45}", "nodes must be a whole number"),
    ):
        file.write_text(text)
        with pytest.raises(SpecError, match=message):
            load(file)
