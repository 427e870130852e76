"""The broadcast to each host, and the VMs that wait for it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Literal

from g5kvirt.provisioners.builtin.deadlines import first_due, late, patience_at
from g5kvirt.provisioners.builtin.positions import Spot, Track
from g5kvirt.provisioners.builtin.workflow import Broadcast, Word

__all__ = ["Hosts", "Part", "broadcast_orders"]


class Part:
    """The broadcast to one host by one variant."""

    __slots__ = ("attempt", "name", "reason", "since", "spot", "state", "tried", "waiting")

    def __init__(self, name: str, spot: Spot) -> None:
        self.name, self.spot = name, spot
        self.state: Literal["running", "ok", "failed"] = "running"
        self.attempt = 0  # one count for all variants of a host
        self.tried = 0  # how often it failed
        self.since = 0.0
        self.reason = ""
        self.waiting: dict[Track, None] = {}

    def end(self, state: Literal["ok", "failed"], reason: str = "") -> list[Track]:
        """It is over; returns the VMs that still wait for it."""
        self.state, self.reason = state, reason
        waiting, self.waiting = self.waiting, {}
        return [track for track in waiting if track.spot is self.spot and track.state == "open"]


class Hosts:
    """All broadcasts to all hosts. ``load`` says how many VMs are active now (see `Meter`)."""

    def __init__(self, load: Callable[[], int]) -> None:
        self._load = load
        self._parts: dict[tuple[Spot, str], Part] = {}
        self._due: list[Part] = []
        self._given: dict[str, list[Part]] = {}  # host → in the order of its attempts
        self._running: dict[Spot, OrderedDict[Part, float]] = {}  # since when, until answered

    def part(self, name: str, spot: Spot) -> Part:
        """The broadcast to a host; due when it is first asked for."""
        key = (spot, name)
        if key not in self._parts:
            self._parts[key] = Part(name, spot)
            self._due.append(self._parts[key])
        return self._parts[key]

    def again(self, part: Part) -> None:
        """It is due once more."""
        self._due.append(part)

    def begin(self, now: float) -> list[Part]:
        """Those that are due begin, with a new attempt each."""
        parts, self._due = self._due, []
        for part in parts:
            given = self._given.setdefault(part.name, [])
            given.append(part)
            part.attempt = len(given)
            part.since = now
            self._running.setdefault(part.spot, OrderedDict())[part] = now
        return parts

    def answered(self, word: Word) -> Part | None:
        """The running broadcast that a word is about, which runs no longer."""
        given = self._given.get(word.subject, [])
        attempt = word.attempt if word.attempt is not None else len(given)
        if not 1 <= attempt <= len(given):
            return None
        part = given[attempt - 1]
        if part.attempt != attempt or word.step != part.spot.step.name:
            return None
        return part if self._running[part.spot].pop(part, None) is not None else None

    def late(self, now: float) -> Iterator[tuple[Part, float]]:
        """Broadcasts that have lasted too long, and for how many seconds they might."""
        for spot, line in self._running.items():
            yield from late(line, now, patience_at(spot, self._load))

    def next(self) -> list[float]:
        """When one is late next, as far as is known now."""
        running = [(line, spot) for spot, line in self._running.items() if line]
        return [first_due(line, patience_at(spot, self._load)) for line, spot in running]


def broadcast_orders(parts: list[Part]) -> list[Broadcast]:
    """One order for all hosts with the same step, variant and attempt."""
    groups: dict[tuple[str, str, int], list[str]] = {}
    for part in parts:
        key = (part.spot.step.name, part.spot.way.variant.name, part.attempt)
        groups.setdefault(key, []).append(part.name)
    return [Broadcast(tuple(hosts), *key) for key, hosts in groups.items()]
