"""How close a deployment comes to what the CPU allows: ``python benchmarks/deploy.py`` as root.

16 VMs on a local testbed of its own, `mini` deployed on all of them: the wall clock of the deployment against
1.2 × (the CPU seconds of their QEMU processes meanwhile / cores). Where the cores' time went is printed
too: a machine that others use gives figures that mean nothing. The last line is JSON.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import say
from launch import cpu_seconds

from g5kvirt import Experiment, Spec
from g5kvirt.errors import G5kvirtError
from g5kvirt.testbeds.local import lifecycle

BOUND = 1.2


def cores_time() -> tuple[float, float]:
    """Seconds that this machine's cores have been (busy, idle) so far."""
    first, _, _ = Path("/proc/stat").read_text(encoding="ascii").partition("\n")
    ticks = [int(word) / os.sysconf("SC_CLK_TCK") for word in first.split()[1:9]]
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
            cpu = cpu_seconds(exp) - before  # QEMU goes on through kexec and resets: nothing is lost
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
    return int(not say(f"{arguments.vms} VMs deployed with mini", wall, "s", BOUND * cpu / cores))


if __name__ == "__main__":
    sys.exit(main())
