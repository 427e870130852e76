"""Who waits for a window, and who holds a slot of it."""

from __future__ import annotations

from collections import OrderedDict

from g5kvirt.planning.windows import Window
from g5kvirt.provisioners.builtin.positions import Track

__all__ = ["Queue"]


class Queue:
    """VMs that wait for a window, in their order. Whoever may go holds a slot until it leaves."""

    def __init__(self, window: Window) -> None:
        self.again: float | None = None  #: when to ask again, if nothing happens before
        self._window = window
        self._last: float | None = None
        self._line: OrderedDict[Track, None] = OrderedDict()
        self._inside: set[Track] = set()

    @property
    def waiting(self) -> int:
        """How many have not gone yet."""
        return len(self._line)

    @property
    def held(self) -> int:
        """How many hold a slot."""
        return len(self._inside)

    def waits(self, track: Track) -> bool:
        """Whether it has not gone yet."""
        return track in self._line

    def holds(self, track: Track) -> bool:
        """Whether it has a slot."""
        return track in self._inside

    def put(self, track: Track) -> None:
        """At the end of the line."""
        self._line[track] = None

    def leave(self, track: Track) -> None:
        """Wherever it is: out of the line, or its slot is free again."""
        self._line.pop(track, None)
        self._inside.discard(track)

    def take(self, now: float) -> list[Track]:
        """Those who may go now; each holds a slot."""
        decision = self._window.decide(now, waiting=self.waiting, in_flight=self.held, last=self._last)
        self.again = decision.wake_at
        batch = [self._line.popitem(last=False)[0] for _ in range(decision.start)]
        if batch:
            self._inside.update(batch)
            self._last = now
        return batch
