"""Coroutines of one thread over epoll. To import asyncio would take 40 ms on each of hundreds of hosts."""

from __future__ import annotations

import heapq
import select
import sys
import time
import types
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from typing import Any

    #: Descriptor or signal, events, deadline of the monotonic clock
    Wait = tuple["int | Signal | None", int, float]

LONGEST_PAUSE = 60.0  #: seconds between two looks at the clock
READABLE, WRITABLE = select.EPOLLIN, select.EPOLLOUT


class Cancelled(BaseException):
    """Raised inside a coroutine that is to end."""


@types.coroutine
def ready(fd: int, events: int, deadline: float) -> Generator[Wait, None, None]:
    """Wait until a descriptor is ready. Raises TimeoutError at ``deadline``, by the monotonic clock."""
    yield fd, events, deadline


@types.coroutine
def sleep(seconds: float) -> Generator[Wait, None, None]:
    """Wait that long."""
    try:
        yield None, 0, time.monotonic() + seconds
    except TimeoutError:
        pass


class Signal:
    """Something for which tasks wait."""

    def __init__(self) -> None:
        self.waiting: dict[Task, None] = {}

    @types.coroutine
    def wait(self, deadline: float) -> Generator[Wait, None, None]:
        """Until `Loop.fire`. Raises TimeoutError at ``deadline``, by the monotonic clock."""
        yield self, 0, deadline


class Task:
    """A coroutine that runs; `done` when it has ended."""

    __slots__ = ("coroutine", "done", "fd", "signal", "turn")

    def __init__(self, coroutine: Coroutine[Wait, None, None]) -> None:
        self.coroutine = coroutine
        self.done = False
        self.fd: int | None = None
        self.signal: Signal | None = None
        self.turn = 0  # of its waits: a timer of an earlier one is ignored


class Loop:
    """Runs tasks. One that fails with an unexpected error ends alone; its traceback goes to stderr."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._waiting: dict[int, Task] = {}
        self._timers: list[tuple[float, int, int, Task]] = []
        self._number = 0
        self._new: deque[Task] = deque()

    def spawn(self, coroutine: Coroutine[Wait, None, None]) -> Task:
        """Begin a task in the next round."""
        task = Task(coroutine)
        self._new.append(task)
        return task

    def cancel(self, task: Task) -> None:
        """End a task now; it may clean up, but not wait. Not from within itself."""
        if not task.done:
            self._leave(task)
            self._resume(task, Cancelled())
            if not task.done:
                task.done = True
                task.coroutine.close()

    def fire(self, signal: Signal) -> None:
        """All that wait for ``signal`` continue in the next round."""
        for task in list(signal.waiting):
            self.wake(task)

    def wake(self, task: Task) -> None:
        """A task that waits continues in the next round, as if what it waits for had come."""
        if task.fd is not None or task.signal is not None:
            self._leave(task)
            self._new.append(task)

    def run(self, running: Callable[[], bool]) -> None:
        """Run while ``running()``, which is looked at after every event."""
        while running():
            while self._new:
                task = self._new.popleft()
                if not task.done:
                    self._resume(task, None)
            for fd, _ in self._poll():
                waiting = self._waiting.get(fd)
                if waiting is not None:
                    self._leave(waiting)
                    self._resume(waiting, None)
            self._expire()

    def _poll(self) -> list[tuple[int, int]]:
        if self._new:
            return []
        pause = self._timers[0][0] - time.monotonic() if self._timers else LONGEST_PAUSE
        return self._epoll.poll(min(max(0.0, pause), LONGEST_PAUSE))

    def _expire(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, _, turn, task = heapq.heappop(self._timers)
            if not task.done and task.turn == turn:
                self._leave(task)
                self._resume(task, TimeoutError("no answer in time"))

    def _resume(self, task: Task, error: BaseException | None) -> None:
        task.turn += 1
        try:
            request: Any = task.coroutine.send(None) if error is None else task.coroutine.throw(error)
        except (StopIteration, Cancelled):
            task.done = True
            return
        except Exception:  # noqa: BLE001  a bug in one guest ends no other
            task.done = True
            sys.excepthook(*sys.exc_info())  # traceback is slow to import, and needs a descriptor for that
            return
        fd, events, deadline = request
        if isinstance(fd, Signal):
            fd.waiting[task] = None
            task.signal = fd
        elif fd is not None:
            try:
                self._epoll.register(fd, events)
            except OSError as problem:  # closed, or another task waits for it
                self._resume(task, problem)
                return
            self._waiting[fd] = task
            task.fd = fd
        if deadline == float("inf"):
            return
        self._number += 1
        heapq.heappush(self._timers, (deadline, self._number, task.turn, task))

    def _leave(self, task: Task) -> None:
        """Take a task out of its wait."""
        task.turn += 1
        if task.signal is not None:
            task.signal.waiting.pop(task)
            task.signal = None
        if task.fd is not None:
            del self._waiting[task.fd]
            self._epoll.unregister(task.fd)
            task.fd = None
