"""The phases of a run: their tries, and how long they took.

A phase may be called again after it failed or was interrupted; `measure` may be called any number of times.
Each call is a try. The time of a phase is the sum of its tries, wherever it is displayed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from g5kvirt.run.events import Event
from g5kvirt.run.vocabulary import UNFINISHED

__all__ = ["PhaseState", "Try"]

NAN = math.nan


@dataclass(slots=True)
class Try:
    """One call of a phase. Times are seconds since the epoch; ``end`` is NaN until it has ended."""

    start: float
    end: float = NAN
    status: str = UNFINISHED  #: or ``ok``, ``failed``, ``skipped``


@dataclass
class PhaseState:
    """One phase of the experiment."""

    name: str
    tries: list[Try] = field(default_factory=list)
    latest: Event | None = None  #: the last event about its progress, or why it failed

    @property
    def state(self) -> str:
        """``waiting`` (not started), ``running``, ``ok`` or ``failed``: that of its last try."""
        if not self.tries:
            return "waiting"
        status = self.tries[-1].status
        return "running" if status == UNFINISHED else status

    @property
    def start(self) -> float:
        """When its first try started; NaN before that."""
        return self.tries[0].start if self.tries else NAN

    @property
    def end(self) -> float:
        """When its last try ended; NaN while it runs."""
        return self.tries[-1].end if self.tries else NAN

    def seconds(self, now: float = NAN) -> float:
        """The total time of all its tries, the running one until ``now``; NaN if not known."""
        if not self.tries:
            return NAN
        *before, last = self.tries
        done = sum(one.end - one.start for one in before)
        end = now if math.isnan(last.end) else last.end
        return NAN if math.isnan(end) else done + max(0.0, end - last.start)

    def take(self, event: Event, before: float) -> None:
        """Process one event of this phase, except those about VMs; ``before``: the latest time until then."""
        if not event.is_phase:
            if not event.is_release and not event.is_load:
                self.latest = event
        elif event.status == "start":
            if self.tries and math.isnan(self.tries[-1].end):  # interrupted without a record
                self.tries[-1].end = max(before, self.tries[-1].start)
            self.tries.append(Try(event.t))
            self.latest = None
        elif self.tries and math.isnan(self.tries[-1].end):  # a try ends once: a repeated end changes nothing
            self.tries[-1].end, self.tries[-1].status = max(event.t, self.tries[-1].start), event.status
            self.latest = event if event.status == "failed" else None
