"""Record the runs of this directory anew: ``python data/runs/record.py NAME`` as root.

Raises a local testbed NAME of its own, takes it down afterwards, and writes a directory a run beside this
file: ``journal.jsonl`` as it came and ``run.json``, to which it adds on which machine it was made. What tells
machines of the same kind apart (keys, names, paths) is left out; a recording in which the name, the user or a
directory of this machine still stands is refused.

Times are only worth something on a machine that does nothing else: what share of its processors was taken
just before each run is kept with it.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import platform
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from g5kvirt import Experiment, Spec
from g5kvirt.errors import G5kvirtError
from g5kvirt.testbeds.local import lifecycle

HERE = Path(__file__).resolve().parent
SITES = {"nancy": 2, "rennes": 2}
WINDOWS = (1, 2, 4, 8)
LARGEST = 300_000  #: bytes of a journal


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


def what(vms: int) -> Mapping[str, tuple[Spec, Callable[[Experiment], None]]]:
    """Name → what is asked, and what is done after the launch."""
    windows = {
        f"window-{size}": (Spec(sites=SITES, vms=vms, windows={"boot": size}), launched)
        for size in WINDOWS
        if size <= vms
    }
    http, tftp = Spec(sites=SITES, vms=vms), Spec(sites=SITES, vms=vms, netboot="tftp")
    return {"http": (http, deployments), "tftp": (tftp, launched), **windows}


def main() -> int:
    """Record all runs, or those that are named."""
    parser = argparse.ArgumentParser(description="Record the runs of this directory anew.")
    parser.add_argument("name", help="of the local testbed that is raised, and taken down afterwards")
    parser.add_argument("--vms", type=int, default=8, help="of each run (default: 8)")
    parser.add_argument("--only", nargs="+", metavar="RUN", help="record these runs (default: all)")
    parser.add_argument("--into", type=Path, default=HERE, help="where (default: beside this file)")
    arguments = parser.parse_args()
    every = what(arguments.vms)
    chosen = arguments.only or list(every)
    if unknown := set(chosen) - set(every):
        parser.error(f"there is no run {', '.join(sorted(unknown))}: there are {', '.join(every)}")
    if arguments.name in lifecycle.known():
        print(f"record.py: a testbed {arguments.name!r} is up already: choose another name", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the testbed comes down then too
    try:
        lifecycle.up(arguments.name)
        with tempfile.TemporaryDirectory() as folder:
            for name in chosen:
                _record(name, *every[name], arguments.name, Path(folder), arguments.into)
    except G5kvirtError as error:
        print(f"record.py: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        lifecycle.down(arguments.name)
    return 0


def _record(
    name: str, spec: Spec, more: Callable[[Experiment], None], testbed: str, folder: Path, into: Path
) -> None:
    """One run, from reserve to release, and its recording."""
    busy, began = _busy(), time.monotonic()
    with Experiment(spec, testbed=f"local:{testbed}", name=name, runs=folder) as exp:
        for step in ("reserve", "deploy", "configure", "place", "launch"):
            getattr(exp, step)()
        more(exp)
    document = json.loads((folder / name / "run.json").read_text(encoding="utf-8"))
    document |= {"testbed": "local", "recorded": _machine() | {"busy_before": round(busy, 3)}}
    words = json.dumps(document, indent=2) + "\n"
    journal = (folder / name / "journal.jsonl").read_text(encoding="utf-8")
    journal = journal.replace(f"local:{testbed}", "local")
    _check(name, words + journal, folder, testbed)
    if len(journal) > LARGEST:
        raise SystemExit(f"record.py: the journal of {name} has {len(journal):,} bytes: make the run smaller")
    target = into / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    (target / "run.json").write_text(words, encoding="utf-8")
    (target / "journal.jsonl").write_text(journal, encoding="utf-8")
    took = time.monotonic() - began
    print(f"{name}: {took:.0f} s, {len(journal):,} bytes, {busy:.1%} busy before", flush=True)


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
