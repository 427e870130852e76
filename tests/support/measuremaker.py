"""Deployments that never were, driven by the real engine: VMs and hosts answer as fast as a seed says."""

from __future__ import annotations

import heapq
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from runmaker import T0

from g5kvirt.inventory import VM
from g5kvirt.planning.windows import SlotWindow
from g5kvirt.provisioners.builtin.engine import Deployment
from g5kvirt.provisioners.builtin.loop import drive
from g5kvirt.provisioners.builtin.orders import BroadcastOrder, CheckOrder, Order, RebootOrder, Report
from g5kvirt.provisioners.builtin.workflow import Workflow, default_workflow
from g5kvirt.run.events import Event

#: Seconds that each step takes a guest on average.
GUEST = {
    "partition": 0.4,
    "format": 0.9,
    "image": 4.0,
    "postinstall": 0.6,
    "bootloader": 0.3,
    "sync": 0.5,
    "boot": 0.2,
}
REBOOT, MINIMAL, BROADCAST, READY = 0.4, 9.0, 6.0, 5.0


@dataclass
class Machines:
    """A driver with a clock of its own, which runs while `hear` waits.

    ``bad``: VM → (step, how many times it fails there, with which reason).
    """

    keeps_connections = False

    def is_gone(self, host: str) -> bool:
        return False

    now: float
    seed: int
    bad: dict[str, tuple[str, int, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._said: list[tuple[float, int, Report]] = []
        self._up: dict[str, float] = {}

    def clock(self) -> float:
        return self.now

    def _after(self, mean: float) -> float:
        return mean * (0.6 + self._random.gammavariate(3.0, 0.13))

    def _say(self, subject: str, step: str, t: float, attempt: int, turn: int | None = None) -> bool:
        where, times, reason = self.bad.get(subject, ("", 0, ""))
        fails = step == where and times > 0
        if fails:
            self.bad[subject] = (where, times - 1, reason)
        report = Report(subject, step, "failed" if fails else "ok", t, reason if fails else "", attempt, turn)
        heapq.heappush(self._said, (t, len(self._said) + self._random.randrange(10**9), report))
        return not fails

    def execute(self, order: Order) -> None:
        """Note when each machine will say what."""
        if isinstance(order, BroadcastOrder):
            for number, host in enumerate(order.hosts):
                self._say(host, order.step, self.now + self._after(BROADCAST) + number / 100, order.attempt)
            return
        for target in order.vms:
            name, attempt, t = target.vm.name, target.attempt, self.now
            if isinstance(order, CheckOrder):
                self._say(name, order.step, max(t, self._up.get(name, t)) + 0.1, attempt, target.turn)
            elif isinstance(order, RebootOrder):
                t += self._after(REBOOT)
                self._say(name, order.step, t, attempt)
                if order.into == "minimal":
                    self._say(name, "minimal-system", t + self._after(MINIMAL), attempt)
            else:
                for step, mean in GUEST.items():
                    t += self._after(mean)
                    if not self._say(name, step, t, attempt):
                        break
                self._up[name] = t + self._after(READY)

    def receive(self, timeout: float) -> Iterable[Report]:
        """Let the clock go on to the next report, or by ``timeout``."""
        until = self.now + max(timeout, 0.001)
        if not self._said or self._said[0][0] > until:
            self.now = until
            return
        self.now = max(self.now, self._said[0][0])
        while self._said and self._said[0][0] <= self.now:
            yield heapq.heappop(self._said)[2]


def vms(number: int, hosts: int = 0) -> list[VM]:
    """So many VMs, called as those of `runmaker.run_events`."""
    hosts = hosts or max(1, number // 12)
    names = [f"paradent-{i % hosts + 1}.rennes.grid5000.fr" for i in range(number)]
    return [
        VM(
            i + 1,
            f"vm-{i + 1}",
            host,
            "rennes",
            IPv4Address(0x0A9E0001 + i),
            f"52:54:00:00:{i >> 8:02x}:{i & 255:02x}",
        )
        for i, host in enumerate(names)
    ]


def deploy_events(
    name: str,
    number: int,
    *,
    begin: float = T0 + 100,
    bad: Mapping[str, tuple[str, int, str]] | None = None,
    window: int = 50,
    fresh: bool | Collection[str] = False,
    seed: int = 1,
    environment: str = "mini",
    repetition: int = 1,
    workflow: Workflow | None = None,
    **about: object,
) -> list[Event]:
    """The events of one deployment of ``number`` VMs, ``window`` of which reboot at a time.

    ``fresh``: whether all VMs skip the first reboot, or which of them do; only the latter is recorded.
    """
    machines = Machines(begin, seed, dict(bad or {}))
    known = vms(number)
    recorded = {"fresh": len(fresh)} if isinstance(fresh, Collection) else {}
    deployment = Deployment(
        name,
        known,
        workflow or default_workflow(),
        reboots=SlotWindow(window),
        checks=SlotWindow(2 * window),
        fresh=fresh if isinstance(fresh, Collection) else [vm.name for vm in known if fresh],
        about={"environment": environment, "repetition": repetition, **recorded, **about},
    )
    events: list[Event] = []
    drive(deployment, machines, clock=machines.clock, write=events.extend)
    return events


def measure_events(
    sizes: Sequence[int] = (4, 8, 16),
    repeat: int = 2,
    *,
    bad: Mapping[str, tuple[str, int, str]] | None = None,
    window: int = 50,
) -> list[Event]:
    """A whole `measure`: each size ``repeat`` times, d1, d2 and so on; ``bad`` in the last of them."""
    begin = T0 + 100
    events = [Event("measure", "phase", "run", "r", "start", begin)]
    number = 0
    for repetition in range(1, repeat + 1):
        for size in sizes:
            number += 1
            last = number == repeat * len(sizes)
            events += deploy_events(
                f"d{number}",
                size,
                begin=events[-1].t + 0.1,
                bad=bad if last else None,
                window=window,
                fresh=number == 1,
                seed=number,
                repetition=repetition,
            )
    events.append(Event("measure", "phase", "run", "r", "ok", events[-1].t + 0.1))
    return events


def series_events(
    broadcasts: Sequence[str] = ("chain",), sizes: Sequence[int] = (2, 4, 6), repeat: int = 3
) -> list[Event]:
    """A call of `measure` per broadcast. As in runs of earlier versions, a VM skips the first reboot of its
    first deployment, so the first deployments of the first series are faster."""
    events: list[Event] = []
    now, number, used = T0 + 100, 0, 0
    for broadcast in broadcasts:
        events.append(Event("measure", "phase", "run", "r", "start", now))
        for repetition in range(1, repeat + 1):
            for size in sizes:
                number += 1
                fresh = [vm.name for vm in vms(size)[used:]]
                used = max(used, size)
                events += deploy_events(
                    f"d{number}",
                    size,
                    begin=events[-1].t + 0.1,
                    fresh=fresh,
                    seed=size + 100 * repetition,
                    repetition=repetition,
                    broadcast=broadcast,
                    provisioner="g5kvirt",
                )
        now = events[-1].t + 0.1
        events.append(Event("measure", "phase", "run", "r", "ok", now))
    return events
