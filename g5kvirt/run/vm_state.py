"""One VM of a run: its boots, their outcomes, and its position. All rules about a VM's events are here.

A boot begins with the request of a power-on, and ends in the minimal system or when it is given up. `launch`
may be killed and called again: each call numbers its attempts from 1, and may find VMs that are still
running, whose power-on is then recorded with its original time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from g5kvirt.run.event_types import console_of, failure_of
from g5kvirt.run.events import Event
from g5kvirt.run.vocabulary import (
    BOOT_STEPS,
    CONSOLE,
    DEPLOYED,
    DEPLOYMENT,
    FAILED,
    LAUNCH,
    MACROS,
    MINIMAL_SYSTEM,
    PLANNED,
    POWER_ON,
    REBOOTING,
    UNFINISHED,
    WRITING,
)

if TYPE_CHECKING:
    from g5kvirt.run.deployment_state import VMDeployment

__all__ = ["Boot", "VMState"]

NAN = math.nan
#: Clocks of a host and of this machine, corrected by their measured offsets, may still differ so much.
_CLOCK_SLACK = 0.5
_RANK = {step: number for number, step in enumerate(BOOT_STEPS, start=1)}
_FIRST, *_, _LAST = MACROS


@dataclass(slots=True)
class Boot:
    """One attempt to boot a VM. Times are seconds since the epoch, NaN if not known."""

    call: int  #: the call of `launch`, from 1; 0 if the journal has none
    attempt: int  #: within that call, from 1
    requested: float = NAN  #: when the power-on was requested
    steps: dict[str, Event] = field(default_factory=dict)  #: step → the event that first reached it
    reached: int = 0  #: rank of the farthest step: 0 none, 6 the minimal system
    outcome: str = UNFINISHED  #: or ``ok``, ``failed``
    end: float = NAN
    failed_at: str = ""
    reason: str = ""

    @property
    def power_on(self) -> float:
        """When its process was running."""
        event = self.steps.get(POWER_ON)
        return NAN if event is None else event.t


@dataclass(slots=True)
class VMState:
    """One VM. `state` is its outcome in `launch`; `position` is where it is now."""

    name: str
    plan: Mapping[str, Any] = field(default_factory=dict)  #: its row of the placement; empty if it has none
    boots: list[Boot] = field(default_factory=list)
    deployments: list[VMDeployment] = field(default_factory=list)
    state: str = "placed"  #: one of `vocabulary.BOOT_STATES`
    failed_at: str = ""  #: the step at which it was given up in `launch`; empty if it was not
    reason: str = ""  #: why
    console: str = ""  #: the file with the end of its serial console, of `launch`
    position: str = PLANNED  #: a step of the boot, or one of the positions of `g5kvirt.run.vocabulary`
    step: str = ""  #: its latest step
    since: float = 0.0  #: since when
    attempt: int = 1  #: of that step
    note: str = ""  #: why it was last given up or restarted
    gave_up: float = NAN  #: when it was given up in `launch`

    @property
    def host(self) -> str:
        """Its host; empty if not known."""
        return str(self.plan.get("host", ""))

    @property
    def site(self) -> str:
        """The site of its host; empty if not known."""
        return str(self.plan.get("site", ""))

    @property
    def group(self) -> str:
        """Its group; empty if the specification has none."""
        return str(self.plan.get("group", ""))

    @property
    def up(self) -> bool:
        """True if it has reported from the minimal system."""
        return self.state == "up"

    @property
    def boot(self) -> Boot | None:
        """Its last boot."""
        return self.boots[-1] if self.boots else None

    @property
    def attempts(self) -> int:
        """How many times a power-on was requested."""
        return max(len(self.boots), max((boot.attempt for boot in self.boots), default=0))

    # ---- launch ---------------------------------------------------------------------------------------

    def take_boot(self, event: Event, call: int) -> bool:
        """Process an event of the ``call``-th call of `launch`; True if the VM's position or note changed."""
        step = event.step
        if step == CONSOLE:
            self.console = console_of(event)
            return False
        if step == LAUNCH:
            return self._launch_ended(event)
        if step not in _RANK or event.status not in ("start", "ok"):
            return False
        boot = self.boot
        start = event.status == "start"
        if (
            boot is None
            or event.attempt > boot.attempt
            or (start and (self.state == "failed" or boot.call != call))
            or (start and not call and POWER_ON in boot.steps)  # a journal without its phases
        ):
            boot = self._begin(event, call, boot)
            if start:  # requested, not yet done
                self._at(PLANNED, step, event)
                return True
        elif start or event.attempt < boot.attempt:
            return False  # a late report about an earlier attempt
        if step == POWER_ON and (before := self._same_process(event)) is not None:
            return self._resume(before, event)
        return self._reached(boot, event)

    def _begin(self, event: Event, call: int, before: Boot | None) -> Boot:
        """Powered on again, perhaps by a later call that counts from 1: earlier boots no longer count."""
        if before is not None and before.outcome == UNFINISHED:
            before.outcome, before.end = "failed", event.t
        boot = Boot(call, event.attempt, event.t if event.status == "start" else NAN)
        self.boots.append(boot)
        self.state, self.failed_at, self.reason = "booting", "", ""
        return boot

    def _same_process(self, event: Event) -> Boot | None:
        """An earlier boot whose process is the one of this power-on: it was there all the time.

        It has this power-on already, or its launch was killed before the answer to it came.
        """
        last, earlier = self.boots[-1], self.boots[-2::-1]
        if POWER_ON in last.steps:
            return None
        when = round(event.t, 3)
        known = next((b for b in earlier if round(b.power_on, 3) == when), None)
        if known is None and event.t < last.requested - _CLOCK_SLACK:
            known = next((b for b in earlier if POWER_ON not in b.steps and b.requested <= event.t), None)
        return known

    def _resume(self, boot: Boot, event: Event) -> bool:
        """A later call found the process of ``boot`` running: one boot, numbered as that call does."""
        latest = self.boots.pop()
        self.boots.remove(boot)
        self.boots.append(boot)
        boot.call, boot.attempt = latest.call, latest.attempt
        boot.outcome, boot.end, boot.failed_at, boot.reason = UNFINISHED, NAN, "", ""
        for step, reached in (*latest.steps.items(), (POWER_ON, event)):
            boot.steps.setdefault(step, reached)
        boot.reached = max(_RANK[step] for step in boot.steps)
        farthest = BOOT_STEPS[boot.reached - 1]
        if farthest == MINIMAL_SYSTEM:
            self._up(boot, boot.steps[farthest].t)
        self._at(farthest, farthest, event)
        self.since = boot.steps[farthest].t
        return True

    def _reached(self, boot: Boot, event: Event) -> bool:
        """It reached a step. DHCP and files may be requested twice (iPXE, then the minimal system): the first
        counts, and a VM never goes back within a boot. One that reports in after all is up, also after it was
        given up."""
        step = event.step
        boot.steps.setdefault(step, event)
        rank = _RANK[step]
        if step == MINIMAL_SYSTEM:
            self._up(boot, event.t)
        if rank <= boot.reached:
            return False
        boot.reached = rank
        if self.state == "failed":
            return False
        self._at(step, step, event)
        return True

    def _up(self, boot: Boot, t: float) -> None:
        self.state, self.failed_at, self.reason = "up", "", ""
        boot.outcome, boot.end, boot.failed_at, boot.reason = "ok", t, "", ""

    def _launch_ended(self, event: Event) -> bool:
        if event.status not in ("failed", "retry"):
            return False
        at, self.note = failure_of(event, self.step)
        if event.status == "failed":
            self.state, self.failed_at, self.reason = "failed", at, self.note
            self.gave_up = event.t
            if (boot := self.boot) is not None and boot.outcome == UNFINISHED:
                boot.outcome, boot.end = "failed", event.t
                boot.failed_at, boot.reason = at, self.note
            self._at(FAILED, at, event)
        return True

    # ---- measure --------------------------------------------------------------------------------------

    def take_deployment(self, event: Event) -> bool:
        """Process an event of a deployment; True if the VM's position or note changed."""
        step, status = event.step, event.status
        if step == CONSOLE:
            return False
        if reason := event.reason:
            self.note = reason
        if step == DEPLOYMENT:
            position = DEPLOYED if status == "ok" else FAILED
            self._at(position, str(event.detail.get("at", "ready")), event)
        elif status == "start":
            if step == _FIRST and event.attempt == 1:
                self.note = ""
            self._at(REBOOTING if step in (_FIRST, _LAST) else WRITING, step, event)
        elif step == MINIMAL_SYSTEM and status in ("ok", "skipped"):
            self._at(WRITING, step, event)
        elif status == "ok" and step not in MACROS and self.position != FAILED:
            self._at(self.position, step, event)
        else:
            return bool(reason)
        return True

    def _at(self, position: str, step: str, event: Event) -> None:
        self.position, self.step, self.since, self.attempt = position, step, event.t, event.attempt
