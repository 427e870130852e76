"""Who is late at a step or in a macro-step, and whose check is due."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from g5kvirt.provisioners.builtin.positions import Route, Spot, Track

__all__ = ["Deadlines", "Patience", "first_due", "late", "patience_at"]

Patience = Callable[[], float]  #: how many seconds whoever is in a line may stay there, now
_T = TypeVar("_T")


def patience_at(spot: Spot, load: Callable[[], int]) -> Patience:
    """The time-out of a step; ``load`` says how many VMs are active now (see `Meter`)."""
    return lambda: spot.meter.timeout(load())


def late(line: OrderedDict[_T, float], now: float, patience: Patience) -> Iterator[tuple[_T, float]]:
    """Takes out of a line, one by one, who has been in it for too long; with the seconds that it might.

    The first is due first, as all may stay equally long. That may change while one is dealt with, and so may
    the line.
    """
    while line:
        one, since = next(iter(line.items()))
        seconds = patience()
        if now < since + seconds:
            return
        del line[one]
        yield one, seconds


def first_due(line: OrderedDict[_T, float], patience: Patience) -> float:
    """When the first in a line is due; there must be one."""
    return next(iter(line.values())) + patience()


class Deadlines:
    """The deadlines of all VMs. ``load`` says how many are active now (see `Meter`)."""

    def __init__(self, route: Route, load: Callable[[], int]) -> None:
        self._steps = [(spot.inside, patience_at(spot, load)) for spot in route.spots]
        bounded = [(way.inside, way.variant.timeout) for way in route.ways]
        self._macros: list[tuple[OrderedDict[Track, float], Patience]] = [
            (line, partial(float, bound)) for line, bound in bounded if bound is not None
        ]
        self._timers: list[tuple[float, int, Track]] = []  # a heap
        self._number = 0

    def arm(self, track: Track, now: float) -> None:
        """Its step begins, and with the first one that waits for no window its macro-step."""
        spot = track.spot
        if spot.step.act != "broadcast":  # there the host has the deadline
            spot.inside[track] = now
        if spot.way.variant.timeout is not None:
            spot.way.inside.setdefault(track, now)

    def step_over(self, track: Track) -> None:
        """It leaves its step."""
        track.spot.inside.pop(track, None)
        track.timer = 0

    def macro_over(self, track: Track) -> None:
        """It leaves its macro-step."""
        track.spot.way.inside.pop(track, None)

    def set_timer(self, track: Track, due: float) -> None:
        """In place of the one that it had."""
        self._number += 1
        track.timer = self._number
        heapq.heappush(self._timers, (due, self._number, track))

    def rung(self, now: float) -> Iterator[Track]:
        """Those whose timer has run off."""
        while self._timers and self._timers[0][0] <= now:
            _, number, track = heapq.heappop(self._timers)
            if track.timer == number:
                track.timer = 0
                yield track

    def late_at_step(self, now: float) -> Iterator[tuple[Track, float]]:
        """VMs whose step has lasted too long, and for how many seconds it might."""
        for line, patience in self._steps:
            yield from late(line, now, patience)

    def late_in_macro(self, now: float) -> Iterator[tuple[Track, float]]:
        """VMs whose macro-step has lasted too long, and for how many seconds it might."""
        for line, patience in self._macros:
            yield from late(line, now, patience)

    def next(self) -> list[float]:
        """When something is late next, as far as is known now."""
        times = [self._timers[0][0]] if self._timers else []
        for line, patience in self._steps + self._macros:
            if line:
                times.append(first_due(line, patience))
        return times
