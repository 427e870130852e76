"""Windowed ssh: one ssh process per host, a limited number in parallel, watched by one thread.

It neither needs nor disturbs another event loop, so it works inside a Jupyter kernel.
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
from g5kvirt.remote.envelope import KILL_AFTER, MOST_OUTPUT, Capture, OnLine, new_token, script
from g5kvirt.remote.processes import reopen, spawn, terminate
from g5kvirt.remote.result import Failure, Result, classify_failure, exit_reason, last_line, retry_delay

__all__ = ["HostCommand", "make_result", "run_window"]

#: A command has exited but a process that it left behind keeps its output open: seconds without output after
#: which we stop reading.
DRAIN_SECONDS = 1.0

#: Exit codes of ``timeout`` for a command that timed out: of coreutils, after SIGKILL, of busybox.
_TIMEOUT_CODES = (124, 137, 143)
#: Seconds by which the host's uptime may be less than the time limit then: it is read in hundredths.
_UPTIME_ERROR = 0.02

#: Seconds that the report of a timed-out command may take to reach us.
REPLY_SECONDS = 5.0


@dataclass(frozen=True)
class HostCommand:
    """One command for one host.

    ``stdin``: descriptor of the file that becomes its input, None for empty input. ``timeout``: seconds from
    its start. ``idempotent``: it may run twice. ``attempts``: maximal number of connections.
    """

    host: str
    argv: tuple[str, ...]
    timeout: float
    stdin: int | None = None
    idempotent: bool = False
    attempts: int = 4


def make_result(
    capture: Capture,
    timeout: float,
    attempt_start: float,
    now: float,
    attempt: int = 1,
    stop_reason: str = "",
    via: str = "ssh",
) -> tuple[Result, Failure | None]:
    """The result of a host from its output, and the kind of failure if its command did not start.

    ``stop_reason``: why we stopped waiting, empty if the connection ended.
    """
    kind: Failure | None = None
    code = capture.returncode
    if capture.ended is not None and capture.started is not None:
        if code == 0:
            reason = ""
        elif code in _TIMEOUT_CODES and capture.seconds >= timeout - _UPTIME_ERROR:
            reason = f"timed out: ended after {timeout:g} s"
        else:
            reason = exit_reason(code, capture.stderr)
    elif capture.started is not None:
        last = last_line(capture.stderr)
        reason = stop_reason or "connection lost while the command ran" + (f" ({last})" if last else "")
    else:
        kind, reason = classify_failure(capture.ssh_stderr)
        if stop_reason:
            kind, reason = "timeout", stop_reason
    if capture.cut:
        reason = reason or f"cut off: more than {MOST_OUTPUT >> 20:,} MiB of output"
    result = Result(
        host=capture.host,
        ok=code == 0 and not capture.cut,
        returncode=code,
        stdout=bytes(capture.stdout),
        stderr=capture.stderr,
        start=attempt_start if capture.started is None else capture.started,
        end=now if capture.ended is None else capture.ended,
        attempt=attempt,
        reason=reason,
        started=capture.started is not None,
        via=via,
    )
    return result, kind


class _Attempt:
    """One running ssh."""

    def __init__(
        self, command: HostCommand, number: int, process: subprocess.Popen[bytes], capture: Capture
    ) -> None:
        self.command = command
        self.number = number
        self.process = process
        self.capture = capture
        self.start_time = time.time()
        self.open = 3  # stdout, stderr, the process itself
        self.exited: float | None = None
        self.pidfd = os.pidfd_open(process.pid)

    def deadline(self, login_timeout: float) -> tuple[float, str]:
        """When to give up, and the reason to report then."""
        started = self.capture.started
        end = self.capture.ended or self.exited  # the proxy of ssh may also keep the output open
        if end is not None:
            return max(end, self.capture.last) + DRAIN_SECONDS, ""
        if started is not None:
            limit = self.command.timeout + KILL_AFTER + REPLY_SECONDS
            return started + limit, f"timed out: still running after {limit:g} s"
        return self.start_time + login_timeout, f"unreachable: no login within {login_timeout:g} s"


class _Window:
    def __init__(
        self,
        access: Access,
        commands: Iterable[HostCommand],
        window: int,
        on_line: OnLine | None,
        within: float | None,
        given_up: Callable[[], str],
    ) -> None:
        self.access = access
        self.env = access.environment()
        self.window = window
        self.on_line = on_line
        self.waiting: deque[tuple[HostCommand, int]] = deque((command, 1) for command in commands)
        self.retries: list[tuple[float, str, int, HostCommand]] = []  # (when, host, attempt, command)
        self.running: set[_Attempt] = set()
        self.results: dict[str, Result] = {}
        self.within = within
        self.given_up = given_up
        self.deadline = None if within is None else time.time() + within
        self.selector = selectors.DefaultSelector()

    def run(self) -> dict[str, Result]:
        try:
            while self.waiting or self.retries or self.running:
                now = time.time()
                if self.deadline is not None and now >= self.deadline:
                    self._give_all_up(now, f"the time limit of {self.within:g} s for all hosts has expired")
                    break
                if reason := self.given_up():
                    self._give_all_up(now, reason)
                    break
                self._admit(now)
                self._wait(now)
                self._expire(time.time())
        finally:
            running = list(self.running)
            for attempt in running:
                self._unregister(attempt)
            terminate([attempt.process for attempt in running])
            self.selector.close()
        return self.results

    def _admit(self, now: float) -> None:
        while self.retries and self.retries[0][0] <= now:
            _, _, number, command = heapq.heappop(self.retries)
            self.waiting.append((command, number))
        while self.waiting and len(self.running) < self.window:
            self._start(*self.waiting.popleft())

    def _start(self, command: HostCommand, number: int) -> None:
        token = new_token()
        capture = Capture(command.host, token, self.on_line)
        argv = self.access.argv(command.host, script(token, command.argv, command.timeout))
        stdin = subprocess.DEVNULL if command.stdin is None else reopen(command.stdin)
        try:
            process = spawn(argv, env=self.env, stdin=stdin)
        finally:
            if stdin >= 0:
                os.close(stdin)
        try:
            attempt = _Attempt(command, number, process, capture)
        except BaseException:
            terminate([process])
            raise
        self.running.add(attempt)
        for pipe, feed in ((process.stdout, capture.feed_stdout), (process.stderr, capture.feed_stderr)):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            self.selector.register(pipe, selectors.EVENT_READ, (attempt, pipe, feed))
        self.selector.register(attempt.pidfd, selectors.EVENT_READ, (attempt, None, None))

    def _wait(self, now: float) -> None:
        times = [attempt.deadline(self.access.login_timeout)[0] for attempt in self.running]
        if self.retries:
            times.append(self.retries[0][0])
        if self.deadline is not None:
            times.append(self.deadline)
        timeout = min(max(0.0, min(times, default=now) - now), 1.0)
        for key, _ in self.selector.select(timeout):
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
                self._finish(attempt, "")

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
            deadline, reason = attempt.deadline(self.access.login_timeout)
            if now >= deadline:
                self._finish(attempt, reason)

    def _finish(self, attempt: _Attempt, stop_reason: str) -> None:
        self._unregister(attempt)
        terminate([attempt.process])
        now = time.time()
        command, number = attempt.command, attempt.number
        result, kind = make_result(
            attempt.capture, command.timeout, attempt.start_time, now, number, stop_reason
        )
        delay = None if kind is None else retry_delay(kind, number, command.attempts, command.idempotent)
        if (
            delay is None
            and kind is None
            and not attempt.capture.ended
            and command.idempotent
            and not stop_reason
        ):
            # The connection was lost while the command ran, but it may run twice.
            delay = retry_delay("refused", number, command.attempts)
        if delay is not None:
            heapq.heappush(self.retries, (now + delay, command.host, number + 1, command))
            return
        attempt.capture.close(now)
        self.results[command.host] = result

    def _unregister(self, attempt: _Attempt) -> None:
        """Stop watching an attempt; the caller terminates its process."""
        self.running.discard(attempt)
        for file in (attempt.process.stdout, attempt.process.stderr, attempt.pidfd):
            if file is not None and file in self.selector.get_map():
                self.selector.unregister(file)
        os.close(attempt.pidfd)

    def _give_all_up(self, now: float, cause: str) -> None:
        reason = f"given up: {cause}"
        running = list(self.running)
        for attempt in running:
            self._unregister(attempt)
        terminate([attempt.process for attempt in running])
        for attempt in running:
            attempt.capture.close(now)
            result, _ = make_result(
                attempt.capture, attempt.command.timeout, attempt.start_time, now, attempt.number, reason
            )
            self.results[attempt.command.host] = result
        for command, number in [
            *self.waiting,
            *((command, number) for _, _, number, command in self.retries),
        ]:
            self.results[command.host] = Result(
                command.host, False, None, b"", b"", now, now, number - 1, reason
            )
        self.waiting.clear()
        self.retries.clear()


def run_window(
    access: Access,
    commands: Iterable[HostCommand],
    *,
    window: int,
    on_line: OnLine | None = None,
    within: float | None = None,
    given_up: Callable[[], str] = str,
) -> dict[str, Result]:
    """Run each command, at most ``window`` in parallel; always one result for each host, in any order.

    ``within``: seconds for all hosts together, None for no limit except those of each host. ``given_up`` is
    called every second: if it returns a reason, all remaining commands end with it. Raises MachineError if
    ssh cannot be started; no process is left behind after any exception.
    """
    if window < 1:
        raise SpecError(f"a window of {window} connections is too small", advice="use at least 1")
    return _Window(access, commands, window, on_line, within, given_up).run()
