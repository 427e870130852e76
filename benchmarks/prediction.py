"""How long predictions take and how good they are: ``python benchmarks/prediction.py``. Needs no root.

First the experiment of the slides on the machines of 2013, and multiples of it: seconds per VM, which should
not grow (``linear``: the ratio to the smallest). Then each recorded run against its prediction by a
calibration that was made of another one: predicted / measured seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import machine

from g5kvirt import Spec, data_tables
from g5kvirt.inventory import VM
from g5kvirt.planning.inventories import table
from g5kvirt.prediction import inventory_of, predict
from g5kvirt.run.directory import find
from g5kvirt.run.journal import read_events
from g5kvirt.simulation import world
from g5kvirt.simulation.calibration import load
from g5kvirt.simulation.fit import RunTimes
from g5kvirt.simulation.timeline import Timeline
from g5kvirt.testbeds import open_testbed
from g5kvirt.testbeds.simulated.driver import Simulated

#: Seconds for 4,552 VMs and one deployment.
BOUND = 5.0
#: Recorded run → calibration, which is not made of it.
SPLIT = {
    "window-1": "local-emulated",
    "window-2": "local-emulated",
    "window-4": "local-emulated",
    "window-8": "local-emulated",
    "slides-light": "local-light",
}


def speed(sizes: list[int]) -> Iterator[dict[str, object]]:
    """Each number of VMs on the 355 hosts of the slides, launched and deployed once."""
    spec = replace(
        Spec.load(data_tables.path("scenarios/slides-2013.yaml")),
        windows={},
        capacity={"max_per_host": 1000, "per_core": 1000, "host_reserve": 0},
        vm={"memory": 80, "disk": 0},
    )
    first = 0.0
    for vms in sizes:
        testbed = open_testbed("simulated:2013")
        assert isinstance(testbed, Simulated)
        begun = time.process_time()
        found = predict(replace(spec, vms=vms), testbed)
        seconds = time.process_time() - begun
        each = seconds / vms
        first = first or each
        line: dict[str, object] = {"name": "predict", "vms": vms, "value": round(seconds, 2), "unit": "CPU s"}
        line |= {"events": len(found.frames.journal), "linear": round(each / first, 2)}
        yield line | ({"bound": BOUND} if vms == 4552 else {})


def quality() -> Iterator[dict[str, object]]:
    """Predicted / measured seconds of the launch and of each deployment of recorded runs."""
    for name, calibration in SPLIT.items():
        run = find(data_tables.path(f"runs/{name}/run.json").parents[1], name)
        real = RunTimes(read_events(run.journal), 2)
        granted = real.state.reservation
        assert granted is not None  # it was launched
        testbed = Simulated(inventory_of(granted.hosts, name), load(calibration), real_cores=2)
        spec = Spec.from_dict(run.document["spec"])
        measured = list(real.state.deployments.values())
        environment = measured[0].environment if measured else "mini"
        found = predict(spec, testbed, sizes=[len(d.vms) for d in measured], environment=environment)
        model = RunTimes(found.frames.journal, 2)
        ratios = {"launch": _ratio(model.phase("launch"), real.phase("launch"))}
        for one, other in zip(measured, model.state.deployments.values(), strict=True):
            ratios[f"deployment on {len(one.vms)}"] = _ratio(other.end - other.start, one.end - one.start)
        yield {"name": "quality", "run": name, "calibration": calibration, "predicted/measured": ratios}


def peer(vms: int) -> Iterator[dict[str, object]]:
    """The boots of so many VMs in the model alone, on our timeline and on SimPy's: CPU seconds, their ratio.

    The same processors, links and solver in both; without decisions, journal and tables.
    """
    try:
        import simpy
    except ImportError:
        yield {"name": "simpy", "skipped": "simpy is not installed"}
        return

    class SimPy:
        """A `Timeline` that SimPy's environment keeps."""

        def __init__(self) -> None:
            self._env = simpy.Environment()

        @property
        def now(self) -> float:
            return float(self._env.now)

        def at(self, t: float, action: Callable[[], object]) -> None:
            event = self._env.timeout(max(0.0, t - self._env.now))
            event.callbacks.append(lambda _: action())

        def after(self, seconds: float, action: Callable[[], object]) -> None:
            self.at(self.now + seconds, action)

        def run(self, until: float) -> None:
            self._env.run(until)

    hosts = [machine.host for own in table("2013").machines.values() for machine in own][:361]
    seconds: dict[str, float] = {}
    for name, kind in (("ours", Timeline), ("simpy", SimPy)):
        world.Timeline = kind  # type: ignore[misc, assignment]
        model = world.World(load("grid5000"), hosts)
        placed = [
            VM(n, f"vm-{n}", hosts[6 + n % 355].name, hosts[6 + n % 355].site, IPv4Address(n), "")
            for n in range(1, vms + 1)
        ]
        begun = time.process_time()
        model.add(placed)
        for vm in placed:
            model.boot(model.guests[vm.name], hosts[vm.index % 6].name, lambda _: None)
        model.timeline.run(1e5)
        seconds[name] = time.process_time() - begun
        assert all(guest.system == "minimal" for guest in model.guests.values())
    world.Timeline = Timeline  # type: ignore[misc]
    ratio = round(seconds["simpy"] / seconds["ours"], 2)
    spent = {name: round(value, 2) for name, value in seconds.items()}
    yield {"name": "boots in the model", "vms": vms, "CPU s": spent, "simpy/ours": ratio}


def _ratio(predicted: float | None, measured: float | None) -> float | None:
    return round(predicted / measured, 3) if predicted and measured else None


def main() -> int:
    """Print each figure as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1138,4552,18208", help="numbers of VMs (default: %(default)s)")
    arguments = parser.parse_args()
    for line in (*peer(4552), *speed([int(size) for size in arguments.sizes.split(",")]), *quality()):
        print(json.dumps(line | {"machine": machine()}, ensure_ascii=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
