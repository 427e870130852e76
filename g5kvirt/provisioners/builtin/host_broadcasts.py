"""The broadcast to each host, and the VMs that wait for it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Literal

from g5kvirt.provisioners.builtin.deadlines import first_due, late, timeout_at
from g5kvirt.provisioners.builtin.orders import Report
from g5kvirt.provisioners.builtin.positions import Position, VMProgress

__all__ = ["HostBroadcast", "HostBroadcasts"]


class HostBroadcast:
    """The broadcast to one host by one variant."""

    __slots__ = ("attempt", "failures", "host", "position", "reason", "start", "state", "waiting")

    def __init__(self, host: str, position: Position) -> None:
        self.host, self.position = host, position
        self.state: Literal["running", "ok", "failed"] = "running"
        self.attempt = 0  # one count for all variants of a host
        self.failures = 0
        self.start = 0.0
        self.reason = ""
        self.waiting: dict[VMProgress, None] = {}

    def end(self, state: Literal["ok", "failed"], reason: str = "") -> list[VMProgress]:
        """A broadcast is over; returns the VMs that still wait for it."""
        self.state, self.reason = state, reason
        waiting, self.waiting = self.waiting, {}
        return [p for p in waiting if p.position is self.position and p.state == "open"]


class HostBroadcasts:
    """All broadcasts to all hosts. ``load``: how many VMs are active now (see `Meter`)."""

    def __init__(self, load: Callable[[], int]) -> None:
        self._load = load
        self._known: dict[tuple[Position, str], HostBroadcast] = {}
        self._due: list[HostBroadcast] = []
        self._attempts: dict[str, list[HostBroadcast]] = {}  # host → in their order
        self._running: dict[Position, OrderedDict[HostBroadcast, float]] = {}  # since when, until reported

    def to(self, host: str, position: Position) -> HostBroadcast:
        """The broadcast to a host; due when it is first needed."""
        key = (position, host)
        if key not in self._known:
            self._known[key] = HostBroadcast(host, position)
            self._due.append(self._known[key])
        return self._known[key]

    def repeat(self, broadcast: HostBroadcast) -> None:
        """Make a broadcast due once more."""
        self._due.append(broadcast)

    def start_due(self, now: float) -> list[HostBroadcast]:
        """Start the broadcasts that are due, each with a new attempt."""
        due, self._due = self._due, []
        for broadcast in due:
            attempts = self._attempts.setdefault(broadcast.host, [])
            attempts.append(broadcast)
            broadcast.attempt = len(attempts)
            broadcast.start = now
            self._running.setdefault(broadcast.position, OrderedDict())[broadcast] = now
        return due

    def take_reported(self, report: Report) -> HostBroadcast | None:
        """The running broadcast that a report is about, which then no longer runs."""
        attempts = self._attempts.get(report.subject, [])
        attempt = report.attempt if report.attempt is not None else len(attempts)
        if not 1 <= attempt <= len(attempts):
            return None
        broadcast = attempts[attempt - 1]
        if broadcast.attempt != attempt or report.step != broadcast.position.step.name:
            return None
        running = self._running[broadcast.position].pop(broadcast, None)
        return broadcast if running is not None else None

    def late(self, now: float) -> Iterator[tuple[HostBroadcast, float]]:
        """Broadcasts that have lasted too long, and how many seconds were allowed."""
        for position, line in self._running.items():
            yield from late(line, now, timeout_at(position, self._load))

    def upcoming(self) -> list[float]:
        """When the next one is late, as far as is known now."""
        running = [(line, position) for position, line in self._running.items() if line]
        return [first_due(line, timeout_at(position, self._load)) for line, position in running]
