from __future__ import annotations

import json
import re
from ipaddress import ip_address, ip_network

from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local.reference import documents


def test_every_document_is_json_and_carries_the_version() -> None:
    d = make()
    found = documents(d)
    json.dumps(found)
    assert {document["version"] for document in found.values()} == {d.version}
    assert documents(make(cores=8))[""]["version"] != d.version


def test_lists_contain_the_documents_below_their_path() -> None:
    found = documents(make({"nancy": 4, "rennes": 2}))
    assert [site["uid"] for site in found["sites"]["items"]] == ["nancy", "rennes"]
    lists = {path: document["items"] for path, document in found.items() if "items" in document}
    assert {"sites", "sites/nancy/clusters", "sites/rennes/vlans", "network_equipments"} <= set(lists)
    for path, items in lists.items():
        assert items, path
        for item in items:
            assert found[f"{path}/{item['uid']}"] is item
            assert item["links"][0]["href"] == f"/3.0/{path}/{item['uid']}"
    nodes = found["sites/nancy/clusters/graphene/nodes"]
    assert nodes["total"] == 4


def test_node_document_matches_the_description() -> None:
    d = make(cores=8, memory_gib=16, nic_gbps=10)
    node = documents(d)["sites/rennes/clusters/paradent/nodes/paradent-2"]
    assert node["architecture"]["nb_cores"] == 8
    assert node["architecture"]["nb_procs"] == 2
    assert node["main_memory"]["ram_size"] == 16 << 30
    adapter = node["network_adapters"][0]
    assert adapter["rate"] == 10**10
    assert adapter["ip"] == str(d.names()["paradent-2.rennes.grid5000.fr"])
    assert adapter["switch"] in documents(d)["sites/rennes/network_equipments"]["items"][0]["uid"]


def test_routers_list_the_sites_own_vlans_and_all_its_nodes() -> None:
    d = make({"nancy": 3, "lyon": 2})
    router = documents(d)["sites/nancy/network_equipments/gw-nancy"]
    assert sorted(int(vlan["name"].removeprefix("kavlan-")) for vlan in router["vlans"].values()) == [
        *range(1, 10),
        14,
    ]
    for vlan in router["vlans"].values():  # ten, as above
        assert re.fullmatch(r"[\d.]+/\d+", vlan["addresses"][0])
    ports = router["linecards"][0]["ports"]
    assert [port["uid"] for port in ports] == ["graphene-1", "graphene-2", "graphene-3", "renater-nancy"]


def test_backbone_joins_all_sites_with_their_rates() -> None:
    d = make({"nancy": 1, "lyon": 1, "rennes": 1}, uplink_gbps=2, uplink_latency_ms=4)
    hub, *ends = documents(d)["network_equipments"]["items"]
    assert len(ends) == 3
    assert [port["uid"] for port in hub["linecards"][0]["ports"]] == [end["uid"] for end in ends]
    for end in ends:
        (port,) = end["linecards"][0]["ports"]
        assert (port["uid"], port["rate"], port["latency"]) == (hub["uid"], 2 * 10**9, 0.004)


def test_a_site_lists_its_networks_and_its_dns() -> None:
    d = make({"nancy": 1, "lyon": 1})
    found = documents(d)
    networks = found["sites/nancy"]["kavlans"]
    assert sorted(networks) == sorted(["default", *map(str, range(1, 10)), "14"])
    for name, network in networks.items():
        assert ip_address(network["gateway"]) in ip_network(network["network"]), name
    assert networks["14"]["network"] == found["sites/nancy/vlans/14"]["network"]
    dns = found["sites/nancy/servers/dns"]["network_adapters"]["default"]["ip"]
    assert dns == str(d.names()["dns.nancy.grid5000.fr"])
