"""Work of several that progress alike: jobs on the same cores, transfers over the same links."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable

from g5kvirt.simulation.timeline import Timeline

__all__ = ["FairShare"]


class FairShare(ABC):
    """Everything in it progresses at the same rate, so one number is enough for what each has had.

    Something ends when that number has grown by its work. What begins or ends costs O(log of all).
    ``left`` is called when something has ended, before whoever waits for that.
    """

    def __init__(self, timeline: Timeline, left: Callable[[], object] | None = None) -> None:
        self._timeline = timeline
        self._left = left
        self._open: list[tuple[float, int, Callable[[], object]]] = []
        self._number = 0
        self._attained = 0.0  #: what something has had that was here all the time
        self._since = timeline.now
        self._planned = 0  #: the only action on the timeline that counts

    @property
    @abstractmethod
    def rate(self) -> float:
        """What each gets in a second now."""

    def __len__(self) -> int:
        return len(self._open)

    def add(self, work: float, done: Callable[[], object]) -> None:
        """So much work; ``done`` is called when it ends."""
        self._catch_up()
        self._number += 1
        heapq.heappush(self._open, (self._attained + work, self._number, done))
        self._plan()

    def _catch_up(self) -> None:
        """To be called before the rate changes."""
        now = self._timeline.now
        self._attained += (now - self._since) * self.rate
        self._since = now

    def _plan(self) -> None:
        """The end of what ends first, if nothing begins before and the rate stays."""
        if not self._open or self.rate <= 0:
            return
        number = self._planned = self._planned + 1
        end = self._timeline.now + max(0.0, self._open[0][0] - self._attained) / self.rate
        self._timeline.at(end, lambda: self._end(number))

    def _end(self, number: int) -> None:
        if number != self._planned:
            return
        self._catch_up()
        self._attained = max(self._attained, self._open[0][0])  # whatever was lost to rounding
        ended = []
        while self._open and self._open[0][0] <= self._attained:
            ended.append(heapq.heappop(self._open)[2])
        self._plan()
        if self._left is not None:
            self._left()
        for done in ended:
            done()
