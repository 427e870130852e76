"""What launching VMs costs besides the VMs themselves: ``python benchmarks/launch.py`` as root.

On a local testbed of its own: 10 VMs on one host and 4 × 4 VMs on four, from the call of ``launch()`` until
the last QEMU process runs (bounds: the project's own targets); and 8 VMs netbooted, against the bound that
their own CPU seconds spread over all cores set. The last lines are JSON, one a figure.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import report

from g5kvirt import Experiment, Spec
from g5kvirt.errors import G5kvirtError
from g5kvirt.hostagent import protocol
from g5kvirt.planning.cluster import cluster_state
from g5kvirt.testbeds.local import lifecycle

#: What, hosts a site, VMs, bound on the control plane in seconds.
CASES = (
    ("10 VMs on 1 host started", {"nancy": 1}, 10, 0.5),
    ("4 × 4 VMs on 4 hosts started", {"nancy": 2, "rennes": 2}, 16, 1.0),
)
NETBOOT = ("8 VMs netbooted", {"nancy": 2, "rennes": 2}, 8, 1.25)


def experiment(sites: dict[str, int], vms: int, testbed: str, runs: str) -> Experiment:
    """An experiment that only has to be launched, all VMs at once."""
    spec = Spec(sites=sites, vms=vms, windows={"boot": vms}, capacity={"per_core": 4})
    exp = Experiment(spec, testbed=f"local:{testbed}", runs=runs)
    exp.reserve()
    exp.deploy()
    exp.configure()
    exp.place()
    return exp


def cpu_seconds(exp: Experiment) -> float:
    """CPU seconds of all QEMU processes of an experiment."""
    cluster = cluster_state(exp.spec, exp.journal.state)
    results = exp._runner.context.fanout.run(
        [h.address for h in cluster.hosts],
        protocol.COMMAND,
        stdin=protocol.document(protocol.status()),
        timeout=30,
    )
    return sum(a.detail.get("cpu", 0.0) for r in results.values() for a in protocol.parse(r.stdout))


def measure(
    sites: dict[str, int], vms: int, testbed: str, runs: str, *, settle: float = 3.0
) -> tuple[float, float, float]:
    """(seconds until the last QEMU ran, until the last VM was up, CPU seconds of all QEMUs until then)."""
    exp = experiment(sites, vms, testbed, runs)
    try:
        time.sleep(settle)  # what configuring left to do is not the launch's
        called = time.time()
        exp.launch()
        cpu = cpu_seconds(exp)
        frame = exp.frames.vms
        assert (frame["state"] == "up").all(), frame[["name", "state", "reason"]]
        assert (frame["attempts"] == 1).all(), "a VM had to be started again: measure on an idle machine"
        return frame["power_on"].max() - called, frame["minimal_system"].max() - called, cpu
    finally:
        exp.release()
        exp.journal.close()


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="runs of each case; the median counts")
    parser.add_argument("--name", default="benchmark")
    arguments = parser.parse_args()
    figures: list[tuple[str, float, float]] = []
    try:
        lifecycle.up(arguments.name, progress=lambda what, seconds: print(f"  {what}: {seconds:.1f} s"))
        with tempfile.TemporaryDirectory() as runs:
            for name, sites, vms, bound in CASES:
                seconds = []
                for run in range(arguments.runs):
                    seconds.append(measure(sites, vms, arguments.name, runs)[0])
                    print(f"{name}, run {run + 1}: {seconds[-1]:.2f} s", flush=True)
                figures.append((name, statistics.median(seconds), bound))
            name, sites, vms, limit = NETBOOT
            cores = len(os.sched_getaffinity(0))
            ratios = []
            for run in range(arguments.runs):
                _, wall, cpu = measure(sites, vms, arguments.name, runs)
                ratios.append((wall / (cpu / cores), wall, cpu))
                print(
                    f"{name}, run {run + 1}: {wall:.1f} s, {cpu:.1f} CPU s on {cores} cores:"
                    f" {ratios[-1][0]:.2f} × their CPU seconds / cores (bound {limit})",
                    flush=True,
                )
            _, wall, cpu = statistics.median_low(ratios)
            figures.append((name, wall, limit * cpu / cores))
    except G5kvirtError as error:
        print(f"launch.py: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        lifecycle.down(arguments.name)
    kept = [report(name, value, "s", bound) for name, value, bound in figures]
    return int(not all(kept))


if __name__ == "__main__":
    sys.exit(main())
