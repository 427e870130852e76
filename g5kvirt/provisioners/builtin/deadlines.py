"""Which VMs are late at a step or in a macro-step, and whose check is due."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from g5kvirt.provisioners.builtin.positions import Position, Positions, VMProgress

__all__ = ["Deadlines", "Timeout", "first_due", "late", "timeout_at"]

Timeout = Callable[[], float]  #: seconds that a VM may stay in a queue, as of now
_T = TypeVar("_T")


def timeout_at(position: Position, load: Callable[[], int]) -> Timeout:
    """The time-out of a step; ``load``: how many VMs are active now (see `Meter`)."""
    return lambda: position.meter.timeout(load())


def late(line: OrderedDict[_T, float], now: float, timeout: Timeout) -> Iterator[tuple[_T, float]]:
    """Takes VMs out of a queue, one by one, that have been in it for too long; with the seconds allowed.

    The first is due first, because all may stay equally long. That limit and the queue may change while one
    is handled.
    """
    while line:
        one, since = next(iter(line.items()))
        seconds = timeout()
        if now < since + seconds:
            return
        del line[one]
        yield one, seconds


def first_due(line: OrderedDict[_T, float], timeout: Timeout) -> float:
    """When the first in a queue is due; there must be one."""
    return next(iter(line.values())) + timeout()


class Deadlines:
    """The deadlines of all VMs. ``load``: how many are active now (see `Meter`)."""

    def __init__(self, positions: Positions, load: Callable[[], int]) -> None:
        self._steps = [(position.inside, timeout_at(position, load)) for position in positions.all]
        bounded = [(branch.inside, branch.variant.timeout) for branch in positions.branches]
        self._macros: list[tuple[OrderedDict[VMProgress, float], Timeout]] = [
            (line, partial(float, bound)) for line, bound in bounded if bound is not None
        ]
        self._timers: list[tuple[float, int, VMProgress]] = []  # a heap
        self._number = 0

    def arm(self, progress: VMProgress, now: float) -> None:
        """A VM's step begins, and its macro-step with the first step that waits for no window."""
        position = progress.position
        if position.step.act != "broadcast":  # there the host has the deadline
            position.inside[progress] = now
        if position.branch.variant.timeout is not None:
            position.branch.inside.setdefault(progress, now)

    def leave_step(self, progress: VMProgress) -> None:
        """A VM leaves its step."""
        progress.position.inside.pop(progress, None)
        progress.timer = 0

    def leave_macro(self, progress: VMProgress) -> None:
        """A VM leaves its macro-step."""
        progress.position.branch.inside.pop(progress, None)

    def set_timer(self, progress: VMProgress, due: float) -> None:
        """Set a VM's timer, in place of an earlier one."""
        self._number += 1
        progress.timer = self._number
        heapq.heappush(self._timers, (due, self._number, progress))

    def expired_timers(self, now: float) -> Iterator[VMProgress]:
        """VMs whose timer has expired."""
        while self._timers and self._timers[0][0] <= now:
            _, number, progress = heapq.heappop(self._timers)
            if progress.timer == number:
                progress.timer = 0
                yield progress

    def late_at_step(self, now: float) -> Iterator[tuple[VMProgress, float]]:
        """VMs whose step has lasted too long, and how many seconds were allowed."""
        for line, timeout in self._steps:
            yield from late(line, now, timeout)

    def late_in_macro(self, now: float) -> Iterator[tuple[VMProgress, float]]:
        """VMs whose macro-step has lasted too long, and how many seconds were allowed."""
        for line, timeout in self._macros:
            yield from late(line, now, timeout)

    def upcoming(self) -> list[float]:
        """When something is late next, as far as is known now."""
        times = [self._timers[0][0]] if self._timers else []
        for line, timeout in self._steps + self._macros:
            if line:
                times.append(first_due(line, timeout))
        return times
