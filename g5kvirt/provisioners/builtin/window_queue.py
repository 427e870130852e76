"""The VMs that wait for a window, and those that hold a slot of it."""

from __future__ import annotations

from collections import OrderedDict

from g5kvirt.planning.windows import Window
from g5kvirt.provisioners.builtin.positions import VMProgress

__all__ = ["WindowQueue"]


class WindowQueue:
    """VMs that wait for a window, in their order. A VM that may go holds a slot until it leaves."""

    def __init__(self, window: Window) -> None:
        self.next_time: float | None = None  #: when more may go, if nothing happens before
        self._window = window
        self._last: float | None = None
        self._line: OrderedDict[VMProgress, None] = OrderedDict()
        self._inside: set[VMProgress] = set()

    @property
    def waiting(self) -> int:
        """How many VMs still wait."""
        return len(self._line)

    @property
    def held(self) -> int:
        """How many VMs hold a slot."""
        return len(self._inside)

    def waits(self, progress: VMProgress) -> bool:
        """Whether a VM still waits."""
        return progress in self._line

    def holds(self, progress: VMProgress) -> bool:
        """Whether a VM holds a slot."""
        return progress in self._inside

    def put(self, progress: VMProgress) -> None:
        """Append a VM to the queue."""
        self._line[progress] = None

    def leave(self, progress: VMProgress) -> None:
        """Remove a VM from the queue, or free its slot."""
        self._line.pop(progress, None)
        self._inside.discard(progress)

    def take(self, now: float) -> list[VMProgress]:
        """The VMs that may go now; each holds a slot from here on."""
        decision = self._window.decide(now, waiting=self.waiting, in_flight=self.held, last=self._last)
        self.next_time = decision.wake_at
        batch = [self._line.popitem(last=False)[0] for _ in range(decision.start)]
        if batch:
            self._inside.update(batch)
            self._last = now
        return batch
