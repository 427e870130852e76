"""Watching the jobs while a step runs: when one ends, so does the step, at once and with the reason.

A thread asks the testbed in turns. When a job has ended it interrupts the main thread as Ctrl-C would, for
that is what every step cleans up after, whatever it waits for; and commands that are under way on machines
that are gone are given up instead of waited for.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FrameType

from g5kvirt.context import Context
from g5kvirt.errors import PhaseError, Stopped, TestbedError, for_a_notebook
from g5kvirt.run import state

__all__ = ["interruptible", "watched"]

log = logging.getLogger(__name__)

#: Seconds between two questions at the least: they take time from what is measured.
INTERVAL = 2.0


@contextmanager
def watched(context: Context, phase: str) -> Iterator[None]:
    """What happens inside ends when a job of the run's reservation does.

    Raises PhaseError then, and in place of one that is raised inside: the job's end is the cause behind it.
    Called in another thread than the main one, nothing is interrupted; it is only asked after a PhaseError.
    Without a reservation nothing is watched.
    """
    granted = state.reservation(context.journal)
    if granted is None:
        yield
        return

    def ask() -> str:
        try:
            return context.testbed.ended(granted)
        except TestbedError as error:
            log.debug("nobody says how the jobs are: %s", error)
            return ""

    def error(why: str, step: str = "") -> PhaseError:
        return PhaseError(
            f"during {phase}() {why}: what was done until then is kept, start a new Experiment to go on",
            phase=phase,
            step=step,
        )

    try:
        if threading.current_thread() is threading.main_thread():
            interval = max(INTERVAL, context.testbed.polling_interval)
            with ExitStack() as stack:
                watch = _Watch(ask, interval, context.fanout.give_up)
                stack.callback(watch.end)  # once more, in case the first is interrupted as it begins
                stack.callback(watch.end)
                watch.begin()
                yield
        else:
            yield
    except Stopped as stopped:
        raise error(str(stopped)) from None
    except PhaseError as failed:
        if why := ask():
            raise error(why, failed.step) from failed
        raise


@contextmanager
def interruptible(call: str) -> Iterator[None]:
    """An interrupt inside says where it leaves the run.

    It stays a plain KeyboardInterrupt: of a subclass, a shell would not be told that Ctrl-C ended Python.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        error.args = (
            f"{call}() was interrupted, and what it had under way is stopped: call it again to go on, or"
            " release() to give the machines back",
        )
        error._render_traceback_ = partial(for_a_notebook, error)  # type: ignore[attr-defined]
        raise


class _Watch:
    """The thread that asks, and the interrupt; begun and ended in the main thread.

    ``ask`` says why it is over, or nothing; ``ended`` is told that before the interrupt. A question that is
    under way at the end is not waited for.
    """

    def __init__(self, ask: Callable[[], str], interval: float, ended: Callable[[str], object]) -> None:
        self._ask = ask
        self._interval = interval
        self._ended = ended
        self._why = ""
        self._over = threading.Event()
        self._lock = threading.Lock()  # no interrupt is on its way when the handler is given back
        self._thread = threading.Thread(target=self._look, name="watch over the jobs", daemon=True)
        before = signal.getsignal(signal.SIGINT)
        self._before = signal.default_int_handler if before is None else before

    def begin(self) -> None:
        signal.signal(signal.SIGINT, self._interrupted)
        self._thread.start()

    def end(self) -> None:
        """May be called again."""
        self._over.set()
        with self._lock:
            signal.signal(signal.SIGINT, self._before)

    def _look(self) -> None:
        while not self._over.wait(self._interval):
            if why := self._ask():
                self._ended(why)
                with self._lock:
                    if not self._over.is_set():
                        self._why = why
                        main = threading.main_thread().ident
                        assert main is not None
                        signal.pthread_kill(main, signal.SIGINT)
                return

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        """The handler, in the main thread: it was us, or else what there was before."""
        why, self._why = self._why, ""
        if why:
            if not self._over.is_set():
                raise Stopped(why)
        elif callable(self._before):
            self._before(number, frame)
        elif self._before == signal.SIG_DFL:
            raise KeyboardInterrupt
