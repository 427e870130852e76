"""Watches the jobs while a step runs: when one ends, the step ends at once, with the reason.

A thread polls the testbed. When a job has ended it interrupts the main thread as Ctrl-C would, because every
step cleans up after that, whatever it is waiting for; commands that run on the lost machines are abandoned.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

from g5kvirt.context import Context
from g5kvirt.errors import PhaseError, RunError, Stopped, TestbedError, for_a_notebook
from g5kvirt.run import inbox

__all__ = ["interruptible", "watched"]

log = logging.getLogger(__name__)

#: Least seconds between two polls: they take processor time from what is measured.
INTERVAL = 2.0


@contextmanager
def watched(context: Context, phase: str) -> Iterator[None]:
    """The block inside ends when a job of the run's reservation does, or the run's directory is gone.

    Raises PhaseError then, also in place of one that is raised inside: the end of the job is its cause. In a
    thread other than the main one nothing is interrupted; the jobs are only polled after a PhaseError.
    Without a reservation, and in a prediction, nothing is watched.
    """
    granted = context.journal.state.reservation
    if granted is None or context.testbed.simulated:
        yield
        return

    def poll() -> str:
        try:
            inbox.take(context.run.path, context.journal)  # such as a walltime that was extended meanwhile
        except RunError as error:
            log.debug("%s", error)
        if _is_gone(context.journal.path):  # with the keys without which nothing goes on
            return "the run's directory was moved or removed"
        try:
            return context.testbed.ended(granted)
        except TestbedError as error:
            log.debug("%s", error)
            return ""

    def error(reason: str, step: str = "") -> PhaseError:
        return PhaseError(
            f"during {phase}() {reason}",
            phase=phase,
            step=step,
            advice="create a new Experiment to continue; the results so far are kept in this one",
        )

    try:
        if threading.current_thread() is threading.main_thread():
            interval = max(INTERVAL, context.testbed.polling_interval)
            with ExitStack() as stack:
                watch = _Watch(poll, interval, context.fanout.give_up)
                stack.callback(watch.stop)  # once more, in case the first is interrupted as it begins
                stack.callback(watch.stop)
                watch.start()
                yield
        else:
            yield
    except Stopped as stopped:
        raise error(str(stopped)) from None
    except PhaseError as failed:
        if reason := poll():
            raise error(reason, failed.step) from failed
        raise


@contextmanager
def interruptible(call: str) -> Iterator[None]:
    """Adds to an interrupt inside how to continue the run.

    It stays a plain KeyboardInterrupt: with a subclass, Python would not exit as if ended by Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        error.args = (
            f"{call}() was interrupted and cleaned up: call it again to continue, or"
            " release() to release the machines",
        )
        error._render_traceback_ = partial(for_a_notebook, error)  # type: ignore[attr-defined]
        raise


def _is_gone(path: Path) -> bool:
    """Whether there is no such file; a file system that does not answer for a moment is no reason."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError as error:
        log.debug("%s", error)
    return False


class _Watch:
    """The thread that polls, and the interrupt; started and stopped in the main thread.

    ``poll`` gives the reason to end, or ""; ``on_end`` is called with it before the interrupt. `stop` does
    not wait for a poll in progress.
    """

    def __init__(self, poll: Callable[[], str], interval: float, on_end: Callable[[str], object]) -> None:
        self._poll = poll
        self._interval = interval
        self._on_end = on_end
        self._reason = ""
        self._stopped = threading.Event()
        self._lock = threading.Lock()  # no interrupt is on its way when the handler is restored
        self._thread = threading.Thread(target=self._run, name="watch over the jobs", daemon=True)
        before = signal.getsignal(signal.SIGINT)
        self._before = signal.default_int_handler if before is None else before

    def start(self) -> None:
        signal.signal(signal.SIGINT, self._interrupted)
        self._thread.start()

    def stop(self) -> None:
        """May be called again."""
        self._stopped.set()
        with self._lock:
            signal.signal(signal.SIGINT, self._before)

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            if reason := self._poll():
                self._on_end(reason)
                with self._lock:
                    if not self._stopped.is_set():
                        self._reason = reason
                        main = threading.main_thread().ident
                        assert main is not None
                        signal.pthread_kill(main, signal.SIGINT)
                return

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        """The handler, in the main thread: the interrupt is ours, or else the previous handler's."""
        reason, self._reason = self._reason, ""
        if reason:
            if not self._stopped.is_set():
                raise Stopped(reason)
        elif callable(self._before):
            self._before(number, frame)
        elif self._before == signal.SIG_DFL:
            raise KeyboardInterrupt
