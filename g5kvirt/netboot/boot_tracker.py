"""How far every VM has come from power-on to the minimal system. No I/O and no clock of its own.

The caller passes in what was seen and acts on the result: which VMs to power on now (as many as the
window lets through), which have waited too long. A VM ends ``up``, or ``failed`` with the last step it
reached and a reason; one that is slow or dead never holds up the others.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from g5kvirt.inventory import VM
from g5kvirt.planning.windows import Window
from g5kvirt.run.vocabulary import BOOT_STEPS

__all__ = ["MILESTONES", "BootTracker", "Reached", "State", "TrackedBoot"]

#: What a VM does on its way, in this order.
MILESTONES = BOOT_STEPS[1:]

State = Literal["waiting", "starting", "booting", "up", "failed"]

#: Clocks of a host and a service machine, corrected by their measured offsets, may still differ so much.
CLOCK_SLACK = 0.5


@dataclass(frozen=True)
class Reached:
    """A milestone of a VM: ``step`` at ``t``, and what else is known about it."""

    step: str
    t: float
    detail: Mapping[str, Any]


@dataclass
class TrackedBoot:
    """The boot of one VM."""

    vm: VM
    state: State = "waiting"
    attempt: int = 0  #: power-ons so far
    requested: float = 0.0  #: when the last power-on was requested
    start: float = 0.0  #: when it happened; 0 until that is known
    crowd: int = 0  #: VMs that were on their way when it was requested, itself among them
    milestones: dict[str, float] = field(default_factory=dict)  #: → time, of this attempt
    early: list[Reached] = field(default_factory=list)  #: may be of the attempt that is about to start
    reason: str = ""

    @property
    def at(self) -> str:
        """The last step it reached."""
        reached = [step for step in MILESTONES if step in self.milestones]
        return reached[-1] if reached else "power-on"


class BootTracker:
    """All VMs of a launch, in the order in which they are to start.

    ``timeout(in_flight, attempt)``: seconds to wait for a VM, after which it is powered on again, at most
    ``attempts`` times in all; more if more are in flight. ``in_flight``: the VMs on their way when it was
    powered on, or now, whichever are more: the last ones of a crowd have shared cores and links with all of
    it.
    """

    def __init__(
        self,
        vms: Sequence[VM],
        window: Window,
        timeout: Callable[[int, int], float],
        attempts: int,
    ) -> None:
        self.boots = {vm.name: TrackedBoot(vm) for vm in vms}
        self._window = window
        self._timeout = timeout
        self._attempts = attempts
        self._waiting = deque(vm.name for vm in vms)
        self._in_flight: dict[str, TrackedBoot] = {}  # insertion order is the order of power-on
        self._unanswered: set[str] = set()  # whose host has not reported the power-on yet
        self._open = len(self.boots)
        self._last_batch: float | None = None
        self._earliest = math.inf  # no VM is overdue before: thousands need not be looked at twice a second

    @property
    def finished(self) -> bool:
        """True when every VM is up or failed, and those that are up were powered on, as far as is known."""
        return self._open == 0 and not self._unanswered

    @property
    def in_flight(self) -> int:
        """VMs that were powered on and are neither up nor failed."""
        return len(self._in_flight)

    def count(self, state: State) -> int:
        """How many VMs are in ``state``."""
        return sum(boot.state == state for boot in self.boots.values())

    def already_up(self, name: str) -> None:
        """A VM is up from an earlier call: it is not started again."""
        self._waiting.remove(name)
        self._close(self.boots[name], "up")

    def due(self, now: float) -> list[TrackedBoot]:
        """The VMs to power on now; they count as on their way from here on."""
        decision = self._window.decide(
            now, waiting=len(self._waiting), in_flight=self.in_flight, last=self._last_batch
        )
        batch = [self.boots[self._waiting.popleft()] for _ in range(decision.start)]
        for boot in batch:
            boot.state = "starting"
            boot.attempt += 1
            boot.requested = now
            boot.milestones = {}
            self._in_flight[boot.vm.name] = boot
            self._unanswered.add(boot.vm.name)
        for boot in batch:
            boot.crowd = self.in_flight
            self._expect(boot)
        if batch:
            self._last_batch = now
        return batch

    def _expect(self, boot: TrackedBoot) -> None:
        """It may be overdue from some time on; later, if more are in flight by then."""
        patience = self._timeout(boot.crowd, boot.attempt)
        self._earliest = min(self._earliest, (boot.start or boot.requested) + patience)

    def powered_on(self, name: str, attempt: int, t: float) -> list[Reached]:
        """The VM's QEMU process of this attempt started at ``t``; an earlier one's late answer is ignored.

        Returns the milestones that were passed in before and turn out to be of this attempt.
        """
        boot = self.boots[name]
        if boot.attempt != attempt or boot.state not in ("starting", "up"):
            return []
        self._unanswered.discard(name)
        boot.start = t
        self._expect(boot)
        early, boot.early = boot.early, []
        if boot.state == "up":  # its report was faster than the answer of its host
            known = [r for r in early if r.step not in boot.milestones and r.t >= t - CLOCK_SLACK]
            boot.milestones |= {reached.step: reached.t for reached in known}
            return known
        boot.state = "booting"
        return [reached for reached in early if self._counts(boot, reached)]

    def reached(self, name: str, step: str, t: float, detail: Mapping[str, Any] | None = None) -> bool:
        """The VM did ``step`` at ``t``; False if that is known already or belongs to an earlier attempt.

        Before a VM that is powered on again has been stopped, a milestone may be of either attempt: it is
        kept until `powered_on`.
        """
        boot = self.boots.get(name)
        if boot is None:
            return False
        reached = Reached(step, t, detail or {})
        if self._counts(boot, reached):
            return True
        if boot.state in ("waiting", "starting"):
            boot.early.append(reached)
        return False

    def _counts(self, boot: TrackedBoot, reached: Reached) -> bool:
        if boot.state not in ("starting", "booting") or reached.step in boot.milestones:
            return False
        if boot.state == "starting" and boot.attempt > 1:
            return False
        if reached.t < (boot.start or boot.requested) - CLOCK_SLACK:
            return False
        boot.milestones[reached.step] = reached.t
        if reached.step == MILESTONES[-1]:
            self._close(boot, "up")
        return True

    def refused(self, name: str, attempt: int, reason: str) -> TrackedBoot | None:
        """The host could not power the VM on: it goes back into the queue, or fails.

        None if that changes nothing: it was given up meanwhile, or is booting nevertheless.
        """
        boot = self.boots[name]
        if boot.attempt == attempt:
            self._unanswered.discard(name)
        if boot.state != "starting" or boot.attempt != attempt:
            return None
        return self._again_or_failed(boot, reason)

    def host_gone(self, host: str, reason: str) -> list[TrackedBoot]:
        """A host is lost: those of its VMs that are not up have failed, and are returned."""
        lost = [b for b in self.boots.values() if b.vm.host == host and b.state not in ("up", "failed")]
        for boot in lost:
            if boot.state == "waiting":
                self._waiting.remove(boot.vm.name)
            self._give_up(boot, reason)
        self._unanswered -= {boot.vm.name for boot in self.boots.values() if boot.vm.host == host}
        return lost

    def vm_gone(self, name: str, t: float, reason: str) -> TrackedBoot | None:
        """A VM's process had ended at ``t``: it goes back into the queue, or fails.

        None if that changes nothing: it is up or failed, or has been powered on since.
        """
        boot = self.boots[name]
        if boot.state != "booting" or t < boot.start:
            return None
        return self._again_or_failed(boot, reason)

    def overdue(self, now: float) -> list[TrackedBoot]:
        """The VMs that were waited for too long: each is in the queue again (``waiting``) or ``failed``."""
        if now <= self._earliest:
            return []
        self._earliest = math.inf
        present = self.in_flight
        patience: dict[tuple[int, int], float] = {}
        late = []
        for boot in self._in_flight.values():
            key = boot.crowd, boot.attempt
            if key not in patience:
                patience[key] = self._timeout(max(boot.crowd, present), boot.attempt)
            if now - (boot.start or boot.requested) > patience[key]:
                late.append((boot, patience[key]))
            else:
                self._expect(boot)
        return [
            self._again_or_failed(boot, f"nothing after {boot.at} within {seconds:.0f} s")
            for boot, seconds in late
        ]

    def _again_or_failed(self, boot: TrackedBoot, reason: str) -> TrackedBoot:
        self._unanswered.discard(boot.vm.name)
        if boot.attempt >= self._attempts:
            self._give_up(boot, reason)
        else:
            boot.reason = reason
            self._in_flight.pop(boot.vm.name, None)
            boot.state = "waiting"
            boot.start = 0.0
            self._waiting.append(boot.vm.name)
        return boot

    def _give_up(self, boot: TrackedBoot, reason: str) -> None:
        boot.reason = reason
        self._close(boot, "failed")

    def _close(self, boot: TrackedBoot, state: State) -> None:
        boot.state = state
        self._in_flight.pop(boot.vm.name, None)
        self._open -= 1
