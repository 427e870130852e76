"""The unmodified execo_g5k reads the local testbed's REST API: api_utils, planning, topology, utils.

In processes of their own, with an empty home: execo keeps its API connection and data for the whole
process and a cache in the home directory.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from localfakes import FakeDatabase, FakeMachines, job

from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local import rest

pytest.importorskip("execo_g5k", reason="execo is not installed")

PASSWORD = "pass word"
PRELUDE = """
import json, sys
import execo, execo.log
execo.logger.setLevel('ERROR')
from execo_g5k.config import g5k_configuration
g5k_configuration['api_uri'] = sys.argv[1]
from execo_g5k.api_utils import *
from execo_g5k import api_utils
out = {}
"""
POSTLUDE = "\nprint('ANSWER ' + json.dumps(out, default=str))\n"


class Bed:
    """Three sites over fakes."""

    def __init__(self, home: Path, now: float) -> None:
        self.home = home
        self.now = int(now)
        self.description = make({"nancy": 4, "rennes": 2, "lyon": 2}, cores=8, uplink_latency_ms=5)
        self.machines = FakeMachines()
        self.databases = {site.name: FakeDatabase() for site in self.description.sites}
        for site in self.description.sites:
            self.databases[site.name].rows = [
                {
                    "resource_id": number,
                    "type": "default",
                    "network_address": node.fqdn,
                    "state": "Alive",
                    "maintenance": "NO",
                }
                for number, node in enumerate(site.nodes, 1)
            ]
        # two nodes and the global vlan are taken for an hour; one more is promised; one is dead
        nancy = self.databases["nancy"]
        nancy.known = [
            job(1, *self.names(1, 2), vlans=(14,), subnets=("10.144.0.0/22",), start=self.now - 60),
            job(2, *self.names(3), state="Waiting", start=self.now + 600),
            job(3, state="Waiting", start=0),
        ]
        nancy.rows[3]["state"] = "Dead"
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.thread = rest.serve(
            self.sock, self.description, self.databases.__getitem__, PASSWORD, machines=self.machines
        )

    @staticmethod
    def names(*numbers: int) -> list[str]:
        return [f"graphene-{number}.nancy.grid5000.fr" for number in numbers]

    def execo(self, code: str, credentials: str = "g5k:pass%20word@") -> Any:
        """Run code with execo_g5k pointed at this API; returns what it left in ``out``."""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PRELUDE + code + POSTLUDE, self.uri(credentials)],
            env={
                "HOME": str(self.home),
                "PATH": os.environ["PATH"],
                "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
                "NO_PROXY": "127.0.0.1",  # requests would ask a proxy even for this machine
                "MPLBACKEND": "Agg",
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (answer,) = (line for line in done.stdout.splitlines() if line.startswith("ANSWER "))
        return json.loads(answer.removeprefix("ANSWER "))

    def uri(self, credentials: str) -> str:
        return f"http://{credentials}127.0.0.1:{self.port}/3.0"


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    made = Bed(tmp_path, time.time())
    yield made
    made.thread.stop()


def test_reference_data(bed: Bed) -> None:
    out = bed.execo("""
out['sites'] = get_g5k_sites()
out['clusters'] = get_g5k_clusters()
out['hosts'] = get_g5k_hosts()
out['site of'] = get_cluster_site('paradent')
out['cores'] = get_host_attributes('graphene-3.nancy.grid5000.fr')['architecture']['nb_cores']
out['equipment'] = get_host_network_equipments('graphene-3')
out['equipments'] = get_cluster_network_equipments('graphene')
out['equipment site'] = get_network_equipment_site('gw-lyon')
out['equipment attributes'] = get_network_equipment_attributes('gw-lyon')['kind']
out['queues'] = get_cluster_queues('graphene')
out['site attributes'] = get_site_attributes('nancy')['uid']
from execo_g5k.utils import *
out['network'] = get_kavlan_network(14, 'nancy')
out['addresses'] = len(get_kavlan_ip_mac(4, 'nancy'))
out['fastest'] = get_fastest_host(get_g5k_hosts())
""")
    assert sorted(out["sites"]) == ["lyon", "nancy", "rennes"]
    assert sorted(out["clusters"]) == ["graphene", "paradent", "sagittaire"]
    assert len(out["hosts"]) == 8
    assert out["site of"] == "rennes"
    assert out["cores"] == 8
    assert out["equipment"] == out["equipments"] == ["gw-nancy"]
    assert (out["equipment site"], out["equipment attributes"]) == ("lyon", "router")
    assert "default" in out["queues"]
    assert out["network"] == ["10.19.192.0", "18"]
    assert out["addresses"] > 0


def test_the_cache_is_renewed_when_the_testbed_is_another_one(bed: Bed) -> None:
    code = "out = len(get_g5k_hosts())"
    assert bed.execo(code) == 8
    assert list(bed.home.glob(".execo/g5k_api_cache-*/api_commit"))
    other = make({"nancy": 1})
    sock = socket.create_server(("127.0.0.1", 0))
    thread = rest.serve(sock, other, bed.databases.__getitem__, PASSWORD)
    bed.port = sock.getsockname()[1]
    try:
        assert bed.execo(code) == 1
    finally:
        thread.stop()


def test_planning_finds_the_common_slot(bed: Bed) -> None:
    out = bed.execo("""
from execo_g5k import planning
out['method'] = planning._retrieve_method
found = planning.get_planning(['nancy', 'rennes'], vlan=True, subnet=True)
out['planning'] = found
slots = planning.compute_slots(found, '0:30:00')
out['first'] = slots[0]
wanted = {'nancy': 3, 'rennes': 2, 'kavlan': 1}
out['free'] = planning.find_free_slot(slots, wanted)
out['specs'] = [(s.resources, site) for s, site in planning.get_jobs_specs({'nancy': 2, 'rennes': 1})]
""")
    if out["method"] != "API":
        pytest.skip("psycopg2 is installed: execo's planning asks the databases instead")
    nancy = out["planning"]["nancy"]
    assert sorted(nancy["graphene"]) == bed.names(1, 2, 3)  # the dead one is not there
    assert nancy["graphene"][bed.names(1)[0]]["busy"][0][1] == bed.now - 60 + 3600 + 121
    assert nancy["graphene"][bed.names(3)[0]]["busy"][0][0] == bed.now + 600
    assert sorted(nancy["vlans"]) == sorted([*(f"kavlan-{vlan}" for vlan in range(4, 10)), "kavlan-14"])
    assert nancy["vlans"]["kavlan-14"]["busy"]
    assert not nancy["vlans"]["kavlan-4"]["busy"]
    assert out["first"][2]["nancy"] == 0  # two are taken, one is not free for half an hour
    assert out["first"][2]["kavlan"] == ["rennes"]
    # all three of nancy: once both jobs are over, two minutes of grace included
    assert out["free"][0] == bed.now + 600 + 3600 + 121
    assert sorted(site for _, site in out["specs"]) == ["nancy", "rennes"]


def test_topology_is_a_star_of_sites(bed: Bed) -> None:
    pytest.importorskip("networkx", reason="execo's topology needs networkx")
    out = bed.execo("""
from execo_g5k.topology import g5k_graph
import networkx
graph = g5k_graph(['nancy', 'lyon', 'rennes'])
out['hosts'] = sorted(name for name, _ in graph.get_hosts())
out['sites'] = sorted(graph.get_sites())
out['path'] = networkx.shortest_path(graph, 'graphene-1', 'paradent-1')
out['rates'] = sorted({data['bandwidth'] for _, _, data in graph.edges(data=True)})
""")
    assert len(out["hosts"]) == 8
    assert out["sites"] == ["lyon", "nancy", "rennes"]
    assert out["path"] == [
        "graphene-1",
        "gw-nancy.nancy",
        "renater-nancy",
        "renater-local",
        "renater-rennes",
        "gw-rennes.rennes",
        "paradent-1",
    ]
    assert out["rates"] == [10**9, 10**10]


def test_nodes_change_their_vlan(bed: Bed) -> None:
    out = bed.execo("""
from execo import Host
out['status'] = set_nodes_vlan('nancy', [Host('graphene-1.nancy.grid5000.fr')], 'eth0', 14).status_code
try:
    set_nodes_vlan('nancy', [Host('graphene-3.nancy.grid5000.fr')], 'eth0', 14)
except APIException as error:
    out['refused'] = error.response.status_code
""")
    assert out == {"status": 200, "refused": 403}
    assert bed.machines.vlans == {"graphene-1": 14}


def test_requests_without_the_password_are_refused(bed: Bed) -> None:
    out = bed.execo(
        """
try:
    get_resource_attributes('sites')
except APIException as error:
    out = error.response.status_code
""",
        credentials="",
    )
    assert out == 401


def test_user_and_password_as_execo_has_them(bed: Bed) -> None:
    """The other way to give them: execo's own, without asking a person or a keyring."""
    out = bed.execo(
        f"""
g5k_configuration['api_username'] = 'g5k'
api_utils.__dict__['__api_passwords']['g5k'] = {PASSWORD!r}
out = len(get_g5k_hosts())
""",
        credentials="",
    )
    assert out == 8
