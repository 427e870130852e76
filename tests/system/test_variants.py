"""What a spec may ask for besides the usual, and services that fail at the worst moment: with real VMs.

Each experiment runs in a process of its own, for execo knows one testbed a process.
"""

from __future__ import annotations

import json
import re
import subprocess
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from localbed import MARKS, temporary_testbed
from scripts import answer, start

from g5kvirt.run.journal import read_events
from g5kvirt.run.tables import Frames
from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local.state import State

pytestmark = [*MARKS, pytest.mark.vm]

NIC = 100e6  #: bits per second of every machine

#: What the scripts below have at hand; they print one line of JSON at their end.
HELPERS = """
import threading
from g5kvirt.hostagent import calls as agents, protocol as hostagent
from g5kvirt.planning.cluster import cluster_state
from g5kvirt.phases.configure import configure
from g5kvirt.phases.launch import launch
from g5kvirt.netboot import services as netboot

def run(exp, host, command):
    done = exp._runner.context.fanout.run([host.address], ["sh", "-c", command], timeout=30)[host.address]
    assert done.ok, (host.name, command, done)
    return done.stdout.decode()

def ask(exp, hosts, *requests):
    document = hostagent.document(*requests)
    heard = agents.call_agents(exp._runner.context.fanout, {h: document for h in hosts}, timeout=30)
    assert all(h.ok for h in heard), heard
    return {h.host.name: h.answers for h in heard}

def steps(exp, *names):
    for step in names:
        getattr(exp, step)()

def logs(exp):
    found = {}
    for m in cluster_state(exp.spec, exp.journal.state).layout.machines:
        paths = [hostagent.service_log("dnsmasq")] * ("dhcp" in m.roles)
        paths += [netboot.ACCESS_LOG] * ("http" in m.roles)
        found[m.host.site, m.roles] = run(exp, m.host, "cat " + " ".join(paths))
    return [[site, list(roles), text] for (site, roles), text in found.items()]
"""


@pytest.fixture(scope="module")
def grid() -> Iterator[State]:
    with temporary_testbed("variants", make({"nancy": 3, "rennes": 3}, nic_gbps=NIC / 1e9)) as state:
        yield state


def begin(script: str, state: State, runs: Path, name: str) -> subprocess.Popen[str]:
    return start(f"{HELPERS}\nname = {name!r}\n{textwrap.dedent(script)}", state, runs)


def frames(runs: Path, name: str) -> Frames:
    return Frames(read_events(runs / name / "journal.jsonl"))


#: DHCP is silent for longer than the ROM's patience (it asks at 0, 1, 3 and 7 s and gives up at 15 s).
SILENT = """
spec = Spec(sites={SITE: 1}, vms=1, boot=BOOT)
exp = Experiment(spec, testbed=testbed, name=name, runs=runs)
try:
    steps(exp, "reserve", "deploy", "configure", "place")
    (machine,) = cluster_state(exp.spec, exp.journal.state).layout.machines
    rule = "add rule inet test in udp dport 67 counter drop"
    chain = "add chain inet test in { type filter hook input priority 0; }"
    run(exp, machine.host, f"nft 'add table inet test; {chain}; {rule}'")
    counted = []
    def speak():
        counted.append(run(exp, machine.host, "nft list chain inet test in; nft delete table inet test"))
    timer = threading.Timer(22, speak)
    timer.start()
    exp.launch()
    timer.join()
    print(json.dumps(counted))
finally:
    exp.release()
"""


@pytest.mark.slow  # a minute of waiting
def test_vms_boot_although_dhcp_was_silent_for_longer_than_a_rom_waits(grid: State, tmp_path: Path) -> None:
    """By ROM (the firmware starts over) and from the ISO (its script does): two runs at once, which do not
    disturb each other."""
    cases = {"rom": "nancy", "iso": "rennes"}
    scripts = {b: SILENT.replace("SITE", repr(s)).replace("BOOT", repr(b)) for b, s in cases.items()}
    running = {boot: begin(script, grid, tmp_path, boot) for boot, script in scripts.items()}
    for boot, process in running.items():
        (counted,) = answer(process)
        unheard = re.search(r"counter packets (\d+)", counted)
        assert unheard
        assert int(unheard[1]) >= 4, boot
        (vm,) = frames(tmp_path, boot).vms.to_dict("records")
        assert (vm["state"], vm["attempts"], vm["site"]) == ("up", 1, cases[boot]), vm
        assert vm["t_dhcp"] > 20


def acknowledged(log: str) -> set[str]:
    return set(re.findall(r"DHCPACK\(\S+\) \S+ \S+ (\S+)", log))


def test_tftp_with_dhcp_and_http_apart(grid: State, tmp_path: Path) -> None:
    """nancy has a machine for DHCP and TFTP and one for HTTP, rennes one for all: each serves its own VMs."""
    script = """
    spec = Spec(sites={"nancy": 1, "rennes": 1}, vms=2, services=3, netboot="tftp")
    exp = Experiment(spec, testbed=testbed, name=name, runs=runs)
    try:
        steps(exp, "reserve", "deploy", "configure", "place", "launch")
        print(json.dumps(logs(exp)))
    finally:
        exp.release()
    """
    found = answer(begin(script, grid, tmp_path, "tftp"))
    vms = frames(tmp_path, "tftp").vms
    assert list(vms["state"]) == ["up", "up"]
    own = {site: set(vms[vms["site"] == site]["name"]) for site in ("nancy", "rennes")}
    roles = {tuple(roles): site for site, roles, _ in found}
    assert roles == {("dhcp",): "nancy", ("http",): "nancy", ("dhcp", "http"): "rennes"}
    for site, played, log in found:
        assert acknowledged(log) == (own[site] if "dhcp" in played else set())
        # both hear every VM's request, for they share one Ethernet; a stranger's is not answered
        assert (re.search(r"DHCPDISCOVER\S+ \S+ ignored", log) is not None) == ("dhcp" in played)
        assert log.count("/www/kernel to ") == ("dhcp" in played)
        assert set(re.findall(r"step=minimal-system&name=(vm-\d+)", log)) == (
            own[site] if "http" in played else set()
        )
        assert '"/kernel"' not in log


def transfers(logs: list[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(site, line of nginx's log) of every kernel that went out whole."""
    for site, _, text in logs:
        for line in text.splitlines():
            if line.startswith("{") and '"uri":"/kernel"' in line:
                entry = json.loads(line)
                if entry["bytes"] > 10e6:
                    yield site, entry


@pytest.mark.slow  # tests/faults and test_measure.py kill HTTP servers as well
def test_http_of_two_sites_killed_amid_the_kernel(grid: State, tmp_path: Path) -> None:
    """nginx dies while kernels are on their way, at the rate of the machines' links, and comes back.

    Steps that are done once more change nothing; a teardown leaves the host as it was, though ssh comes
    through the very bridge that goes.
    """
    script = """
    spec = Spec(sites={"nancy": 1, "rennes": 1}, vms=4, services=2)
    exp = Experiment(spec, testbed=testbed, name=name, runs=runs)
    killed, changed = [], []
    def interrupt(machines):
        deadline = time.monotonic() + 100
        while sum(e.step == "script" for e in exp.journal) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        for m in machines:
            killed.append(run(exp, m.host, "pkill -9 -c nginx"))
    def look():
        heard = ask(exp, cluster.machines, hostagent.services(), hostagent.status())
        keys = ("state", "pid", "child", "starts")
        return {(h, a.op, a.subject): [a.detail.get(k) for k in keys] for h in heard for a in heard[h]}
    def repeat(step):
        before, found = look(), step(exp._runner.context)
        after = look()
        changed.extend([k, before[k], after[k]] for k in before if before[k] != after.get(k))
        return found
    try:
        steps(exp, "reserve", "deploy", "configure")
        cluster = cluster_state(exp.spec, exp.journal.state)
        repeat(configure)
        exp.place()
        thread = threading.Thread(target=interrupt, args=[cluster.layout.machines])
        thread.start()
        exp.launch()
        thread.join()
        again, found = repeat(launch), logs(exp)
        ask(exp, cluster.machines, hostagent.teardown([netboot.ROOT]))
        words = "ip -br -4 addr; ip route; cat /proc/[0-9]*/comm; ls -d /run/g5kvirt-host 2>&1 || true"
        left = {host.name: run(exp, host, words) for host in cluster.machines}
        print(json.dumps([killed, found, again, changed, left]))
    finally:
        exp.release()
    """
    killed, found, again, changed, left = answer(begin(script, grid, tmp_path, "killed"))
    vms = frames(tmp_path, "killed").vms
    assert [int(number) >= 2 for number in killed] == [True, True]
    assert list(vms["state"]) == ["up"] * 4
    assert list(vms["attempts"]) == [1] * 4  # the script tried again, nobody was powered on again
    assert again == {"up": 4, "failed": 0}
    assert changed == []

    for site in ("nancy", "rennes"):
        whole = [entry for where, entry in transfers(found) if where == site]
        assert len(whole) == 2
        first, last = min(e["t"] - e["took"] for e in whole), max(e["t"] for e in whole)
        # what is still in the sockets' buffers when nginx writes its line has not yet gone out
        bits = sum(e["bytes"] - (1 << 19) for e in whole) * 8
        assert bits / (last - first) < 1.02 * NIC

    for text in left.values():
        assert re.search(r"(?m)^eth0\S*\s+UP\s+10\.", text), text
        assert "default via" in text
        assert not re.search(r"br0|qemu|nginx|dnsmasq|^/run/g5kvirt-host$", text, re.M), text
