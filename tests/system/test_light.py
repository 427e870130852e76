"""Light guests from reservation to release: netboot, deployment, ssh, power, faults. Needs root."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from localbed import MARKS, below, process_name, temporary_testbed, wait
from scripts import LAUNCHED, answer, start

from g5kvirt.run.deployment_tables import Measurements
from g5kvirt.run.journal import read_events
from g5kvirt.run.state import RunState
from g5kvirt.run.tables import Frames
from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local.state import State

pytestmark = [*MARKS, pytest.mark.vm]

SPEC = "vms=12, guest='light', vm={'memory': 80, 'disk': 16}, capacity={'per_core': 8}"


@pytest.fixture(scope="module")
def small() -> Iterator[State]:
    """Two sites with one host each, and a service machine."""
    with temporary_testbed("light", make({"nancy": 2, "rennes": 1}, switch="managed")) as state:
        yield state


def light_processes(state: State) -> list[int]:
    """The processes that hold light guests, one per host."""
    return [pid for pid in below(state.pid) if process_name(pid) == "g5kvirt-light"]


def test_light_guests_boot_are_deployed_and_answer_ssh(small: State, tmp_path: Path) -> None:
    script = "import json\n" + LAUNCHED % (
        SPEC,
        "l",
        """
    first = exp.measure(sizes=[4, 12])
    look = "hostname; wc -c < /proc/timer_list; cat /etc/g5kvirt-environment; cat mark"
    look += "; echo $SSH_CONNECTION; touch mark"
    rows = [dict(zip(r["vm"], r["out"])) for r in (exp.run(look), exp.run(look))]
    # a sleep that outlives its connection must not outlive its guest
    exp.run("setsid sleep 4321 >/dev/null 2>&1 </dev/null & echo", ["vm-1"], timeout=20)
    # a guest reboots itself, and comes back as what was deployed; its host must not notice
    exp.run("reboot -f; sleep 5", ["vm-1"], timeout=20)
    again = exp.run("cat mark && hostname; pgrep -f 'sleep 4321'", ["vm-1"], timeout=30).iloc[0]
    # by name, also to the other site
    names = [vm.name for vm in exp.journal.state.placed_vms]
    ping = [f"ping -c 1 -W 3 {name} >/dev/null && echo {name}" for name in names]
    pings = exp.run("; ".join(ping), timeout=60)
    # files, programs, and the VMs for other tools; the directory is another one, as anybody's may be
    import os, subprocess
    from pathlib import Path
    source = Path(runs).absolute() / "source"
    (source / "bin").mkdir(parents=True)
    (source / "bin/hello").write_text("#!/bin/sh\\necho I am $(hostname)\\n")
    (source / "bin/hello").chmod(0o755)
    (source / "big").write_bytes(os.urandom(3_000_000))
    os.chdir("/")
    put = exp.put(source, "/root/in")
    ran = exp.run("in/bin/hello >out; md5sum <in/big >>out; cp in/big own; cat out")
    got = exp.get("out", Path(runs) / "got")
    whole = exp.get("/root/own", Path(runs) / "got", ["vm-7"])
    program = exp.run("echo begun; sleep 1; exit 5", ["vm-1", "vm-12"], background=True)
    once_more = Experiment.open(exp.path).programs
    ended = once_more[0].result(30)
    endless = exp.run("sleep 4322 & exec sleep 4323", ["vm-3"], background=True)
    stopped = endless.stop()
    config = str(exp.ssh_config())
    scp = subprocess.run(["scp", "-q", "-F", config, str(source / "big"), "vm-9:"], timeout=60)
    import execo
    hosts = exp.hosts(["vm-2", "vm-8"])
    remote = execo.Remote("hostname", hosts).run()
    files = {"put": list(put["ok"]), "ran": list(ran["out"]),
        "got": [Path(p).read_text() for p in got["path"]],
        "same": Path(whole["path"][0]).read_bytes() == (source / "big").read_bytes(),
        "scp": exp.run("cmp big in/big", ["vm-9"])["ok"].tolist(),
        "programs": [one.name for one in once_more] == [program.name],
        "ended": ended[["vm", "code", "out"]].values.tolist(), "stopped": list(stopped["reason"]),
        "execo": [p.stdout.strip() for p in remote.processes],
        "left": exp.run("ls /var/lib/g5kvirt", ["vm-1"])["out"].tolist(),
        "may": exp.run("grep CapBnd /proc/self/status", ["vm-2"])["out"][0]}
    exp.figures.save(exp.path / "figures")
    html = exp._repr_html_()
    print(json.dumps({"rows": rows, "again": again["out"], "html": html, "guest": exp.frames.guest,
        "reached": dict(zip(pings["vm"], pings["out"])), "files": files}))
""".strip(),
    )
    said = answer(start(script, small, tmp_path), timeout=300)
    events = read_events(tmp_path / "l" / "journal.jsonl")
    vms = Frames(events).vms
    assert list(vms["state"]) == ["up"] * 12
    assert (vms[["dhcp", "script", "kernel", "initrd", "minimal_system"]].notna()).all(axis=None)
    assert said["guest"] == "light"
    assert "network namespaces, no kernel of their own" in said["html"]
    assert f"local:{small.name} (managed switch)" in said["html"]
    tables = Measurements.of(events)
    assert list(tables.deployments["deployed"]) == [4, 12]
    assert list(tables.deployments["failed"]) == [0, 0]
    steps = tables.attempts
    outcome = steps.groupby("step")["outcome"].unique().map(sorted).to_dict()
    for step in ("partition", "format", "bootloader", "sync"):
        assert outcome[step] == ["skipped"], "what needs a disk or a kernel is not timed"
    for step in ("reboot", "minimal-system", "image", "postinstall", "boot", "ready"):
        assert outcome[step] == ["ok"]
    first, second = said["rows"]
    names = {f"vm-{n}" for n in range(1, 13)}
    assert set(first) == names
    for name, out in first.items():
        assert out.split()[:2] == [name, "0"], "the timers of the whole machine are none of its business"
        assert f"deployment={tables.deployments['deployment'].iloc[-1]}.1" in out
        address = next(e for e in events if e.step == "dhcp" and e.subject == name).detail["ip"]
        assert out.split()[-2:] == [address, "22"], "its own address, not its host's"
    assert said["again"].split() == ["vm-1"]
    assert all("mark" not in out for out in second.values()), "each has a disk of its own, which it keeps"
    assert {name: set(out.split()) for name, out in said["reached"].items()} == dict.fromkeys(names, names)
    check_files(said["files"])
    wait(lambda: not light_processes(small), timeout=10)  # they end with the run, as soon as they can


def check_files(found: dict[str, Any]) -> None:
    """What came of files and programs on twelve guests."""
    assert found["put"] == [True] * 12
    names = [f"I am vm-{n}" for n in range(1, 13)]
    assert [out.splitlines()[0] for out in found["ran"]] == names
    assert len({out.splitlines()[1] for out in found["ran"]}) == 1, "all have the same bytes"
    assert found["got"] == found["ran"]
    assert found["same"]
    assert found["scp"] == [True]
    assert found["programs"]
    assert found["ended"] == [["vm-1", 5, "begun\n"], ["vm-12", 5, "begun\n"]]
    assert found["stopped"] == ["stopped"]
    assert found["execo"] == ["vm-2", "vm-8"]
    assert found["left"] == ["programs\n"]
    load_modules, reboot = 1 << 16, 1 << 22
    assert not int(found["may"].split()[1], 16) & (load_modules | reboot), "the kernel is the host's"


def test_guests_die_with_their_process_and_those_of_other_hosts_stay(small: State, tmp_path: Path) -> None:
    script = "import json, os, signal\n" + LAUNCHED % (
        SPEC,
        "k",
        """
    deadline = time.monotonic() + 60
    while not (exp.path / "go").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    from g5kvirt.hostagent import calls, protocol
    from g5kvirt.planning.cluster import cluster_state
    cluster = cluster_state(exp.spec, exp.journal.state)
    fanout = exp._runner.context.fanout
    def ask(request):
        documents = dict.fromkeys(cluster.hosts, protocol.document(request))
        replies = calls.call_agents(fanout, documents, timeout=60)
        return [(a.subject, a.detail.get("state", a.reason)) for r in replies for a in r.answers]
    status = dict(ask(protocol.status()))
    refused = ask(protocol.power("reset", [name for name, state in status.items() if state == "dead"]))
    ask(protocol.stop())
    print(json.dumps({"status": status, "refused": refused, "left": ask(protocol.status())}))
""".strip(),
    )
    process = start(script, small, tmp_path)
    try:
        wait(lambda: len(light_processes(small)) == 2 and done(tmp_path / "k" / "journal.jsonl"))
        os.kill(light_processes(small)[0], signal.SIGKILL)
        (tmp_path / "k" / "go").touch()
        found = answer(process, timeout=120)
    finally:
        process.kill()
    status = found["status"]
    assert sorted(status.values()) == ["dead"] * 6 + ["running"] * 6
    gone = [
        reason for _, reason in found["refused"] if "ended with the process of the light guests" in reason
    ]
    assert len(gone) == 6, "from their host; the other one does not know them"
    assert found["left"] == []
    wait(lambda: not light_processes(small), timeout=10)


LINKED = """vms=[{"name": "server", "count": 2}, {"name": "client", "count": 4}], guest="light",
    vm={"memory": 80, "disk": 16}, links=[{"between": ["client", "server"], "rate": "20mbit"}]"""


def test_groups_have_links_whose_rate_is_measured_and_changed_while_they_run(
    small: State, tmp_path: Path
) -> None:
    script = "import json\n" + LAUNCHED % (
        LINKED,
        "g",
        """
    from g5kvirt import Link
    exp.measure("light")
    slow = exp.measure_links()
    names = exp.run("hostname", group="client")
    refused = ""
    try:
        exp.set_links([Link("client", "server", latency="10ms")])
    except G5kvirtError as error:
        refused = str(error)
    within = Link("client", "client", rate="8mbit")
    fast = exp.set_links([Link("server", "client", rate="60mbit", symmetric=False), within])
    tables = [json.loads(t.to_json(orient="records")) for t in (slow, fast)]
    print(json.dumps({"tables": tables, "names": names["out"].str.strip().tolist(), "refused": refused}))
""".strip(),
    )
    found = answer(start(script, small, tmp_path), timeout=300)
    slow, fast = found["tables"]
    assert [(row["from"], row["to"]) for row in slow] == [("client", "server"), ("server", "client")]
    for row in slow:
        assert row["reason"] == ""
        assert row["measured_rate"] == pytest.approx(20e6, rel=0.1)
        assert 0 < row["rtt"] < 1
        assert row["measured_loss"] == 0
        assert row["source"].startswith(row["from"])
        assert row["target"].startswith(row["to"])
    assert [row["rate"] for row in fast] == [60e6, 8e6]
    for row in fast:
        assert row["measured_rate"] == pytest.approx(row["rate"], rel=0.2), row
    assert found["names"] == [f"client-{n}" for n in range(1, 5)]
    assert small.netem or "has no netem" in found["refused"]
    frames = Frames(read_events(tmp_path / "g" / "journal.jsonl"))
    assert list(frames.links["what"]) == [*["set", "set", "measured", "measured"] * 2, "none"]
    assert frames.vms.groupby("group")["state"].unique().map(list).to_dict() == {
        "client": ["up"],
        "server": ["up"],
    }


def done(journal: Path) -> bool:
    """Whether all guests are up."""
    return journal.exists() and RunState.of(read_events(journal)).done("launch")
