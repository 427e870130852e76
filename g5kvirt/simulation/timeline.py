"""A virtual clock, and what is to happen on it."""

from __future__ import annotations

import heapq
from collections.abc import Callable

__all__ = ["Timeline"]

Action = Callable[[], object]


class Timeline:
    """Actions in the order of their times; those of the same time in the order in which they were added."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Action]] = []
        self._number = 0

    def at(self, t: float, action: Action) -> None:
        """Do ``action`` at ``t``, or now if that is over."""
        self._number += 1
        heapq.heappush(self._heap, (max(t, self.now), self._number, action))

    def after(self, seconds: float, action: Action) -> None:
        """Do ``action`` after so many seconds."""
        self.at(self.now + seconds, action)

    def run(self, until: float, enough: Callable[[], bool] | None = None) -> None:
        """Let time pass, at most ``until``; ends after the first moment at which ``enough()`` is true."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            moment = self.now = heap[0][0]
            while heap and heap[0][0] == moment:
                heapq.heappop(heap)[2]()
            if enough is not None and enough():
                return
        self.now = max(self.now, until)
