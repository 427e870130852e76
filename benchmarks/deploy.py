"""How close a deployment comes to what the CPU allows: ``python benchmarks/deploy.py`` as root.

Deploys `mini` on 16 VMs of a separate local testbed and compares the wall-clock time of the deployment with
1.2 × (CPU seconds of their QEMU processes / cores). It also prints how the cores spent their time: the
figures of a machine with other load are meaningless. The last line is JSON.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import report
from launch import cpu_seconds

from g5kvirt import Experiment, Spec
from g5kvirt.errors import G5kvirtError
from g5kvirt.testbeds.local import lifecycle

BOUND = 1.2


def cores_time() -> tuple[float, float]:
    """Seconds that this machine's cores have been (busy, idle) so far."""
    first, _, _ = Path("/proc/stat").read_text(encoding="ascii").partition("\n")
    ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in first.split()[1:9]]
    idle = ticks[3] + ticks[4]  # idle, iowait
    return sum(ticks) - idle, idle


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vms", type=int, default=16)
    parser.add_argument("--name", default="benchmark")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    spec = Spec(sites={"nancy": 2, "rennes": 2}, vms=arguments.vms)
    try:
        lifecycle.up(arguments.name)
        with (
            tempfile.TemporaryDirectory() as runs,
            Experiment(spec, testbed=f"local:{arguments.name}", runs=runs) as exp,
        ):
            for step in ("reserve", "deploy", "configure", "place", "launch"):
                getattr(exp, step)()
            before, (busy, idle) = cpu_seconds(exp), cores_time()
            result = exp.measure(environment="mini")
            cpu = cpu_seconds(exp) - before  # the QEMU processes survive kexec and resets
            busy, idle = (now - then for now, then in zip(cores_time(), (busy, idle), strict=True))
            print(result)
            wall = float(result.deployments["duration"].iloc[-1])
            assert result.summary.deployed == arguments.vms, result.summary.reasons
    except G5kvirtError as error:
        print(f"deploy.py: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        lifecycle.down(arguments.name)
    print(f"the cores' time: {cpu:.1f} s guests, {busy - cpu:.1f} s all else, {idle:.1f} s idle")
    print(f"{wall:.1f} s, {cpu:.1f} CPU s on {cores} cores: {wall / (cpu / cores):.2f} × (bound {BOUND})")
    return int(not report(f"{arguments.vms} VMs deployed with mini", wall, "s", BOUND * cpu / cores))


if __name__ == "__main__":
    sys.exit(main())
