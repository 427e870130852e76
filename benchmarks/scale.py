"""The slides' experiment at full size or a part of it: ``python benchmarks/scale.py --vms 4552`` as root.

On a local testbed of its own with as many hosts as the demo of the slides has for that number of light
guests. Per phase a line of JSON: seconds, CPU seconds of the notebook (with its ssh), of the services
(dnsmasq, nginx), of the guests and of the whole machine, and the machine's memory in use at its end. Bounds
are the project's targets for 4,552 guests on 2 cores and 24 GB, in proportion for fewer; some have none.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import machine

from g5kvirt import Experiment
from g5kvirt.cli.demo import SLIDES_VMS, slides_sites, slides_sizes, slides_spec
from g5kvirt.errors import G5kvirtError
from g5kvirt.spec.spec import CapacityRule, Spec, VMSpec
from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local import lifecycle

#: Seconds for 4,552 guests.
BOUNDS = {"configure": 40.0, "launch": 45.0, "deploy all": 120.0, "run": 60.0}
#: By the name of their processes.
PARTS = {"services": ("dnsmasq", "nginx"), "guests": ("g5kvirt-light",)}
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """CPU seconds so far, by part."""

    notebook: float
    services: float
    guests: float
    machine: float

    def since(self, before: Usage) -> dict[str, float]:
        """What was used since ``before``."""
        return {part: round(value - getattr(before, part), 1) for part, value in vars(self).items()}


def usage() -> Usage:
    """Of this process with its children, of the processes of `PARTS` with theirs, of the machine."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    notebook = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    parts = dict.fromkeys(PARTS, 0.0)
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            head, _, rest = (directory / "stat").read_text().rpartition(")")
        except OSError:  # it has ended
            continue
        name = head.partition("(")[2]
        for part, names in PARTS.items():
            if name in names:
                parts[part] += sum(map(int, rest.split()[11:15])) / _TICKS
    first = Path("/proc/stat").read_text().split(maxsplit=8)
    busy = sum(int(first[i]) for i in (1, 2, 3, 6, 7)) / _TICKS
    return Usage(notebook, parts["services"], parts["guests"], busy)


def memory() -> int:
    """MiB in use on this machine."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return (int(lines["MemTotal"].split()[0]) - int(lines["MemAvailable"].split()[0])) >> 10


@contextmanager
def figure(name: str, vms: int) -> Iterator[dict[str, object]]:
    """Print what happens inside as one line of JSON, with what is put into the dictionary."""
    more: dict[str, object] = {}
    before, start = usage(), time.monotonic()
    yield more
    seconds = round(time.monotonic() - start, 1)
    line: dict[str, object] = {"name": name, "vms": vms, "value": seconds, "unit": "s"}
    if name in BOUNDS:
        line["bound"] = round(BOUNDS[name] * vms / SLIDES_VMS, 1)
    line |= {"cpu": usage().since(before), "memory_mib": memory(), **more, "machine": machine()}
    print(json.dumps(line, ensure_ascii=False), flush=True)


def on_hosts(vms: int, hosts: int) -> Spec:
    """The demo's specification, on so many hosts in all, each of which carries as many guests as it must."""
    full = slides_sites(SLIDES_VMS)
    sites = {site: max(1, hosts * share // sum(full.values())) for site, share in full.items()}
    sites["grenoble"] += hosts - sum(sites.values())  # what rounding left
    most = math.ceil(vms / hosts) + 1
    rule = CapacityRule(per_core=most, max_per_host=most)
    return replace(slides_spec(vms), sites=sites, capacity=rule, vm=VMSpec(memory=16, disk=16))


def measure(exp: Experiment, vms: int, sizes: list[int]) -> None:
    """All phases; a deployment of each size."""
    for name in ("reserve", "deploy", "configure", "place", "launch"):
        call: Callable[[], object] = getattr(exp, name)
        with figure(name, vms) as more:
            call()
            if name == "launch":
                more["states"] = exp.frames.vms["state"].value_counts().to_dict()
    for size in sizes:
        with figure("deploy all" if size == vms else f"deploy {size}", vms) as more:
            row = exp.measure(environment="light", sizes=[size]).sizes.iloc[-1]
            more.update(deployed=int(row["deployed"]), failed=int(row["failed"]))
    if sizes:
        with figure("run", vms) as more:
            more["answered"] = int(exp.run("true")["ok"].sum())


def main() -> int:
    """Raise the testbed, measure, take it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vms", type=int, default=300, help="number of light guests (default: 300)")
    parser.add_argument("--sizes", help="numbers to deploy on, such as 500,4552 (default: as the demo's)")
    parser.add_argument("--hosts", type=int, help="hosts over the six sites (default: as the demo's)")
    parser.add_argument("--name", default="scale", help="of the testbed")
    arguments = parser.parse_args()
    vms: int = arguments.vms
    named = arguments.sizes
    sizes = slides_sizes(vms) if named is None else [int(size) for size in named.split(",") if size]
    spec = slides_spec(vms) if arguments.hosts is None else on_hosts(vms, arguments.hosts)
    sites = spec.sites
    try:
        with figure("local up", vms):
            machines = {site: hosts + 1 for site, hosts in sites.items()}
            lifecycle.up(arguments.name, make(machines, switch="managed"))
        with (
            tempfile.TemporaryDirectory() as runs,
            Experiment(spec, testbed=f"local:{arguments.name}", runs=runs) as exp,
        ):
            measure(exp, vms, sizes)
    except G5kvirtError as error:
        print(f"scale.py: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        with figure("local down", vms):
            lifecycle.down(arguments.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
