"""Record the runs of this directory anew: ``python data/runs/record.py NAME`` as root.

Raises a local testbed NAME of its own for each run, takes it down afterwards, and writes a directory a run
beside this file: ``journal.jsonl`` as it came (a large one compressed) and ``run.json``, to which it adds on
which machine it was made. What tells machines of the same kind apart (keys, names, paths) is left out; a
recording in which the name, the user or a directory of this machine still stands is refused.

Those with a compressed journal take up to a quarter of an hour each, ``slides-light`` 18 GB of memory, and
are recorded only where they are named: ``--only slides-light``.

Times are only worth something on a machine that does nothing else: what share of its processors was taken
just before each run is kept with it.
"""

from __future__ import annotations

import argparse
import getpass
import json
import lzma
import os
import platform
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from g5kvirt import Experiment, Spec
from g5kvirt.cli.demo import SLIDES_VMS, slides_sites, slides_sizes, slides_spec
from g5kvirt.errors import G5kvirtError
from g5kvirt.testbeds.described.description import Description, make
from g5kvirt.testbeds.local import lifecycle
from g5kvirt.testbeds.local.shared_limits import STOCK_ARP_TABLE, SharedLimits

HERE = Path(__file__).resolve().parent
SITES = {"nancy": 2, "rennes": 2}
WINDOWS = (1, 2, 4, 8)
ARP_VMS = 1000  #: guests; the stock table has 1,024 entries
LARGEST = 300_000  #: bytes of a journal that is kept as it came
LARGEST_COMPRESSED = 6_000_000  #: bytes of one that is compressed


@dataclass(frozen=True)
class Recording:
    """A run to record: its specification, what is done after the launch, and the testbed below it."""

    spec: Spec
    more: Callable[[Experiment], None]
    testbed: Description | None = None  #: None: the default one
    compressed: bool = False


def launched(exp: Experiment) -> None:
    """Nothing after the launch."""


def deployments(exp: Experiment) -> None:
    """Three sizes twice by the chain, then all VMs once by each other way of sending the image.

    The first deployment is on VMs that stand in their minimal system already; it does not count, and is there
    so that all others begin alike.
    """
    vms = exp.spec.vms
    exp.measure()
    exp.measure(sizes=sorted({max(1, vms // 4), max(1, vms // 2), vms}), repeat=2, broadcast="chain")
    for broadcast in ("tree", "http"):
        exp.measure(broadcast=broadcast)


def slides(exp: Experiment) -> None:
    """One deployment on each of the sizes of the slides."""
    exp.measure(environment="light", sizes=slides_sizes(exp.spec.vms))


def stock_arp_table(exp: Experiment) -> None:
    """A deployment with this machine's ARP table, which all guests share, at its stock size.

    The first one does not count: see `deployments`.
    """
    exp.measure(environment="light")
    with SharedLimits().other(STOCK_ARP_TABLE):
        exp.measure(environment="light")


def enlarged_arp_table(exp: Experiment) -> None:
    """The same with the table as `g5kvirt local up` sizes it."""
    exp.measure(environment="light", repeat=2)


def small(exp: Experiment) -> None:
    """What a person would measure to predict `large`."""
    exp.measure(sizes=[max(1, exp.spec.vms // 4), max(1, exp.spec.vms // 2), exp.spec.vms])


def large(exp: Experiment) -> None:
    """Half of the VMs, and all."""
    exp.measure(sizes=[max(1, exp.spec.vms // 2), exp.spec.vms])


def what(vms: int | None) -> Mapping[str, Recording]:
    """Name → recording; ``vms``: of each, None for its own number."""
    few = vms or 8
    windows = {
        f"window-{size}": Recording(Spec(sites=SITES, vms=few, windows={"boot": size}), launched)
        for size in WINDOWS
        if size <= few
    }
    http, tftp = Spec(sites=SITES, vms=few), Spec(sites=SITES, vms=few, netboot="tftp")
    return {
        "http": Recording(http, deployments),
        "tftp": Recording(tftp, launched),
        **windows,
        "emulated-8": Recording(Spec(sites=SITES, vms=few, windows={"check": 8}), small, compressed=True),
        "emulated-24": Recording(
            Spec(
                sites=SITES,
                vms=3 * few,
                windows={"check": 8},
                capacity={"max_per_host": 18, "per_core": 10},
                walltime="2:00:00",
            ),
            large,
            compressed=True,
        ),
        "arp-stock": _slides(vms or ARP_VMS, stock_arp_table),
        "arp-enlarged": _slides(vms or ARP_VMS, enlarged_arp_table),
        "slides-light": _slides(vms or SLIDES_VMS, slides),
    }


def _slides(vms: int, more: Callable[[Experiment], None]) -> Recording:
    """The experiment of the slides with so many of its guests, on as many hosts as that takes."""
    sites = slides_sites(vms)
    machines = {site: hosts + 1 for site, hosts in sites.items()}
    return Recording(slides_spec(vms), more, make(machines, switch="managed"), compressed=True)


def main() -> int:
    """Record all runs, or those that are named."""
    parser = argparse.ArgumentParser(description="Record the runs of this directory anew.")
    parser.add_argument("name", help="of the local testbed that is raised, and taken down afterwards")
    parser.add_argument("--vms", type=int, help="of each run (default: 8, or those of the slides)")
    parser.add_argument(
        "--only", nargs="+", metavar="RUN", help="record these runs (default: those with few VMs)"
    )
    parser.add_argument("--into", type=Path, default=HERE, help="where (default: beside this file)")
    arguments = parser.parse_args()
    every = what(arguments.vms)
    chosen = arguments.only or [name for name, recording in every.items() if not recording.compressed]
    if unknown := set(chosen) - set(every):
        parser.error(f"there is no run {', '.join(sorted(unknown))}: there are {', '.join(every)}")
    if arguments.name in lifecycle.testbed_names():
        print(f"record.py: a testbed {arguments.name!r} is up already: choose another name", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the testbed comes down then too
    try:
        with tempfile.TemporaryDirectory() as folder:
            for testbed, names in groupby(chosen, lambda name: every[name].testbed):
                lifecycle.up(arguments.name, testbed)
                for name in names:
                    _record(name, every[name], arguments.name, Path(folder), arguments.into)
                lifecycle.down(arguments.name)
    except G5kvirtError as error:
        print(f"record.py: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        lifecycle.down(arguments.name)
    return 0


def _record(name: str, recording: Recording, testbed: str, folder: Path, into: Path) -> None:
    """One run, from reserve to release, and its recording."""
    busy, began = _busy(), time.monotonic()
    with Experiment(recording.spec, testbed=f"local:{testbed}", name=name, runs=folder) as exp:
        for step in ("reserve", "deploy", "configure", "place", "launch"):
            getattr(exp, step)()
        recording.more(exp)
    document = json.loads((folder / name / "run.json").read_text(encoding="utf-8"))
    document |= {"testbed": "local", "recorded": _machine() | {"busy_before": round(busy, 3)}}
    words = json.dumps(document, indent=2) + "\n"
    journal = (folder / name / "journal.jsonl").read_text(encoding="utf-8")
    journal = journal.replace(f"local:{testbed}", "local")
    _check(name, words + journal, folder, testbed)
    file, data, most = "journal.jsonl", journal.encode(), LARGEST
    if recording.compressed:
        file, data, most = f"{file}.xz", lzma.compress(data, preset=9), LARGEST_COMPRESSED
    if len(data) > most:
        raise SystemExit(f"record.py: the journal of {name} has {len(data):,} bytes: make the run smaller")
    target = into / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    (target / "run.json").write_text(words, encoding="utf-8")
    (target / file).write_bytes(data)
    took = time.monotonic() - began
    print(f"{name}: {took:.0f} s, {len(data):,} bytes, {busy:.1%} busy before", flush=True)


def _busy(seconds: float = 3.0) -> float:
    """The share of the processors' time that is taken now; a load average remembers our own last run."""

    def spent() -> tuple[int, int]:
        times = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(times), times[3] + times[4]  # all; idle, and waiting for a disk

    every, idle = spent()
    time.sleep(seconds)
    every_then, idle_then = spent()
    return 1 - (idle_then - idle) / max(1, every_then - every)


def _machine() -> dict[str, Any]:
    """What may make the times other ones elsewhere."""
    known = [line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if ":" in line]
    models = [line.partition(":")[2].strip() for line in known if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
    }


def _check(name: str, words: str, folder: Path, testbed: str) -> None:
    """Raises SystemExit if something that tells this machine from others stands in a recording."""
    private = {
        str(folder),
        str(HERE.parents[1]),
        str(Path.home()) + "/",
        f'"{getpass.getuser()}"',
        f'"local:{testbed}"',
        "PRIVATE KEY",
    }
    host = socket.gethostname()
    if len(host) > 4:  # a machine that is called "vm" or "host" cannot be told from the journal's own words
        private.add(host)
    found = sorted(word for word in private if word in words)
    if found:
        raise SystemExit(f"record.py: {name} is not kept, since it names {', '.join(found)}")


if __name__ == "__main__":
    sys.exit(main())
