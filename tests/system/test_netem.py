"""Latency and loss of links by a kernel that has netem, as Grid'5000's have: that of a deployed VM.

The machine that runs the tests may have none. Minutes, for an image is built and an emulated VM deployed.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from localbed import MARKS, temporary_testbed
from scripts import answer, start

from g5kvirt.hostagent import onhost
from g5kvirt.images.custom import build_image
from g5kvirt.testbeds.described.description import make

pytestmark = [*MARKS, pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(1800)]

PACKAGES = "python3,iproute2,nftables,iputils-ping,util-linux"

#: Runs in the VM, which is the host of two VMs here: namespaces behind ports that are called as taps are.
INSIDE = """
import json, re, subprocess, sys
from onhost import links

MAC = "52:54:00:00:00:0"

def sh(command):
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stdout + done.stderr)
    return done.stdout

sh("ip link add br0 type bridge && ip link set br0 up")
for n in "12":
    sh(f"ip netns add vm{n}")
    sh(f"ip link add v52540000000{n} type veth peer name eth0 address {MAC}{n} netns vm{n}")
    sh(f"ip link set v52540000000{n} master br0 up; ip -n vm{n} link set eth0 up")
    sh(f"ip -n vm{n} addr add 10.0.0.1{n}/24 dev eth0")

def ping(count):
    out = sh(f"ip netns exec vm1 ping -q -c {count} -i 0.05 10.0.0.12 || true")
    received = int(re.search(r"(\\d+) received", out)[1])
    least = re.search(r"= ([0-9.]+)/", out)
    return {"sent": count, "received": received, "ms": float(least[1]) if least else None}

def set_links(**link):
    one = {"rate": None, "latency": None, "loss": None, "from": [1], **link}
    request = {"ranges": [["10.0.0.11", "10.0.0.11", 1]], "classes": {"2": [one]}, "vms": {MAC + "2": 2}}
    return list(links.links(request, "/run"))

found = {"kernel": sh("uname -r").strip(), "before": ping(20)}
set_links(latency=0.04)
found["latency"] = ping(20)
set_links(latency=0.04, rate=10e6)
found["both"] = ping(20)
set_links(loss=0.2)
found["loss"] = ping(400)
links.remove("/run")
found["removed"] = ping(20)
found["left"] = sh("tc qdisc show dev v525400000002; nft list tables")
print(json.dumps(found))
"""

SCRIPT = """
spec = Spec(sites={"nancy": 1}, vms=1, vm={"memory": 1024, "disk": 2048})
exp = Experiment(spec, testbed=testbed, name="netem", runs=runs)
try:
    for step in ("reserve", "deploy", "configure", "place", "launch"):
        getattr(exp, step)()
    exp.measure(environment=runs + "/netem.yaml")
    exp.put(runs + "/inside", "/root/")
    row = exp.run("cd /root/inside && python3 inside.py", timeout=300).iloc[0]
    print(json.dumps(row[["ok", "out", "err"]].to_dict()))
finally:
    exp.release()
"""


def test_latency_and_loss_are_what_the_link_says(tmp_path: Path) -> None:
    build_image("netem", PACKAGES, folder=tmp_path)
    inside = tmp_path / "inside"
    (inside / "onhost").mkdir(parents=True)
    for source in Path(onhost.__file__).parent.glob("*.py"):
        (inside / "onhost" / source.name).write_bytes(source.read_bytes())
    (inside / "inside.py").write_text(INSIDE)
    with temporary_testbed("netem", make({"nancy": 2}, memory_gib=4)) as state:
        row = answer(start(SCRIPT, state, tmp_path), timeout=1200)
    assert row["ok"], row
    found = json.loads(row["out"].splitlines()[-1])
    print(found)
    before = found["before"]["ms"]
    assert found["before"]["received"] == found["latency"]["received"] == 20
    for one in ("latency", "both"):  # of the one direction: what vm-2 receives
        assert 40 <= found[one]["ms"] <= 40 + before + 10, found
    lost = 1 - found["loss"]["received"] / found["loss"]["sent"]
    assert 0.1 <= lost <= 0.3, found  # five standard deviations
    assert found["removed"]["received"] == 20
    assert found["removed"]["ms"] < 40
    assert "netem" not in found["left"]
    assert "g5kvirt_links" not in found["left"]
