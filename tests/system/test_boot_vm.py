"""Real VMs, real dnsmasq and nginx, all through the host agent, in namespaces of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from netboot_lab import HOME, Lab, missing

from g5kvirt.errors import MachineError
from g5kvirt.hostagent import protocol
from g5kvirt.hostagent.onhost.facts import probe_guest_runs
from g5kvirt.hostagent.onhost.qemu import USER
from g5kvirt.images import minimal
from g5kvirt.netboot import services as nb
from g5kvirt.netboot.boot_tracker import MILESTONES

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing())]

#: Seconds for a boot on a machine that has other things to do as well.
PATIENCE = 240.0

DIG = r"""
import socket, struct, sys
server, name, kind = sys.argv[1:]
query = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0)
query += b"".join(bytes([len(p)]) + p.encode() for p in name.split("."))
query += b"\0" + struct.pack(">2H", int(kind), 1)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.sendto(query, (server, 53))
print(s.recv(512)[len(query):])
"""


@pytest.fixture(scope="module")
def system() -> minimal.MinimalSystem:
    try:
        return minimal.build()
    except MachineError as error:
        pytest.skip(str(error))


@pytest.fixture
def lab(system: minimal.MinimalSystem, request: pytest.FixtureRequest) -> Iterator[Lab]:
    made = Lab(system, **getattr(request, "param", {}))
    try:
        failed = [a for a in made.prepare() if not a.ok]
        assert not failed
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("lab", [{"vms": 2}], indirect=True)
def test_vms_netboot_report_and_leave_nothing(lab: Lab) -> None:
    before = time.time()
    started = lab.start()
    assert [a.reason for a in started.values() if not a.ok] == []
    assert all(a.unchanged for a in lab.start().values())
    for answer in started.values():
        status = lab.hosts[0].run("cat", f"/proc/{answer.detail['pid']}/status")
        facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert facts["Uid"].split() == facts["Gid"].split() == [str(USER)] * 4
        assert (facts["Seccomp"], facts["CapEff"].strip("0"), facts["Groups"].strip()) == ("2", "", "")
    monitor = lab.hosts[0].run("stat", "-c", "%U %A", f"{HOME}/vms/vm-1.qmp", f"{HOME}/vms").split()
    assert (monitor[0], monitor[2:]) == ("root", ["root", "drwx------"]), "nobody else gets to the monitors"
    seen = lab.milestones(PATIENCE)
    for name, steps in seen.items():
        assert set(steps) == set(MILESTONES), lab.hosts[0].read(f"{HOME}/consoles/{name}.serial")
        times = [started[name].detail["power_on"], *(steps[step].t for step in MILESTONES)]
        assert times == sorted(times)
        assert before < times[0]
        assert time.time() > times[-1]
        assert steps["minimal-system"].detail["name"] == name  # it had its name from DHCP
    sizes = {step: seen["vm-1"][step].detail["bytes"] for step in ("kernel", "initrd")}
    assert sizes == {step: getattr(lab.minimal, step).stat().st_size for step in sizes}

    # names both ways, from dnsmasq
    answer = lab.service.run("python3", "-c", DIG, "10.144.0.1", "vm-2.nancy.g5kvirt", "1")
    assert r"\n\x90\x01\x02" in answer
    answer = lab.service.run("python3", "-c", DIG, "10.144.0.1", "2.1.144.10.in-addr.arpa", "12")
    assert "vm-2" in answer

    # a task is done once and reported, the service's processes may be killed meanwhile
    (nginx,) = lab.service.agent(protocol.services(["nginx"]))
    lab.service.run("kill", "-9", str(nginx.detail["child"]))
    lab.service.write(f"{nb.WWW}/task/vm-1", b"# 1\nreport image\n")
    again = lab.milestones(PATIENCE, until=lambda s: "image" in s["vm-1"])
    assert "image" in again["vm-1"]
    time.sleep(5)
    assert lab.service.read(nb.ACCESS_LOG).count("step=image") == 1

    # all goes, the host has its address back
    stopped = lab.hosts[0].agent(protocol.stop())
    assert [(a.subject, a.ok) for a in stopped] == [("vm-1", True), ("vm-2", True)]
    links = lab.hosts[0].run("ip", "-br", "link")
    assert "v0200" not in links
    assert "br0" in links
    assert all(a.ok for machine in (lab.hosts[0], lab.service) for a in machine.agent(protocol.teardown()))
    assert "10.9.0.2/24" in lab.hosts[0].run("ip", "-br", "addr", "show", "dev", "eth0")
    assert "default via 10.9.0.254 dev eth0" in lab.hosts[0].run("ip", "route")
    left = lab.hosts[0].run("sh", "-c", "ls /run; cat /proc/[0-9]*/comm") + lab.service.run(
        "sh", "-c", "cat /proc/[0-9]*/comm"
    )
    assert "agent" not in left
    assert not Path(f"/proc/{lab.hosts[0].pid}/root{HOME}").exists()


@pytest.mark.parametrize("lab", [{"vms": 1}], indirect=True)
def test_a_vm_boots_from_the_iso_and_again_after_a_power_cycle(lab: Lab) -> None:
    host = lab.hosts[0]
    started = lab.start(boot="iso")
    assert started["vm-1"].ok, started["vm-1"].reason
    assert "minimal-system" in lab.milestones(PATIENCE)["vm-1"]
    (off,) = host.agent(protocol.power("off"))
    assert off.ok
    assert host.agent(protocol.status())[0].detail["state"] == "off"
    (on,) = host.agent(protocol.power("on"))
    assert on.ok, on.reason
    host.agent(protocol.power("reset"))
    second = lab.milestones(PATIENCE)["vm-1"]
    assert second["minimal-system"].t > on.detail["power_on"]


@pytest.mark.parametrize("lab", [{"vms": 1, "protocol": "tftp"}], indirect=True)
def test_tftp_netboot_begins(lab: Lab) -> None:
    """The kernel alone takes a minute by TFTP under emulation: the script is proof enough."""
    assert [a.reason for a in lab.start().values() if not a.ok] == []
    seen = lab.milestones(PATIENCE, until=lambda s: "script" in s["vm-1"])
    assert list(seen["vm-1"]) == ["dhcp", "script"]


@pytest.mark.parametrize("lab", [{"vms": 2}], indirect=True)
def test_one_vm_that_cannot_start_does_not_hide_the_others(lab: Lab) -> None:
    bad = [protocol.vm("vm-1", lab.vms[0].mac, memory=1 << 50), protocol.vm("vm-2", lab.vms[1].mac)]
    answers = {a.subject: a for a in lab.hosts[0].agent(protocol.start(bad, memory=64 << 20))}
    assert not answers["vm-1"].ok
    assert "QEMU" in answers["vm-1"].reason
    assert answers["vm-2"].ok
    (host,) = lab.hosts
    host.run("kill", "-9", str(answers["vm-2"].detail["pid"]))
    states = {a.subject: a.detail["state"] for a in host.agent(protocol.status(["vm-2", "vm-9"]))}
    assert states == {"vm-2": "dead", "vm-9": "unknown"}
    (again,) = host.agent(protocol.start([bad[1]], memory=64 << 20))
    assert again.ok
    assert not again.unchanged


def test_the_probe_of_acceleration_runs_a_real_guest(tmp_path: Path) -> None:
    """With emulation it must answer; so a "no" for KVM is KVM's, not the probe's."""
    assert probe_guest_runs("tcg", str(tmp_path), 30.0) == (True, "")
    assert not probe_guest_runs("no-such-accelerator", str(tmp_path), 30.0)[0]
