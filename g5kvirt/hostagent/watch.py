"""Looking at hosts now and then, in a thread of its own, while something is under way."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Self

from g5kvirt.remote import Fanout

__all__ = ["Watch", "affordable"]

log = logging.getLogger(__name__)


#: Seconds of a core that a call of a host takes with its answer, at the most: 5 to 10 ms here, also where it
#: reads 180 processes (measured), and twice that where all cores are busy.
COST = 0.02
#: Share of the processors that looks may take where all hosts share one machine: with 355 hosts, looks every
#: 25 s took an eighth of them.
SHARE = 0.02


def affordable(shortest: float, hosts: int, real_cores: int | None, *, share: float = SHARE) -> float:
    """Seconds from one look at all hosts to the next, ``shortest`` if each host has its own processors.

    Where all share the ``real_cores`` of one machine, looks may take this ``share`` of them.
    """
    return max(shortest, hosts * COST / (share * real_cores)) if real_cores else shortest


class Watch:
    """Calls `look` every ``interval`` seconds, as a context manager; a look that fails is not the last.

    ``what``: the name of the thread says that it watches over this. Where no connections are kept (through
    jump hosts) there are no looks.
    """

    def __init__(self, fanout: Fanout, what: str, interval: float) -> None:
        self.fanout = fanout
        self._what = what
        self._interval = interval
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch over {what}", daemon=True)

    def __enter__(self) -> Self:
        if self.fanout.keeps_connections:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        if self._thread.is_alive():
            self.ended(kind)

    def look(self) -> None:
        """What is done each time; it may raise."""
        raise NotImplementedError

    def begun(self) -> None:
        """Done in the thread before the first interval: nothing, unless a kind of watch does something."""

    def ended(self, kind: type[BaseException] | None) -> None:
        """Done when it is left, by ``kind`` of exception or without one: wait for the look under way."""
        self._thread.join()

    def given_up(self) -> str:
        """Why calls need not continue: it has been left; empty before."""
        return "no longer needed" if self._left.is_set() else ""

    def look_safely(self) -> None:
        """A `look` whose failure is only logged."""
        try:
            self.look()
        except Exception:  # a look that fails must not be the last
            log.debug("%s could not be looked at", self._what, exc_info=True)

    def _run(self) -> None:
        self.begun()
        while not self._left.wait(self._interval):
            self.look_safely()
