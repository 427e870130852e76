"""What ends a process also ends a ``with`` block: SIGTERM, and the end of its terminal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

__all__ = ["EXIT_CODE", "exit_on_signals"]

#: What a shell reports of a process that SIGTERM has ended.
EXIT_CODE = 143
#: A closed terminal ends a script as SIGTERM does. Windows has no such signal.
_SIGNALS = (signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Meanwhile these signals raise SystemExit in the main thread, so that every ``finally`` is run.

    Only those that would end the process at once: what is ignored or handled otherwise stays so. Does nothing
    in other threads, which cannot set handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _exit)
    try:
        yield
    finally:
        for number in ours:
            if signal.getsignal(number) is _exit:
                signal.signal(number, signal.SIG_DFL)


def _exit(number: int, frame: object) -> NoReturn:
    raise SystemExit(EXIT_CODE)
