"""The slides' experiment, hosts and services of which die during a deployment.

``python tests/faults/at_scale.py [--vms 300]``: once a tenth of the guests have their image, one host in a
hundred loses its power, and the nginx of one site and the relay of one host are killed. What has to hold:
each guest is deployed, or has failed with a step and a reason, and all guests of other hosts are deployed.
Prints a line of JSON; needs root.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "support"))

from localbed import PREFIX, wait
from scripts import start
from victims import Scene, host_processes

from g5kvirt.cli.demo import SLIDES_VMS, slides_sites
from g5kvirt.run.journal import Journal
from g5kvirt.run.tables import Frames
from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local import lifecycle
from g5kvirt.testbeds.local.state import State

#: Seconds until the deployment is as far as that, and until the experiment is over.
BOUND = 1800.0

SCRIPT = """
from g5kvirt.cli.demo import slides_spec
exp = Experiment(slides_spec(%d), testbed=testbed, name="faults", runs=runs)
try:
    for step in ("reserve", "deploy", "configure", "place", "launch"):
        getattr(exp, step)()
    begun = time.time()
    exp.measure(environment="light")
    print(json.dumps({"seconds": time.time() - begun}))
finally:
    exp.release()
"""


class Progress:
    """How many guests have their image, by what is new in a journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal, self._read = journal, 0
        self.images = 0

    def look(self) -> int:
        new = self._journal.since(self._read)
        self._read += len(new)
        self.images += sum((e.step, e.kind, e.status) == ("image", "vm", "ok") for e in new)
        return self.images


def strike(state: State, journal: Journal, seed: int) -> set[str]:
    """Break what is to break; returns the hosts that are lost."""
    draw = random.Random(seed)
    run, vms = journal.path.parent, Frames(list(journal)).vms
    hosts = sorted(set(vms["host"]))
    lost = draw.sample(hosts, max(1, len(hosts) // 100))
    other = draw.choice([host for host in hosts if host not in lost])
    for host in lost:
        host_processes(Scene(state, host, run))
    scene = Scene(state, other, run)
    relays = scene.processes(name="g5kvirt-relay", within=scene.container(scene.node.uid))
    nginx = scene.processes(command="nginx: master")
    assert relays
    assert nginx
    scene.kill(relays)
    scene.kill([draw.choice(nginx)])
    return set(lost)


def judged(journal: Journal, lost: set[str], struck: float) -> dict[str, Any]:
    """What became of the guests; ``problems`` is empty if all is as it has to be."""
    frames = Frames(list(journal))
    known = frames.measurements
    rows = known.vms[known.vms["deployment"] == known.deployments["deployment"].iloc[-1]]
    deployed = set(rows["vm"][rows["outcome"] == "deployed"])
    failed = rows[rows["outcome"] == "failed"]
    safe = set(frames.vms.loc[~frames.vms["host"].isin(lost), "name"])
    everyone = set(frames.vms["name"])
    late = rows["vm"][(rows["outcome"] == "deployed") & (rows["end"] > struck + 1)]
    problems = {
        "deployed after their host was lost": sorted(set(late) - safe),
        "no account": sorted(everyone - deployed - set(failed["vm"])),
        "on hosts that live, not deployed": sorted(safe - deployed),
        "failed without step or reason": sorted(
            failed["vm"][(failed["reason"] == "") | (failed["failed_at"] == "")]
        ),
    }
    return {
        "vms": len(everyone),
        "deployed": len(deployed),
        "failed": len(failed),
        "on lost hosts": len(everyone - safe),
        "of them deployed before": len(deployed - safe),
        "reasons": failed["reason"].value_counts().head(5).to_dict(),
        "problems": {what: names[:10] for what, names in problems.items() if names},
    }


def play(vms: int, seed: int = 1) -> dict[str, Any]:
    """The whole experiment on a testbed of its own."""
    machines = {site: hosts + 1 for site, hosts in slides_sites(vms).items()}
    name = f"{PREFIX}-scalefaults"
    with tempfile.TemporaryDirectory() as folder:
        state = lifecycle.up(name, make(machines, switch="managed"))
        try:
            journal = Journal.open(Path(folder) / "faults/journal.jsonl")
            process = start(SCRIPT % vms, state, Path(folder))
            try:
                progress = Progress(journal)
                wait(lambda: process.poll() is not None or progress.look() >= vms // 10, timeout=BOUND)
                if process.poll() is not None:
                    raise RuntimeError(f"it was over too early: {process.communicate()[1][-2000:]}")
                lost = strike(state, journal, seed)
                struck = time.time()
                out, errors = process.communicate(timeout=BOUND)
            finally:
                process.kill()
                process.wait(20)
            if process.returncode:
                raise RuntimeError(errors[-2000:])
            last = json.loads(out.splitlines()[-1])
            found = judged(journal, lost, struck)
            return {"hosts lost": len(lost), "images by then": progress.images, **found, **last}
        finally:
            lifecycle.down(name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vms", type=int, default=SLIDES_VMS)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    found = play(given.vms, given.seed)
    print(json.dumps(found, ensure_ascii=False))
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
