"""Machines and guests on a virtual clock: what takes how long, if so many do it at once."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Literal

from g5kvirt.errors import SpecError
from g5kvirt.inventory import VM, Host
from g5kvirt.run.virtual_time import EPOCH
from g5kvirt.simulation.calibration import BOOT, Calibration, StepTime, in_order
from g5kvirt.simulation.network import Network
from g5kvirt.simulation.processors import Processors
from g5kvirt.simulation.timeline import Timeline

__all__ = ["Faults", "Guest", "World"]

#: Seconds of reports that are handed over together, as on machines, where they come in bursts. What happened
#: has its exact time all the same; only what is decided upon it may be so much later.
QUANTUM = 0.1


System = Literal["off", "booting", "minimal", "environment"]


@dataclass(frozen=True)
class Faults:
    """What goes wrong: shares between 0 and 1. Raises SpecError for others, and for a negative time."""

    vms: float = 0.0  #: of VMs that never get an address
    hosts: float = 0.0  #: of hosts that die during each deployment
    within: float = 60.0  #: seconds from its beginning

    def __post_init__(self) -> None:
        for name, share in (("vms", self.vms), ("hosts", self.hosts)):
            if not 0 <= share <= 1:
                raise SpecError(f"faults: {name} is a share from 0 to 1, not {share!r}")
        if not 0 <= self.within < math.inf:
            raise SpecError(f"faults: within is a number of seconds from 0 on, not {self.within!r}")


@dataclass
class Guest:
    """A VM as the model knows it."""

    vm: VM
    dead: bool = False
    system: System = "off"
    life: int = 0  #: changes whenever it is powered on or rebooted: what an earlier life does, does not count

    def begin(self) -> None:
        """It is powered on, or leaves the system that it is in."""
        self.life += 1
        self.system = "booting"


@dataclass
class World:
    """The machines of a testbed. ``real_cores``: cores that all share; None: each has its own.

    ``sampled``: how many hosts each of these stands for (`g5kvirt.prediction.sample`). What all hosts share
    is smaller by that: their sites' uplinks here, the links of servers in ``hosts``. ``uplinks``: site → bits
    per second, where it is not what the calibration says of all. Raises SpecError for a link without a rate.
    """

    calibration: Calibration
    hosts: Sequence[Host]
    real_cores: int | None = None
    faults: Faults = Faults()
    seed: int = 0
    sampled: float = 1.0
    uplinks: Mapping[str, float] = field(default_factory=dict)
    timeline: Timeline = field(init=False)
    network: Network = field(init=False)
    guests: dict[str, Guest] = field(init=False, default_factory=dict)
    dead: set[str] = field(init=False, default_factory=set)  #: hosts

    def __post_init__(self) -> None:
        self.timeline = Timeline()
        sites = list(dict.fromkeys(host.site for host in self.hosts))
        rates = [_rate(host.nic_rate, host.name) for host in self.hosts]
        rates += [_rate(self.uplink(site), f"the uplink of {site}") / self.sampled for site in sites]
        self.network = Network(self.timeline, [rate / 8 for rate in rates])
        self._link = {host.name: number for number, host in enumerate(self.hosts)}
        self._uplink = {site: len(self.hosts) + number for number, site in enumerate(sites)}
        self._sites = {host.name: host.site for host in self.hosts}
        self._cores = {host.name: host.cores for host in self.hosts}
        self._all = None if self.real_cores is None else Processors(self.timeline, self.real_cores)
        self._processors: dict[str, Processors] = {}
        self._random = random.Random(self.seed)  # noqa: S311  a model, no secret

    def uplink(self, site: str) -> float:
        """Bits per second from a site to the others."""
        return self.uplinks.get(site, self.calibration.uplink_gbps * 1e9)

    def now(self) -> float:
        """The virtual time, seconds since the epoch."""
        return EPOCH + self.timeline.now

    def go_on(self, t: float) -> None:
        """Let time pass until ``t``, seconds since the epoch."""
        self.timeline.run(t - EPOCH)

    def wait_for(self, reports: Sized, timeout: float) -> None:
        """Let time pass until there is a report, at most ``timeout`` seconds, and `QUANTUM` longer."""
        timeline = self.timeline
        timeline.run(timeline.now + max(timeout, 1e-3), lambda: len(reports) > 0)
        if reports:
            timeline.run(timeline.now + min(QUANTUM, timeout))

    def add(self, vms: Iterable[VM], system: System = "off") -> None:
        """Make VMs known, which are in ``system``; one that is known already stays as it is."""
        for vm in vms:
            known = self.guests.get(vm.name)
            if known is None or known.vm != vm:
                self.guests[vm.name] = Guest(vm, self._random.random() < self.faults.vms, system)

    def lost_hosts(self, hosts: Sequence[str]) -> list[tuple[str, float]]:
        """The hosts that die during a deployment that begins now, and after how many seconds; those that are
        dead already, at once."""
        return [(host, 0.0) for host in hosts if host in self.dead] + [
            (host, self._random.uniform(0, self.faults.within))
            for host in hosts
            if host not in self.dead and self.faults.hosts and self._random.random() < self.faults.hosts
        ]

    def lose(self, host: str) -> None:
        """A host dies, with all that runs on it."""
        self.dead.add(host)
        for guest in self.guests.values():
            if guest.vm.host == host:
                guest.life += 1
                guest.system = "off"

    def machines_pass(self, phase: str, machines: int) -> None:
        """Let a phase of the machines pass: all of them at once, on their own cores or on those of one."""
        step = self.calibration.machines.get(phase, StepTime())
        crowd = 1.0 if self.real_cores is None else max(1.0, machines / self.real_cores)
        seconds = self.calibration.fixed.get(phase, 0.0) + step.seconds + step.cpu * crowd
        self.timeline.run(self.timeline.now + seconds)

    # ---- what takes time ----------------------------------------------------------------------------

    def processors(self, host: str) -> Processors:
        """The cores on which a host's guests run."""
        if self._all is not None:
            return self._all
        if host not in self._processors:
            self._processors[host] = Processors(self.timeline, self._cores[host])
        return self._processors[host]

    def path(self, source: str, target: str) -> tuple[int, ...]:
        """The links between two machines; between those of one site there is no uplink."""
        ends = (self._link[source], self._link[target]) if source != target else ()
        if self._sites[source] == self._sites[target]:
            return ends
        return (*ends, self._uplink[self._sites[source]], self._uplink[self._sites[target]])

    def take(self, host: str, step: StepTime, done: Callable[[], object], path: Sequence[int] = ()) -> None:
        """A step on a host: its wait, its work, its transfer over ``path``; then ``done``, if it lives."""
        factor = math.exp(step.spread * self._random.gauss(0.0, 1.0)) if step.spread else 1.0

        def end() -> None:
            if host not in self.dead:
                done()

        def transfer() -> None:
            if step.bytes and path:
                self.network.send(path, step.bytes, end)
            else:
                end()

        def work() -> None:
            if step.cpu:
                self.processors(host).add(step.cpu * factor, transfer)
            else:
                transfer()

        if step.seconds:
            self.timeline.after(step.seconds * factor, work)
        else:
            work()

    def steps(
        self,
        guest: Guest,
        steps: Sequence[tuple[str, StepTime]],
        reached: Callable[[str], object],
        path: Sequence[int] = (),
        then: Callable[[], object] | None = None,
    ) -> None:
        """A guest does steps one after the other.

        ``reached`` is called at the end of each, ``then`` after all of them. Ends where the guest is rebooted
        meanwhile.
        """
        life = guest.life

        def begin(number: int) -> None:
            if number < len(steps):
                name, time = steps[number]
                self.take(guest.vm.host, time, lambda: end(number, name), path)
            elif then is not None:
                then()

        def end(number: int, name: str) -> None:
            if guest.life == life:
                reached(name)
                begin(number + 1)

        begin(0)

    def boot(self, guest: Guest, server: str, reached: Callable[[str], object]) -> None:
        """Power a guest on, into its minimal system; ``reached`` gets each milestone."""
        guest.begin()

        def milestone(step: str) -> None:
            if step == BOOT[-1]:
                guest.system = "minimal"
            reached(step)

        steps = in_order(self.calibration.boot, BOOT[:1] if guest.dead else BOOT)
        self.steps(guest, steps, milestone, self.path(server, guest.vm.host))

    def reboot(self, guest: Guest, server: str, reached: Callable[[], object]) -> None:
        """Reboot a guest into its minimal system; ``reached`` when it has reported in."""
        path = self.path(server, guest.vm.host)
        self._enter(guest, "minimal", self.calibration.reboot_boot, reached, path)

    def enter_environment(self, guest: Guest, reached: Callable[[], object]) -> None:
        """A guest leaves its minimal system for what was deployed; ``reached`` when ssh answers."""
        self._enter(guest, "environment", self.calibration.environment, reached)

    def _enter(
        self,
        guest: Guest,
        system: System,
        step: StepTime,
        reached: Callable[[], object],
        path: Sequence[int] = (),
    ) -> None:
        """A guest begins another life, in which it is in ``system`` after one step; a dead one never is."""
        guest.begin()

        def end(_: str) -> None:
            guest.system = system
            reached()

        self.steps(guest, [] if guest.dead else [(system, step)], end, path)


def _rate(bits: float, link: str) -> float:
    if not 0 < bits < math.inf:
        raise SpecError(f"a prediction needs the rate of {link} in bits per second, above 0, not {bits!r}")
    return bits
