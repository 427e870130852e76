"""What does keeping the books of a deployment cost? 4,552 VMs on 355 hosts at most 1 s; linear to 100,000.

Every step is answered at once and does nothing, so that only the bookkeeping is left: windows, orders,
reports, deadlines, events. Two times are shown: of the engine, and of the engine with its journal written to
a file as in a real run. The bound is for the second. Times are CPU seconds of this one thread, which are
those of the clock on an idle machine, so that a busy one spoils them less. The last figure compares the
engine's time a VM of the largest deployment with that of the 4,552: 1 is perfectly linear. What it is above
that is Python's garbage collector and the processor's cache; the number of function calls a VM stays the same
(tests/unit/provisioners/builtin/test_deployment_windows.py).

    python benchmarks/bookkeeping.py [--vms N …] [--per-host N] [--window N] [--repeat N]
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import report

from g5kvirt.inventory import VM
from g5kvirt.planning.names import mac_of
from g5kvirt.planning.windows import SlotWindow
from g5kvirt.provisioners.builtin.engine import Deployment
from g5kvirt.provisioners.builtin.loop import drive
from g5kvirt.provisioners.builtin.orders import BroadcastOrder, Order, Report, TaskOrder
from g5kvirt.provisioners.builtin.workflow import default_workflow
from g5kvirt.run.events import Event
from g5kvirt.run.journal import Journal

BOUND = 1.0  # seconds, for SLIDES
SLIDES = 4552
HOSTS = 355
SITES = 6
LINEAR = 1.5  # times the time a VM of SLIDES
JOURNALS = 20_000  # larger ones are measured without a journal
KADEPLOY3 = 382.0  # seconds for SLIDES: a Kadeploy3 3.3 server with 2 cores, measured once, not here
GUEST = ("partition", "format", "image", "postinstall", "bootloader", "sync", "boot")


class Nothing:
    """Answers every order at once, as VMs would whose steps take no time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._reports: list[Report] = []

    def execute(self, order: Order) -> None:
        """Note what the VMs will say."""
        t = self._clock()
        if isinstance(order, BroadcastOrder):
            self._reports += [Report(host, order.step, "ok", t, "", order.attempt) for host in order.hosts]
            return
        for target in order.vms:
            name, attempt = target.vm.name, target.attempt
            if isinstance(order, TaskOrder):
                self._reports += [Report(name, step, "ok", t, "", attempt) for step in GUEST]
                self._reports.append(Report(name, "environment", "ok", t, "", attempt))
                continue
            self._reports.append(Report(name, order.step, "ok", t, "", attempt, target.turn))
            if order.step == "reboot":
                self._reports.append(Report(name, "minimal-system", "ok", t))

    def receive(self, timeout: float) -> Iterable[Report]:
        """All of it, without waiting."""
        reports, self._reports = self._reports, []
        return reports


def make_vms(number: int, hosts: int) -> list[VM]:
    """So many VMs, spread over the hosts of some sites."""
    made = []
    for i in range(number):
        host, ip = i * hosts // number, IPv4Address(0x0A800000 + i)
        site = f"site{host % SITES}"
        made.append(VM(i + 1, f"vm-{i + 1}", f"node-{host}.{site}.grid5000.fr", site, ip, mac_of(ip)))
    return made


def run(vms: Sequence[VM], window: int, write: Callable[[Sequence[Event]], object]) -> float:
    """CPU seconds of one deployment."""
    gc.collect()
    begin = time.process_time()
    deployment = Deployment(
        "d1", vms, default_workflow(), reboots=SlotWindow(window), checks=SlotWindow(2 * window)
    )
    outcomes = drive(deployment, Nothing(time.time), clock=time.time, write=write)
    took = time.process_time() - begin
    assert len(outcomes) == len(vms)
    assert deployment.count("deployed") == len(vms)
    return took


def run_with_journal(vms: Sequence[VM], window: int) -> float:
    """The same, written to a journal in a file."""
    with tempfile.TemporaryDirectory() as directory:
        journal = Journal.open(Path(directory) / "journal.jsonl")
        try:
            return run(vms, window, journal.extend)
        finally:
            journal.close()


def main() -> int:
    """Print a table and a line of JSON a figure; 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vms", type=int, nargs="+", default=[1000, SLIDES, 20_000, 100_000])
    parser.add_argument("--per-host", type=float, default=SLIDES / HOSTS)
    parser.add_argument("--window", type=int, default=200, help="slots of the reboot window")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()

    print(
        f"{'VMs':>8}{'hosts':>8}{'engine':>10}{'with journal':>14}   CPU seconds, best of {arguments.repeat}"
    )
    times: dict[int, tuple[float, float]] = {}
    for number in sorted({*arguments.vms, SLIDES}):
        hosts = max(1, round(number / arguments.per_host))
        vms = make_vms(number, hosts)
        engine = min(run(vms, arguments.window, lambda events: None) for _ in range(arguments.repeat))
        whole = float("nan")
        if number <= JOURNALS:
            whole = min(run_with_journal(vms, arguments.window) for _ in range(arguments.repeat))
        times[number] = engine, whole
        print(f"{number:8}{hosts:8}{engine:10.3f}{whole:14.3f}", flush=True)

    took = times[SLIDES][1]
    print(f"Kadeploy3 3.3, the same empty workflow: {KADEPLOY3:.0f} s, {KADEPLOY3 / took:.0f} times as long")
    largest = max(times)
    growth = (times[largest][0] / largest) / (times[SLIDES][0] / SLIDES)
    kept = [
        report(f"bookkeeping a VM, {largest} against {SLIDES} VMs", growth, "times", LINEAR),
        report(f"bookkeeping of {SLIDES} VMs on {HOSTS} hosts, journal written", took, "s", BOUND),
    ]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
