"""What ends a process also ends its work in order: Ctrl-C, SIGTERM, the end of its terminal."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from g5kvirt.run.printable import printable

__all__ = ["EXIT_CODE", "orderly_end", "uninterrupted"]

#: What a shell reports of a process that SIGTERM has ended.
EXIT_CODE = 143
#: A closed terminal ends a script as SIGTERM does. Windows has no such signal.
_TERMINATING = (signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


@contextmanager
def orderly_end() -> Iterator[None]:
    """Meanwhile the first signal that ends a process raises KeyboardInterrupt, or SystemExit.

    Later ones do not disturb what is then done in the end, such as giving machines back; only the third
    Ctrl-C interrupts that as well.

    Only signals that would end the process at once: what is ignored or handled otherwise stays so. Does
    nothing in other threads, which cannot set handlers.
    """
    with _installed():
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Meanwhile signals wait, since what is done is part of an end; only the second Ctrl-C interrupts it."""
    with _installed() as handler:
        if handler is None:
            yield
        else:
            with handler.ending():
                yield


@contextmanager
def _installed() -> Iterator[_Handler | None]:
    """The handler of these signals, ours already or from now on; None if they are handled otherwise."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *_TERMINATING)}
    there = next((old for old in before.values() if isinstance(old, _Handler)), None)
    ours = [n for n, old in before.items() if old in (signal.SIG_DFL, signal.default_int_handler)]
    if there is not None or not ours or threading.current_thread() is not threading.main_thread():
        yield there
        return
    handler = _Handler()
    for number in ours:
        signal.signal(number, handler)
    try:
        yield handler
    finally:
        for number in ours:
            if signal.getsignal(number) is handler:
                signal.signal(number, before[number])


class _Handler:
    """Called for each signal."""

    def __init__(self) -> None:
        self._ends = False  # an end has begun
        self._warned = False
        self._waiting: int | None = None  # the first signal that came during it

    @contextmanager
    def ending(self) -> Iterator[None]:
        """An end has begun; what came meanwhile is raised afterwards, unless one had begun before."""
        before, self._ends = self._ends, True
        try:
            yield
        finally:
            self._ends = before
        if not before and self._waiting is not None:
            number, self._waiting, self._warned = self._waiting, None, False
            self(number, None)

    def __call__(self, number: int, frame: object) -> None:
        if not self._ends:
            self._ends = True
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(EXIT_CODE)
        self._waiting = self._waiting or number
        if number != signal.SIGINT:
            return
        if self._warned:
            _say("interrupted: machines may still be reserved (g5kvirt runs; g5kvirt release RUN)")
            raise KeyboardInterrupt
        self._warned = True
        _say("cleaning up and releasing reserved machines; press Ctrl-C again to abort")


def _say(sentence: str) -> None:
    with suppress(OSError, ValueError, AttributeError):  # standard error is closed, or full
        print(f"g5kvirt: {printable(sentence)}", file=sys.stderr, flush=True)
