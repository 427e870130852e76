"""The unmodified python-grid5000 on a local testbed: a job from its submission to its end, over REST only.

In a process of its own, whose home is what `g5kvirt local clients` writes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from localbed import MARKS, kavlan, on, ssh, temporary_testbed, wait

from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local.clients import Clients, write_configurations

pytestmark = [
    *MARKS,
    pytest.mark.skipif(
        importlib.util.find_spec("grid5000") is None, reason="python-grid5000 is not installed"
    ),
]

SCRIPT = """
import json, sys, time
from pathlib import Path
from grid5000 import Grid5000
from grid5000.exceptions import Grid5000CreateError, Grid5000DeleteError

def until(condition, what):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.3)

out = {}
site = Grid5000.from_yaml(Path.home() / ".python-grid5000.yaml").sites["nancy"]
job = site.jobs.create({
    "command": "sleep 3600",
    "resources": "{type='kavlan'}/vlan=1+/nodes=1,walltime=0:30:00",
    "types": ["deploy"],
    "name": "own client",
})
out["submitted"] = [job.state, job.user, job.name, job.walltime]
try:
    until(lambda: job.refresh() or job.state == "running", job)
    out["cores"], out["nodes"] = job.resources_by_type["cores"], job.assigned_nodes
    out["vlan"] = vlan = job.resources_by_type["vlans"][0]
    out["listed"] = [one.uid for one in site.jobs.list(state="running", user="g5k", name="own client")]
    busy = site.status.list().nodes
    out["soft"] = sorted((name, busy[name]["soft"]) for name in busy)
    out["reserved"] = [one["uid"] for one in busy[job.assigned_nodes[0]]["reservations"]]

    deployment = site.deployments.create({
        "nodes": job.assigned_nodes, "environment": "debian12-min", "key": sys.argv[1], "vlan": vlan})
    until(lambda: deployment.refresh() or deployment.status != "processing", deployment)
    out["deployed"] = [deployment.status, deployment.result]
    name = job.assigned_nodes[0].replace(".", "-eth0.", 1)
    out["in vlan"] = [node.uid for node in site.vlans[vlan].nodes.list()]
    site.vlans["DEFAULT"].nodes.submit([name])
    out["moved back"] = site.vlansnodes.get(name).vlan
    out["moved"] = site.vlans[vlan].nodes.submit([name])
    out["users"] = [user.uid for user in site.vlans[vlan].users.list()]
    try:
        site.vlans["9" if vlan != "9" else "8"].nodes.submit([name])
    except Exception as error:
        out["not ours"] = error.response_code

    job.walltime_change.create({"walltime": "+0:10:00"})
    until(lambda: job.refresh() or job.walltime == 2400, job)
    out["granted"] = job.walltime_change.get().granted
    print("HELD", flush=True)
    sys.stdin.readline()
finally:
    job.delete()
until(lambda: job.refresh() or job.state in ("error", "terminated"), job)
out["ended"] = [job.state, job.stopped_at >= job.started_at]
for body in ({"command": "a", "resources": "nodes=99", "types": ["deploy"]}, {"command": "a\\0"}):
    try:
        site.jobs.create(body)
    except Grid5000CreateError as error:
        out.setdefault("refused", []).append([error.response_code, error.error_message])
try:
    site.jobs.delete(999)
except Grid5000DeleteError as error:
    out["unknown"] = error.response_code
print("ANSWER " + json.dumps(out))
"""


@pytest.fixture(scope="module")
def clients() -> Iterator[Clients]:
    with temporary_testbed("client", make({"nancy": 2}, cores=2)) as state:
        yield write_configurations(state.name)


def test_a_job_from_submission_to_deletion(clients: Clients) -> None:
    state = clients.state
    public = state.key.with_suffix(".pub").read_text()
    environment = {
        "HOME": str(clients.directory),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "NO_PROXY": "127.0.0.1",
    }
    script = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, public],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert script.stdout is not None
    with script:
        try:
            held = script.stdout.readline()  # the script ends by itself if a step takes too long
            if held == "HELD\n":
                (vlan,) = on(state, "nancy.grid5000.fr", "kavlan -V -j 1").split()
                node = kavlan("graphene-1.nancy.grid5000.fr", int(vlan))
                wait(lambda: ssh(state, node, "true").returncode == 0)
                assert on(state, node, "cat /etc/g5k-environment").strip() == "debian12-min"
            printed, errors = script.communicate("go on\n", timeout=200)
        finally:
            script.kill()
    assert held == "HELD\n", errors
    assert script.returncode == 0, errors
    check(json.loads(printed.removeprefix("ANSWER ")))


def check(out: dict[str, Any]) -> None:
    node = "graphene-1.nancy.grid5000.fr"
    interface = "graphene-1-eth0.nancy.grid5000.fr"
    assert out["submitted"] == ["waiting", "g5k", "own client", 1800]
    assert (out["nodes"], out["cores"]) == ([node], [f"{node}/0", f"{node}/1"])
    assert out["listed"] == out["reserved"] == [1]
    assert out["soft"] == [[node, "busy"], ["graphene-2.nancy.grid5000.fr", "free"]]
    assert out["deployed"] == ["terminated", {node: {"macro": None, "micro": None, "state": "OK"}}]
    assert (out["in vlan"], out["moved back"], out["users"]) == ([interface], "DEFAULT", ["g5k"])
    assert out["moved"][interface]["status"] == "success"
    assert out["not ours"] == 403
    assert out["granted"] == "+0:10:0"
    assert out["ended"] == ["error", True]  # as OAR calls a job that was deleted
    (code, reason), (bad, why) = out["refused"]
    assert (code, bad, out["unknown"]) == (400, 400, 404)
    assert "not enough resources" in reason
    assert "null byte" in why
