"""What does it cost to read a finished run and make all its tables? 4,552 VMs, some 120,000 events: 2 s.

A run of 4,552 VMs on 355 hosts of 6 sites is written as a journal: the boot of each VM, and deployments on
1,000 and on all of them. It is read from the file, reduced to a state, and turned into every table. Times
are CPU seconds of this one thread, which are those of the clock on an idle machine. Larger runs show that the
cost is linear: the time for each event of the largest against that of the 4,552 (1 is perfectly linear).

    python benchmarks/journal.py [--vms N …] [--repeat N]
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import report

from g5kvirt.run.events import Event
from g5kvirt.run.journal import Journal, read_events
from g5kvirt.run.state import RunState
from g5kvirt.run.tables import Frames
from g5kvirt.run.vocabulary import BOOT_STEPS, MACROS

SLIDES = 4552
BOUND = 2.0  # seconds, for SLIDES
LINEAR = 1.5  # times the time an event of SLIDES
HOSTS, SITES = 355, 6


def run(vms: int) -> Iterator[Event]:
    """A whole run; every step takes a tenth of a second and nothing fails."""
    t = 1.7e9
    names = [f"vm-{n}" for n in range(1, vms + 1)]
    rows = [
        {
            "index": n,
            "name": name,
            "host": f"gros-{n % HOSTS + 1}.site{n % SITES}.grid5000.fr",
            "site": f"site{n % SITES}",
            "ip": f"10.{144 + n // 65536}.{n // 256 % 256}.{n % 256}",
            "mac": f"52:54:00:{n // 65536:02x}:{n // 256 % 256:02x}:{n % 256:02x}",
        }
        for n, name in enumerate(names)
    ]
    for phase in ("reserve", "deploy", "configure"):
        yield Event(phase, "phase", "run", "r", "start", t)
        yield Event(phase, "phase", "run", "r", "ok", t + 1)
    yield Event("place", "plan", "run", "r", "ok", t + 2, 1, {"vms": rows})
    yield Event("launch", "phase", "run", "r", "start", t)
    for number, name in enumerate(names):
        begin = t + number / 100
        yield Event("launch", "power-on", "vm", name, "start", begin)
        for rank, step in enumerate(BOOT_STEPS, start=1):
            detail = {"seconds": 0.1, "bytes": 14_186_432} if step in ("kernel", "initrd") else {}
            yield Event("launch", step, "vm", name, "ok", begin + rank / 10, 1, detail)
    yield Event("launch", "phase", "run", "r", "ok", t + 100)
    yield Event("measure", "phase", "run", "r", "start", t + 100)
    for number, size in enumerate((max(1, vms * 1000 // SLIDES), vms), start=1):
        yield from deployment(f"d{number}", names[:size], t + 200 * number)
    yield Event("measure", "phase", "run", "r", "ok", t + 900)


def deployment(name: str, vms: list[str], t: float) -> Iterator[Event]:
    """One deployment on ``vms``."""
    about = {"deployment": name, "environment": "mini", "broadcast": "chain", "asked": len(vms), "vms": vms}
    yield Event("measure", "deployment", "run", name, "start", t, 1, about)
    own = {"deployment": name}
    for vm in vms:
        at = t
        for macro, steps in MACROS.items():
            yield Event("measure", macro, "vm", vm, "start", at, 1, {**own, "variant": "chain"})
            for step in steps[:-1] if macro == "BootNewEnv" else steps:
                at += 0.1
                yield Event("measure", step, "vm", vm, "ok", at, 1, {**own, "seconds": 0.1})
            yield Event("measure", macro, "vm", vm, "ok", at, 1, {**own, "variant": "chain"})
        yield Event("measure", "deployment", "vm", vm, "ok", at, 1, {**own, "said": "ready ok"})
    yield Event("measure", "deployment", "run", name, "ok", t + 100, 1, {**own, "deployed": len(vms)})


def read(path: Path) -> tuple[int, list[float]]:
    """How many events, and CPU seconds to read them, to reduce them, and for all tables."""
    gc.collect()
    times = [time.process_time()]
    events = read_events(path)
    times.append(time.process_time())
    RunState.of(events)
    times.append(time.process_time())
    frames = Frames(events)
    tables: Iterable[str] = ("events", "spans", "phases", "hosts", "vms", "account")
    assert all(getattr(frames, name) is not None for name in tables)
    known = frames.measurements
    for name in ("deployments", "vms", "attempts", "macros", "scalability"):
        assert len(getattr(known, name))
    known.summary()
    times.append(time.process_time())
    return len(events), [b - a for a, b in pairwise(times)]


def main() -> int:
    """Print a line for each size, and a line of JSON for each figure; 1 if a bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vms", type=int, nargs="+", default=[SLIDES, 38_000], help="VMs of each run")
    parser.add_argument("--repeat", type=int, default=3, help="the best of so many counts")
    options = parser.parse_args()
    cost: dict[int, float] = {}
    total = {}
    for vms in options.vms:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "journal.jsonl"
            Journal.open(path).extend(run(vms))
            found = [read(path) for _ in range(options.repeat if vms == options.vms[0] else 1)]
        number, times = min(found, key=lambda one: sum(one[1]))
        # the state is reduced once more for the tables: what it costs alone is shown, and not counted twice
        total[vms] = times[0] + times[2]
        cost[vms] = total[vms] / number
        words = f"read {times[0]:.2f} s, state {times[1]:.2f} s, state and tables {times[2]:.2f} s"
        print(f"{vms:,} VMs, {number:,} events: {words}; {cost[vms] * 1e6:.1f} µs an event")
    first, last = options.vms[0], options.vms[-1]
    good = report(f"reading {first} VMs and making all tables", total[first], "s", BOUND)
    if last != first:
        good &= report(
            "time an event of the largest against the smallest", cost[last] / cost[first], "", LINEAR
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
