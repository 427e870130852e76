"""A small part of the experiment of the slides: 300 light guests on 60 hosts of 6 sites. Needs root."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from localbed import MARKS, below, temporary_testbed, wait
from scripts import answer, start

from g5kvirt.run.deployment_tables import Measurements
from g5kvirt.run.journal import read_events
from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local.state import State

pytestmark = [*MARKS, pytest.mark.vm]

SITES = ("grenoble", "lille", "lyon", "nancy", "nantes", "rennes")
SCRIPT = f"""
exp = Experiment(
    Spec(
        sites=dict.fromkeys({SITES!r}, 10),
        vms=300,
        guest="light",
        services=6,
        vm={{"memory": 80, "disk": 16}},
        capacity={{"per_core": 4, "max_per_host": 5}},
    ),
    testbed=testbed,
    name="s",
    runs=runs,
)
try:
    for step in ("reserve", "deploy", "configure", "place", "launch"):
        getattr(exp, step)()
    up = exp.frames.vms["state"].value_counts().to_dict()
    exp.measure(environment="light")
    rows = exp.run("hostname")  # on those that were deployed
    right = int((rows["vm"] == rows["out"].str.strip()).sum())
    ran = {{"right": right, "files": os.listdir(exp.path / "ssh")}}
    print(json.dumps({{"up": up, "ran": ran}}))
finally:
    exp.release()
"""


@pytest.fixture(scope="module")
def large() -> Iterator[State]:
    with temporary_testbed("scale", make(dict.fromkeys(SITES, 11), switch="managed")) as state:
        yield state


def processes(state: State, name: str) -> list[int]:
    """The processes of the testbed that ps shows by this name."""
    found = []
    for pid in below(state.pid):
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                found.append(pid)
        except OSError:  # it has ended
            continue
    return found


def parent(pid: int) -> int:
    """The parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.slow  # two minutes
def test_300_guests_on_60_hosts_are_deployed_whatever_is_killed(large: State, tmp_path: Path) -> None:
    """In the deployment a host, a relay and the HTTP server of a site are killed."""
    process = start("import os\n" + SCRIPT, large, tmp_path)
    journal = tmp_path / "s" / "journal.jsonl"

    def under_way() -> bool:
        assert process.poll() is None, process.communicate()
        events = read_events(journal) if journal.exists() else []
        return any(e.step == "image" and e.detail.get("deployment") == "d1" for e in events)

    try:
        wait(under_way, timeout=200)
        lost, *_ = processes(large, "g5kvirt-light")
        os.kill(parent(lost), signal.SIGKILL)  # the init of its host, and all of the host with it
        os.kill(processes(large, "g5kvirt-relay")[-1], signal.SIGKILL)
        os.kill(processes(large, "nginx")[0], signal.SIGKILL)
        found = answer(process, timeout=200)
    finally:
        process.kill()
    assert found["up"] == {"up": 300}
    assert found["ran"]["right"] == 295, "each answers for itself"
    assert sorted(found["ran"]["files"]) == ["check", "check.pub", "id_ed25519", "id_ed25519.pub"], (
        "none was reached with a connection of its own"
    )
    tables = Measurements.of(read_events(journal))
    assert list(tables.deployments["deployed"]) == [295]
    assert list(tables.deployments["failed"]) == [5]
    failed = [e for e in read_events(journal) if (e.step, e.kind, e.status) == ("deployment", "vm", "failed")]
    assert len({e.detail["reason"] for e in failed}) == 1, "those of the host that was killed"
    assert all(re.fullmatch(r"its host \S+ is gone \(.*\)", e.detail["reason"]) for e in failed)
