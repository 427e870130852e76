"""How long starting and stopping a local testbed takes: ``python benchmarks/testbed.py`` as root.

3 sites × 4 hosts and a service machine each, layers cached. The bounds are the targets of the project, for
the median of the runs. The last lines are JSON, one per figure.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import report

from g5kvirt.errors import G5kvirtError
from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local import layers, lifecycle

UP_BOUND = 5.0  # seconds
DOWN_BOUND = 3.0
SITES = ("nancy", "rennes", "lyon")
NODES = 5  # per site: four hosts and a service machine


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--name", default="benchmark")
    arguments = parser.parse_args()
    description = make(dict.fromkeys(SITES, NODES))
    ups: list[float] = []
    downs: list[float] = []
    try:
        layers.ensure(lambda what, seconds: print(f"  {what}: {seconds:.1f} s"))
        for run in range(arguments.runs):
            try:
                began = time.perf_counter()
                lifecycle.up(arguments.name, description)
                ups.append(time.perf_counter() - began)
            finally:
                began = time.perf_counter()
                lifecycle.down(arguments.name)
                downs.append(time.perf_counter() - began)
            print(f"run {run + 1}: up {ups[-1]:.2f} s, down {downs[-1]:.2f} s", flush=True)
    except G5kvirtError as error:
        print(f"testbed.py: {error}", file=sys.stderr)
        return error.exit_code
    what = f"{len(SITES)} sites × {NODES - 1} hosts and a service machine"
    figures = (("up", ups, UP_BOUND), ("down", downs, DOWN_BOUND))
    kept = [
        report(f"local testbed {direction}, {what}", statistics.median(v), "s", bound)
        for direction, v, bound in figures
    ]
    return int(not all(kept))


if __name__ == "__main__":
    sys.exit(main())
