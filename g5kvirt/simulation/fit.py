"""A calibration from measured runs: how much work each step was, with the crowd of that moment taken out.

Where cores are shared, a step lasts the longer the more VMs are at work. So what is kept of a step is the
share of a core that it could have had, summed up over its duration: work = ∫ min(1, cores / n(t)) dt, with
n(t) VMs (and hosts that start a relay) at work on the same cores. That takes every step for one that needs a
processor all the time, which is right where guests are emulated; where cores are plenty, work is duration.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from g5kvirt.errors import RunError, SpecError
from g5kvirt.run.event_types import seconds_of
from g5kvirt.run.events import Event
from g5kvirt.run.state import RunState
from g5kvirt.simulation.calibration import BOOT, DEPLOYMENT, MACHINE_PHASES, Calibration, StepTime

__all__ = ["CHECK", "RunTimes", "fit"]

Floats = NDArray[np.float64]

#: Seconds of a core of one login to a VM: measured for light guests, of the same order for others.
CHECK = {"light": 0.055, "tcg": 0.25, "kvm": 0.05}

#: Correlation from which on durations are taken to lie on a line.
_LINE = 0.6
_HOST_BROADCAST = "host broadcast"
_REBOOT_BOOT = "boot after a reboot"


@dataclass(frozen=True)
class _Interval:
    """A step of a VM, or of a host, that was at work from ``begin`` to ``end``."""

    name: str
    host: str
    begin: float
    end: float


class RunTimes:
    """What a run says about durations. ``cores``: those that all machines shared; None: each had its own.

    Raises RunError for a journal in which VMs did something that were never placed.
    """

    def __init__(self, events: Iterable[Event], cores: int | None) -> None:
        self.events = list(events)
        self.state = RunState.of(self.events)
        self.cores = cores
        self.guest = self.state.guest
        self._host = {vm.name: vm.host for vm in self.state.placed_vms}
        self.machines = len(self.state.deployed_hosts)
        self.intervals = [*self._boots(), *self._deployments()]

    def phase(self, name: str) -> float | None:
        """Seconds of a phase that was done at the first try; None if it was not."""
        phase = self.state.phases[name]
        return phase.seconds() if len(phase.tries) == 1 and phase.state == "ok" else None

    def _host_of(self, vm: str) -> str:
        if vm not in self._host:
            raise RunError(f"its journal is damaged: {vm} is on no host, and yet it did something")
        return self._host[vm]

    def _boots(self) -> Iterator[_Interval]:
        """The steps of boots that came up at once."""
        times: dict[str, dict[str, float]] = defaultdict(dict)
        for event in self.events:
            about = (event.phase, event.kind, event.attempt)
            if about == ("launch", "vm", 1) and event.status in ("start", "ok"):
                times[event.subject]["start" if event.status == "start" else event.step] = event.t
        for vm, own in times.items():
            before = own.get("start")
            if before is None or BOOT[-1] not in own:
                continue
            for step in BOOT:
                if step in own:
                    yield _Interval(step, self._host_of(vm), before, max(before, own[step]))
                    before = max(before, own[step])

    def _deployments(self) -> Iterator[_Interval]:
        begun: dict[tuple[str, str], float] = {}
        arrived: dict[tuple[str, str], float] = {}
        for event in self.events:
            if (event.phase, event.kind, event.step) == ("measure", "host", "broadcast"):
                key = (str(event.detail.get("deployment")), event.subject)
                if event.status == "start":
                    begun[key] = event.t
                elif event.status == "ok" and key in begun:
                    arrived[key] = event.t
                    yield _Interval(_HOST_BROADCAST, event.subject, begun.pop(key), event.t)
        for event in self.events:
            seconds = seconds_of(event) if (event.phase, event.kind) == ("measure", "vm") else None
            if seconds is None or event.status != "ok" or event.step == "broadcast":
                continue
            host, begin = self._host_of(event.subject), event.t - seconds
            if event.step == "image":  # before that it waits for its host
                begin = max(begin, arrived.get((str(event.detail.get("deployment")), host), begin))
            name = _REBOOT_BOOT if event.step == "minimal-system" else event.step
            yield _Interval(name, host, min(begin, event.t), event.t)

    def samples(self) -> dict[str, Floats]:
        """Step → its times, a row each: the duration, and the work in it, both in seconds."""
        groups: dict[str, list[_Interval]] = defaultdict(list)
        for one in self.intervals:
            groups["" if self.cores is not None else one.host].append(one)
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for host, own in groups.items():
            cores = self.cores
            if cores is None:
                if host not in self.state.facts:
                    raise RunError(f"its journal is damaged: it does not say how many cores {host} has")
                cores = self.state.facts[host].cores
            for one, work in zip(own, _work(own, cores).tolist(), strict=True):
                found[one.name].append((one.end - one.begin, work))
        return {name: np.array(values) for name, values in found.items()}


def _work(intervals: Sequence[_Interval], cores: int) -> Floats:
    """∫ min(1, cores / n(t)) dt over each interval, n of them being at work at t."""
    begins = np.array([one.begin for one in intervals])
    ends = np.array([one.end for one in intervals])
    times = np.unique(np.concatenate([begins, ends]))
    change = np.zeros(len(times))
    np.add.at(change, np.searchsorted(times, begins), 1.0)
    np.add.at(change, np.searchsorted(times, ends), -1.0)
    active = np.maximum(np.cumsum(change), 1.0)
    gained = np.concatenate([[0.0], np.cumsum(np.diff(times) * np.minimum(1.0, cores / active)[:-1])])
    work: Floats = gained[np.searchsorted(times, ends)] - gained[np.searchsorted(times, begins)]
    return work


def _time(samples: Floats | None) -> StepTime:
    """What a step takes: seconds that pass in any case, and seconds of a core, of which it gets a share.

    The longer a step was the more were at work; what it would be if nobody else was is read off a line
    through all of its times (duration = seconds + cpu × slowdown). Where all had the same slowdown there is
    no such line, and all of it counts as work.
    """
    if samples is None or not len(samples):
        return StepTime()
    duration, work = samples[:, 0], np.maximum(samples[:, 1], 1e-4)
    slowdown = np.maximum(duration / work, 1.0)
    low, high = np.quantile(np.log(work), [0.16, 0.84])
    spread = min(1.0, float(high - low) / 2)
    # Drawn values shall have the mean of what was measured: that of a log-normal is above its median.
    level = 1 / math.exp(spread**2 / 2)
    seconds, cpu = 0.0, float(work.mean())
    if np.std(slowdown) > 0.25 * np.mean(slowdown) and np.std(duration) > 0:
        slope, offset = np.polyfit(slowdown, duration, 1)
        if np.corrcoef(slowdown, duration)[0, 1] > _LINE and slope > 0 and offset > 0:
            seconds, cpu = float(offset), float(slope)
    return StepTime(seconds=seconds * level, cpu=cpu * level, spread=spread)


def fit(
    runs: Sequence[RunTimes], name: str, source: str, *, images: Mapping[str, float] | None = None
) -> Calibration:
    """The calibration that describes these runs.

    Raises SpecError where they are of different kinds, are predictions, or have no boot or no deployment to
    learn from.
    """
    kinds = {run.guest for run in runs}
    if len(kinds) != 1 or "" in kinds:
        raise SpecError("a calibration needs runs that were launched with guests of one kind")
    (guest,) = kinds
    if guest == "simulated":
        raise SpecError("a calibration is not made from predictions", advice="name runs that were measured")
    parts: dict[str, list[Floats]] = defaultdict(list)
    for run in runs:
        for step, values in run.samples().items():
            parts[step].append(values)
    samples = {step: np.concatenate(values) for step, values in parts.items()}
    if "ready" not in samples:
        raise SpecError("none of these runs has a deployment", advice="name one with measure()")
    check = CHECK.get(guest, 0.05)
    environment, again = _time(samples["ready"]), _time(samples.get(_REBOOT_BOOT))
    machines, fixed = _phases(runs)
    found = Calibration(
        name=name,
        guest=guest,
        source=source,
        assumed=False,
        shared=any(run.cores is not None for run in runs),
        machines=machines,
        fixed=fixed,
        boot={step: _time(samples[step]) for step in BOOT if step in samples},
        deployment={step: _time(samples[step]) for step in DEPLOYMENT if step in samples},
        reboot=_time(samples.get("reboot")),
        reboot_boot=again,
        environment=replace(environment, cpu=max(0.0, environment.cpu - check)),
        check=StepTime(cpu=check),
        broadcast=_time(samples.get(_HOST_BROADCAST)),
        images=dict(images or {}),
    )
    found.check_steps("these runs")  # such as where no VM came up at its first try
    return found


def _phases(runs: Sequence[RunTimes]) -> tuple[dict[str, StepTime], dict[str, float]]:
    """What the phases of the machines take: for each machine, and besides.

    With runs of different sizes both by least squares, with one size alone all of it for each machine; but a
    reservation takes rounds of OAR's scheduler, however many machines it is for.
    """
    machines: dict[str, StepTime] = {}
    fixed: dict[str, float] = {}
    for phase in MACHINE_PHASES:
        points = [
            (max(1.0, run.machines / run.cores) if run.cores else 1.0, seconds)
            for run in runs
            if run.machines and (seconds := run.phase(phase)) is not None
        ]
        if not points:
            continue
        if phase == "reserve":
            fixed[phase] = float(np.mean([seconds for _, seconds in points]))
            continue
        crowd, seconds = np.array(points, float).T
        each, besides = float((seconds / crowd).mean()), 0.0
        if len(set(crowd.tolist())) > 1:
            slope, offset = np.polyfit(crowd, seconds, 1)
            if slope > 0 and offset > 0:
                each, besides = float(slope), float(offset)
        machines[phase] = StepTime(cpu=each)
        fixed[phase] = besides
    return machines, fixed
