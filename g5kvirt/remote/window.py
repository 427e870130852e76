"""ssh in windows: one ssh a host, at most so many at once, all watched by one thread with a selector.

No event loop of anybody else is needed or disturbed, so it works inside a Jupyter kernel.
"""

from __future__ import annotations

import heapq
import os
import selectors
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO

from g5kvirt.errors import SpecError
from g5kvirt.remote.access import Access
from g5kvirt.remote.envelope import KILL_AFTER, Capture, OnLine, new_token, script
from g5kvirt.remote.processes import end, reopen, spawn
from g5kvirt.remote.result import Failure, Result, failure, last_line, retry_delay

__all__ = ["Task", "judge", "run_window"]

#: A command has ended but something that it left behind keeps its output open: seconds of silence after which
#: we stop listening.
LINGER = 1.0

#: What ``timeout`` ends with, if the time was over: coreutils', after SIGKILL, busybox's.
TIME_IS_OVER = (124, 137, 143)

#: Seconds that the answer of a command whose time is over may take to reach us.
GRACE = 5.0


@dataclass(frozen=True)
class Task:
    """One command for one host.

    ``stdin``: descriptor of a file whose whole content it reads, None for nothing. ``timeout``: seconds from
    its start. ``idempotent``: it may run twice. ``attempts``: connections at most.
    """

    host: str
    argv: tuple[str, ...]
    timeout: float
    stdin: int | None = None
    idempotent: bool = False
    attempts: int = 4


def judge(
    capture: Capture,
    timeout: float,
    begun: float,
    now: float,
    attempt: int = 1,
    gave_up: str = "",
    via: str = "ssh",
) -> tuple[Result, Failure | None]:
    """What became of a host, from what it said; with the kind of failure if its command was not seen to
    begin.

    ``begun``: when the attempt began; ``gave_up``: why we stopped waiting, empty if the connection ended.
    """
    kind: Failure | None = None
    code = capture.returncode
    if capture.ended is not None and capture.started is not None:
        if code == 0:
            reason = ""
        elif code in TIME_IS_OVER and capture.ended - capture.started >= 0.99 * timeout:
            reason = f"timed out: ended after {timeout:g} s"
        else:
            said = last_line(capture.stderr)
            reason = f"exit code {code}" + (f" ({said})" if said else "")
    elif capture.started is not None:
        said = last_line(capture.stderr)
        reason = gave_up or "connection lost while the command ran" + (f" ({said})" if said else "")
    else:
        kind, reason = failure(capture.noise)
        if gave_up:
            kind, reason = "silent", gave_up
    result = Result(
        host=capture.host,
        ok=code == 0,
        returncode=code,
        stdout=bytes(capture.stdout),
        stderr=capture.stderr,
        start=begun if capture.started is None else capture.started,
        end=now if capture.ended is None else capture.ended,
        attempt=attempt,
        reason=reason,
        started=capture.started is not None,
        via=via,
    )
    return result, kind


class _Attempt:
    """One running ssh."""

    def __init__(self, task: Task, number: int, process: subprocess.Popen[bytes], capture: Capture) -> None:
        self.task = task
        self.number = number
        self.process = process
        self.capture = capture
        self.begun = time.time()
        self.open = 3  # stdout, stderr, the process itself
        self.exited: float | None = None
        self.pidfd = os.pidfd_open(process.pid)

    def deadline(self, login_timeout: float) -> tuple[float, str]:
        """When to give up, and the words for it."""
        started = self.capture.started
        over = self.capture.ended or self.exited  # it may also be ssh's own proxy that keeps the output open
        if over is not None:
            return max(over, self.capture.last) + LINGER, ""
        if started is not None:
            patience = self.task.timeout + KILL_AFTER + GRACE
            return started + patience, f"timed out: no end after {patience:g} s"
        return self.begun + login_timeout, f"unreachable: no login within {login_timeout:g} s"


class _Window:
    def __init__(
        self,
        access: Access,
        tasks: Iterable[Task],
        window: int,
        on_line: OnLine | None,
        within: float | None,
        given_up: Callable[[], str],
    ) -> None:
        self.access = access
        self.env = access.environment()
        self.window = window
        self.on_line = on_line
        self.todo: deque[tuple[Task, int]] = deque((task, 1) for task in tasks)
        self.later: list[tuple[float, str, int, Task]] = []  # (when, host, number of the attempt, task)
        self.running: set[_Attempt] = set()
        self.results: dict[str, Result] = {}
        self.within = within
        self.given_up = given_up
        self.deadline = None if within is None else time.time() + within
        self.selector = selectors.DefaultSelector()

    def run(self) -> dict[str, Result]:
        try:
            while self.todo or self.later or self.running:
                now = time.time()
                if self.deadline is not None and now >= self.deadline:
                    self._give_all_up(now, f"the {self.within:g} s for all hosts were over")
                    break
                if why := self.given_up():
                    self._give_all_up(now, why)
                    break
                self._admit(now)
                self._wait(now)
                self._expire(time.time())
        finally:
            left = list(self.running)
            for attempt in left:
                self._forget(attempt)
            end([attempt.process for attempt in left])
            self.selector.close()
        return self.results

    def _admit(self, now: float) -> None:
        while self.later and self.later[0][0] <= now:
            _, _, number, task = heapq.heappop(self.later)
            self.todo.append((task, number))
        while self.todo and len(self.running) < self.window:
            self._start(*self.todo.popleft())

    def _start(self, task: Task, number: int) -> None:
        token = new_token()
        capture = Capture(task.host, token, self.on_line)
        argv = self.access.argv(task.host, script(token, task.argv, task.timeout))
        stdin = subprocess.DEVNULL if task.stdin is None else reopen(task.stdin)
        try:
            process = spawn(argv, env=self.env, stdin=stdin)
        finally:
            if stdin >= 0:
                os.close(stdin)
        try:
            attempt = _Attempt(task, number, process, capture)
        except BaseException:
            end([process])
            raise
        self.running.add(attempt)
        for pipe, feed in ((process.stdout, capture.feed_stdout), (process.stderr, capture.feed_stderr)):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            self.selector.register(pipe, selectors.EVENT_READ, (attempt, pipe, feed))
        self.selector.register(attempt.pidfd, selectors.EVENT_READ, (attempt, None, None))

    def _wait(self, now: float) -> None:
        times = [attempt.deadline(self.access.login_timeout)[0] for attempt in self.running]
        if self.later:
            times.append(self.later[0][0])
        if self.deadline is not None:
            times.append(self.deadline)
        patience = min(max(0.0, min(times, default=now) - now), 1.0)
        for key, _ in self.selector.select(patience):
            attempt, pipe, feed = key.data
            if attempt not in self.running:
                continue
            if pipe is None:
                self.selector.unregister(key.fileobj)
                attempt.open -= 1
                attempt.exited = time.time()
            else:
                self._read(attempt, pipe, feed)
            if attempt.open == 0:
                self._settle(attempt, "")

    def _read(self, attempt: _Attempt, pipe: IO[bytes], feed: Callable[[bytes, float], None]) -> None:
        try:
            data = os.read(pipe.fileno(), 1 << 18)
        except BlockingIOError:
            return
        if data:
            feed(data, time.time())
        else:
            self.selector.unregister(pipe)
            attempt.open -= 1

    def _expire(self, now: float) -> None:
        for attempt in list(self.running):
            when, words = attempt.deadline(self.access.login_timeout)
            if now >= when:
                self._settle(attempt, words)

    def _settle(self, attempt: _Attempt, gave_up: str) -> None:
        self._forget(attempt)
        end([attempt.process])
        now = time.time()
        task, number = attempt.task, attempt.number
        result, kind = judge(attempt.capture, task.timeout, attempt.begun, now, number, gave_up)
        delay = None if kind is None else retry_delay(kind, number, task.attempts, task.idempotent)
        if delay is None and kind is None and not attempt.capture.ended and task.idempotent and not gave_up:
            delay = retry_delay("refused", number, task.attempts)  # lost while it ran, and it may run again
        if delay is not None:
            heapq.heappush(self.later, (now + delay, task.host, number + 1, task))
            return
        attempt.capture.close(now)
        self.results[task.host] = result

    def _forget(self, attempt: _Attempt) -> None:
        """Stop watching an attempt; its process is the caller's to end."""
        self.running.discard(attempt)
        for file in (attempt.process.stdout, attempt.process.stderr, attempt.pidfd):
            if file is not None and file in self.selector.get_map():
                self.selector.unregister(file)
        os.close(attempt.pidfd)

    def _give_all_up(self, now: float, why: str) -> None:
        words = f"given up: {why}"
        left = list(self.running)
        for attempt in left:
            self._forget(attempt)
        end([attempt.process for attempt in left])
        for attempt in left:
            attempt.capture.close(now)
            result, _ = judge(
                attempt.capture, attempt.task.timeout, attempt.begun, now, attempt.number, words
            )
            self.results[attempt.task.host] = result
        for task, number in [*self.todo, *((task, number) for _, _, number, task in self.later)]:
            self.results[task.host] = Result(task.host, False, None, b"", b"", now, now, number - 1, words)
        self.todo.clear()
        self.later.clear()


def run_window(
    access: Access,
    tasks: Iterable[Task],
    *,
    window: int,
    on_line: OnLine | None = None,
    within: float | None = None,
    given_up: Callable[[], str] = str,
) -> dict[str, Result]:
    """Run each task, at most ``window`` at once; always one result for each host, in any order.

    ``within``: seconds for all of it together, None for no bound beyond those of each host. ``given_up`` is
    asked every second: a reason ends all that is left. Raises MachineError if ssh cannot be started at all;
    whatever is raised, no process is left.
    """
    if window < 1:
        raise SpecError(f"a window of {window} connections lets nobody in: give at least 1")
    return _Window(access, tasks, window, on_line, within, given_up).run()
