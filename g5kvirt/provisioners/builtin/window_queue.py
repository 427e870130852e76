"""The VMs that wait for a window, and those that hold a slot of it."""

from __future__ import annotations

from collections import OrderedDict

from g5kvirt.planning.windows import SlotWindow, Window
from g5kvirt.provisioners.builtin.positions import VMProgress

__all__ = ["WindowQueue"]

#: Parts of a window, of which VMs of one host take one at a time, if they go by host.
_PARTS = 4


class WindowQueue:
    """VMs that wait for a window, in their order. A VM that may go holds a slot until it leaves.

    ``by_host``: VMs of one host go together, the host that has waited longest first. Since a call of a host
    costs more than what it does for a VM, they wait until there are slots for all of them, or for a quarter
    of the window.
    """

    def __init__(self, window: Window, *, by_host: bool = False) -> None:
        self.next_time: float | None = None  #: when more may go, if nothing happens before
        self._window = window
        self._by_host = by_host
        self._together = 1
        if by_host and isinstance(window, SlotWindow):
            self._together = max(1, window.size // _PARTS)
        self._last: float | None = None
        self._waiting = 0
        self._lines: OrderedDict[str, OrderedDict[VMProgress, None]] = OrderedDict()
        self._inside: set[VMProgress] = set()

    @property
    def waiting(self) -> int:
        """How many VMs still wait."""
        return self._waiting

    @property
    def held(self) -> int:
        """How many VMs hold a slot."""
        return len(self._inside)

    def waits(self, progress: VMProgress) -> bool:
        """Whether a VM still waits."""
        return progress in self._lines.get(self._line_of(progress), ())

    def holds(self, progress: VMProgress) -> bool:
        """Whether a VM holds a slot."""
        return progress in self._inside

    def put(self, progress: VMProgress) -> None:
        """Append a VM to the queue."""
        if not self.waits(progress):
            self._lines.setdefault(self._line_of(progress), OrderedDict())[progress] = None
            self._waiting += 1

    def leave(self, progress: VMProgress) -> None:
        """Remove a VM from the queue, or free its slot."""
        if self.waits(progress):
            name = self._line_of(progress)
            del self._lines[name][progress]
            self._went(name, 1)
        self._inside.discard(progress)

    def take(self, now: float) -> list[VMProgress]:
        """The VMs that may go now; each holds a slot from here on."""
        decision = self._window.decide(now, waiting=self.waiting, in_flight=self.held, last=self._last)
        self.next_time = decision.wake_at
        batch: list[VMProgress] = []
        while self._lines:
            name, line = next(iter(self._lines.items()))
            number = min(len(line), self._together)
            if len(batch) + number > decision.start:
                break
            batch += [line.popitem(last=False)[0] for _ in range(number)]
            self._went(name, number)
        if batch:
            self._inside.update(batch)
            self._last = now
        return batch

    def _line_of(self, progress: VMProgress) -> str:
        return progress.vm.host if self._by_host else ""

    def _went(self, name: str, number: int) -> None:
        self._waiting -= number
        if not self._lines[name]:
            del self._lines[name]
