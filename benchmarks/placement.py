"""How long does placing take? 1,000,000 VMs on 100,000 hosts of 10 sites, at most 1 s.

Two times are shown: to the decision (capacities, VMs of each host, an address for each VM), and to the
whole table with every name, host, site, address and MAC as text. The second must stay below the bound.

    python benchmarks/placement.py [--vms N] [--hosts N] [--repeat N]
"""

from __future__ import annotations

import argparse
import sys
import time
from ipaddress import IPv4Network
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import report

from g5kvirt.inventory import GIB, Host, SubNetwork
from g5kvirt.planning.capacity import capacities
from g5kvirt.planning.placement import STRATEGIES, place
from g5kvirt.spec.spec import CapacityRule, VMSpec

BOUND = 1.0  # seconds
SITES = 10


def make_hosts(number: int) -> list[Host]:
    """Hosts of three sizes, spread over the sites."""
    return [
        Host(
            name=f"node-{i}.site{i % SITES}.grid5000.fr",
            site=f"site{i % SITES}",
            cluster="node",
            cores=(8, 16, 32)[i % 3],
            memory=(16, 32, 64)[i % 3] * GIB,
        )
        for i in range(number)
    ]


def main() -> int:
    """Print a table and one line of JSON; 1 if the bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vms", type=int, default=1_000_000)
    parser.add_argument("--hosts", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()

    hosts = make_hosts(arguments.hosts)
    # 10.128.0.0/10, as on Grid'5000, cut into a part for each site
    networks = IPv4Network("10.128.0.0/10").subnets(4)
    parts = [SubNetwork(f"site{i}", n) for i, n in enumerate(islice(networks, SITES))]
    rule, size = CapacityRule(), VMSpec()

    worst = 0.0
    print(f"{'strategy':20}{'decided':>10}{'as table':>10}   seconds, best of {arguments.repeat}")
    for strategy in STRATEGIES:
        best_place = best_all = float("inf")
        for _ in range(arguments.repeat):
            begin = time.perf_counter()
            room = capacities([h.cores for h in hosts], [h.memory for h in hosts], rule, size)
            placement = place(arguments.vms, hosts, room, parts, strategy=strategy)
            placed = time.perf_counter()
            table = placement.frame()
            done = time.perf_counter()
            assert len(table) == arguments.vms
            assert table["ip"].is_unique
            assert int(placement.counts.sum()) == arguments.vms
            best_place, best_all = min(best_place, placed - begin), min(best_all, done - begin)
        print(f"{strategy:20}{best_place:10.3f}{best_all:10.3f}")
        worst = max(worst, best_all)

    name = f"place {arguments.vms} VMs on {arguments.hosts} hosts (slowest strategy)"
    return 0 if report(name, worst, "s", BOUND) else 1


if __name__ == "__main__":
    sys.exit(main())
