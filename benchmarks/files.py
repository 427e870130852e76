"""Files onto VMs, through a tree and one by one: ``python benchmarks/files.py`` as root.

Puts a file of 10 MB onto 32 light guests on 8 hosts of 2 sites of a separate local testbed, and counts what
came in at and went out of each host meanwhile. Then it copies the same file by scp, one guest after the
other, and by eight scp at once, as a script of one's own would. The bounds: a link carries 1.1 × the file
each way (headers, acknowledgements, ssh), and put takes no longer than eight scp at once. The last lines are
JSON, one per figure; those of a machine with other load are good for their ratios only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import report

from g5kvirt import Experiment, Spec
from g5kvirt.errors import G5kvirtError
from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local import lifecycle

OVERHEAD = 1.1
AT_ONCE = 8


def traffic(exp: Experiment) -> dict[str, tuple[int, int]]:
    """Bytes that each host's physical interface has received and sent so far."""
    state = exp.journal.state
    used = {vm.host for vm in state.placed_vms}
    names = {host.address: host.uid for host in state.deployed_hosts if host.name in used}
    counters = [f"/sys/class/net/eth0/statistics/{way}_bytes" for way in ("rx", "tx")]
    results = exp._runner.context.fanout.run(list(names), ["cat", *counters], timeout=30)
    found = {}
    for address, result in results.items():
        assert result.ok, result.reason
        received, sent = map(int, result.text.split())
        found[names[address]] = (received, sent)
    return found


def put(exp: Experiment, file: Path) -> tuple[float, float, float]:
    """Seconds, and how often the busiest link carried the file in and out."""
    before, began = traffic(exp), time.perf_counter()
    rows = exp.put(file, "/root/put")
    seconds = time.perf_counter() - began
    assert rows["ok"].all(), rows[~rows["ok"]]
    after, size = traffic(exp), file.stat().st_size
    times = {
        host: [(now - then) / size for now, then in zip(after[host], before[host], strict=True)]
        for host in after
    }
    for host, (received, sent) in times.items():
        print(f"  {host}: the file {received:.2f} times in, {sent:.2f} times out")
    return seconds, max(received for received, _ in times.values()), max(sent for _, sent in times.values())


def scp(exp: Experiment, file: Path, at_once: int) -> float:
    """Seconds for a copy to each VM, so many at a time."""
    words = ["scp", "-q", "-F", str(exp.ssh_config()), str(file)]

    def copy(name: str) -> None:
        subprocess.run([*words, f"{name}:/root/scp"], check=True, timeout=300)

    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(copy, exp.journal.state.deployed_vms))
    return time.perf_counter() - began


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vms", type=int, default=32)
    parser.add_argument("--hosts", type=int, default=8, help="an even number")
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--name", default="benchmark")
    arguments = parser.parse_args()
    half = arguments.hosts // 2
    spec = Spec(sites={"nancy": half, "rennes": half}, vms=arguments.vms, guest="light")
    testbed = make({"nancy": half + 1, "rennes": half})
    try:
        lifecycle.up(arguments.name, testbed)
        with (
            tempfile.TemporaryDirectory() as runs,
            Experiment(spec, testbed=f"local:{arguments.name}", runs=runs) as exp,
        ):
            for step in ("reserve", "deploy", "configure", "place", "launch"):
                getattr(exp, step)()
            exp.measure(environment="light")
            file = Path(runs) / "file"
            file.write_bytes(os.urandom(int(arguments.megabytes * 1e6)))
            seconds, received, sent = put(exp, file)
            one_by_one, side_by_side = scp(exp, file, 1), scp(exp, file, AT_ONCE)
    except G5kvirtError as error:
        print(f"files.py: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        lifecycle.down(arguments.name)
    what = f"{arguments.megabytes:g} MB to {arguments.vms} VMs on {arguments.hosts} hosts"
    print(f"put {seconds:.1f} s; scp one by one {one_by_one:.1f} s, {one_by_one / seconds:.1f} × as long")
    kept = [
        report(f"{what}: the busiest link in", received, "times the file", OVERHEAD),
        report(f"{what}: the busiest link out", sent, "times the file", OVERHEAD),
        report(f"{what}: put against scp one by one", seconds, "s", one_by_one),
        report(f"{what}: put against {AT_ONCE} scp at once", seconds, "s", side_by_side),
    ]
    return int(not all(kept))


if __name__ == "__main__":
    sys.exit(main())
