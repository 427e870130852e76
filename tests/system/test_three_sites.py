"""Three sites in one global VLAN, each with its own service machines: every VM is served by its own site's.

Shown from what the services themselves logged.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from localbed import MARKS
from scripts import answer
from test_variants import begin, frames

from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local import lifecycle

pytestmark = [*MARKS, pytest.mark.vm]

SCRIPT = """
spec = Spec(sites=SITES, vms=VMS, services=SERVICES)
exp = Experiment(spec, testbed=testbed, name=name, runs=runs)
try:
    steps(exp, "reserve", "deploy", "configure", "place", "launch")
    if MEASURED:
        exp.measure(sizes=[MEASURED])
    cluster = cluster_state(exp.spec, exp.journal.state)
    found = []
    for m in cluster.layout.machines:
        dns = run(exp, m.host, f"cat {hostagent.service_log('dnsmasq')}") if "dhcp" in m.roles else ""
        web = run(exp, m.host, f"cat {netboot.ACCESS_LOG}") if "http" in m.roles else ""
        (address,) = m.addresses.values()
        logs = {"dnsmasq": dns, "nginx": web}
        found.append({"site": m.host.site, "roles": list(m.roles), "address": str(address), **logs})
    address = cluster.addresses
    hosts = {s: [str(address[h.name]) for h in cluster.hosts if h.site == s] for s in SITES}
    print(json.dumps({"vlan": cluster.reservation.vlan, "machines": found, "hosts": hosts}))
finally:
    exp.release()
"""

#: What nginx is asked for by VMs.
ASKED = re.compile(r"/(boot/[0-9a-f-]+|kernel|initrd|report\?step=(?P<step>[a-z-]+)&.*)")


def requests(log: str) -> Iterator[tuple[str, str, str]]:
    """(from, what, the whole address) of every request that nginx answered with what was asked for."""
    for line in log.splitlines():
        entry = json.loads(line)
        if (found := ASKED.fullmatch(entry["uri"])) and entry["status"] in (200, 206):
            yield entry["from"], found["step"] or found[1].partition("/")[0], entry["uri"]


def shown(
    name: str, runs: Path, hosts: Mapping[str, int], services: Mapping[str, int], vms: int, measured: int = 0
) -> None:
    """Raise a testbed, launch, deploy on ``measured``, and look at who was asked by whom.

    By site: hosts, and service machines.
    """
    state = lifecycle.up(name, make({site: hosts[site] + services[site] for site in hosts}))
    words = {"SITES": hosts, "VMS": vms, "SERVICES": sum(services.values()), "MEASURED": measured}
    script = SCRIPT
    for word, value in words.items():
        script = script.replace(word, repr(value))
    began = time.monotonic()
    told = answer(begin(script, state, runs, "sites"), timeout=900)
    print(f"{vms} VMs on {sum(hosts.values())} hosts: {time.monotonic() - began:.0f} s")
    assert told["vlan"] > 9, "a global KaVLAN"
    table = frames(runs, "sites").vms
    assert list(table["state"]) == ["up"] * vms
    name_of = dict(zip(table["ip"].astype(str), table["name"], strict=True))
    for site, number in hosts.items():
        own = set(table[table["site"] == site]["ip"].astype(str))
        assert len(own) == vms * number / sum(hosts.values())
        machines = [m for m in told["machines"] if m["site"] == site]
        assert len(machines) == services[site]
        served(machines, own, name_of)
        if measured:  # the image came to the site's hosts once, from the site's own server
            asked = [ip for m in machines for ip in images(m["nginx"])]
            assert len(asked) == 1
            assert asked[0] in told["hosts"][site]


def images(log: str) -> list[str]:
    """Who asked nginx for an environment's image."""
    entries = [json.loads(line) for line in log.splitlines()]
    return [e["from"] for e in entries if re.search(r"/[0-9a-f]{64}", e["uri"])]


def served(machines: list[Any], own: set[str], name_of: Mapping[str, str]) -> None:
    """The service machines of a site served its VMs, each a part of them, and nobody else."""
    (resolver,) = [m["address"] for m in machines if "dhcp" in m["roles"]]
    shares = []
    for machine in machines:
        acknowledged = set(re.findall(r"DHCPACK\(\S+\) (\S+)", machine["dnsmasq"]))
        assert acknowledged == (own if "dhcp" in machine["roles"] else set())
        asked: dict[str, set[str]] = {}
        for ip, what, uri in requests(machine["nginx"]):
            asked.setdefault(what, set()).add(ip)
            if what == "minimal-system":  # its words: who it is, and whom it was told to ask for names
                said = re.search(r"&name=([^&]+)&.*&dns=([^&]*)", uri)
                assert said, uri
                assert said.groups() == (name_of[ip], resolver)
        if "http" in machine["roles"]:
            share = asked["boot"]
            assert all(asked[what] == share for what in ("boot", "kernel", "initrd", "minimal-system"))
            assert set().union(*asked.values()) == share
            shares.append(share)
    assert set().union(*shares) == own
    assert sum(map(len, shares)) == len(own)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1, "VMs are dealt in turn"


@pytest.mark.slow  # tests/faults has two sites, each with its own services
def test_each_vm_is_served_by_its_own_site(name: str, tmp_path: Path) -> None:
    """nancy has a machine for DHCP and DNS and two for HTTP, the others have one for all."""
    hosts = {"nancy": 2, "rennes": 1, "lyon": 1}
    shown(name, tmp_path, hosts, {"nancy": 3, "rennes": 1, "lyon": 1}, vms=4)


@pytest.mark.slow
def test_24_vms_on_12_hosts_are_served_by_their_own_sites(name: str, tmp_path: Path) -> None:
    sites = ("nancy", "rennes", "lyon")
    shown(name, tmp_path, dict.fromkeys(sites, 4), dict.fromkeys(sites, 1), vms=24, measured=6)
