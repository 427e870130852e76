"""Events on their way into the journal, none of which a full disk loses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from g5kvirt.errors import RunError
from g5kvirt.run.events import Event

__all__ = ["Outbox"]


class Outbox:
    """Passes events on to ``write``, such as `Journal.extend`, which takes all or raises RunError.

    What it does not take is passed on before the next events: a VM whose end came while the disk was full
    has that end as soon as there is room again.
    """

    def __init__(self, write: Callable[[Sequence[Event]], object]) -> None:
        self._write = write
        self._waiting: list[Event] = []

    def send(self, events: Iterable[Event]) -> None:
        """Pass these on, after those that wait. Raises RunError, and keeps them all then."""
        batch = [*self._waiting, *events]
        self._waiting = []
        if not batch:
            return
        try:
            self._write(batch)
        except RunError:
            self._waiting = batch
            raise
