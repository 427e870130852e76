"""Calls to a program that stays on each host: one login, then any number of calls over it.

A login costs 0.1 s of a core and a new process on the host as much again; with hundreds of hosts and some ten
calls to each, that is most of the time of a run. Here ssh is started once per host with a program that takes
calls as lines of JSON and answers each with the output of a process of its own (see
`g5kvirt.hostagent.onhost.session` for its side). A call that finds the connection in use opens another one.
"""

from __future__ import annotations

import heapq
import json
import selectors
import subprocess
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from g5kvirt.errors import SpecError
from g5kvirt.remote.access import Access
from g5kvirt.remote.connections import Connection, IdleConnections, Program
from g5kvirt.remote.envelope import KILL_AFTER, OnLine
from g5kvirt.remote.processes import terminate
from g5kvirt.remote.result import Failure, Result, classify_failure, last_line, retry_delay
from g5kvirt.remote.window import REPLY_SECONDS, TIMEOUT_CODES

__all__ = ["Sessions"]

_SSH_FAILED = 255


class Sessions:
    """The connections to hosts by ``access``, with ``program`` at their other ends. Thread-safe.

    At most ``window`` hosts are called at once by each `call`, with at most ``attempts`` connections to one.
    Raises SpecError for a window below 1.
    """

    def __init__(self, access: Access, program: Program, *, window: int, attempts: int) -> None:
        if window < 1:
            raise SpecError(f"a window of {window} connections is too small", advice="use at least 1")
        self.access = access
        self.program = program
        self.window = window
        self.attempts = attempts
        self._idle = IdleConnections()
        self._finalizer = weakref.finalize(self, self._idle.close)

    def call(
        self,
        texts: Mapping[str, bytes],
        *,
        timeout: float,
        idempotent: bool,
        on_line: OnLine | None = None,
        given_up: Callable[[], str] = str,
    ) -> dict[str, Result]:
        """Give each host its text; one result per host, as those of `Fanout.run`.

        ``timeout``: seconds that a call may take on its host before it is killed. ``idempotent``: it may run
        twice. ``on_line(host, line, t)`` is called for each line of the output as it comes, in this thread.
        ``given_up`` is called every second: if it returns a reason, all calls that are left end with it.
        Raises MachineError if ssh is missing, SpecError for a timeout that is not above 0.
        """
        if timeout <= 0:
            raise SpecError("a call needs a timeout above 0 seconds")
        now = time.time()
        calls = [_Call(host, text, timeout, idempotent, now, on_line) for host, text in texts.items()]
        return _Round(self, self._idle, calls, given_up).run()

    def close(self) -> None:
        """Close all connections that are not in use; a later call opens new ones."""
        self._idle.close()


@dataclass(eq=False)
class _Call:
    host: str
    text: bytes
    limit: float
    idempotent: bool
    created: float  #: or when its last attempt began
    on_line: OnLine | None = None
    attempt: int = 1
    sent: float | None = None  #: to a host that was ready for it
    begun: float | None = None  #: by the host, as seen here
    stdout: bytearray = field(default_factory=bytearray)
    _passed_on: int = 0  # bytes

    def take(self, data: bytes) -> None:
        """Add to the output, and pass on what is complete."""
        self.stdout += data
        while self.on_line is not None and (end := self.stdout.find(b"\n", self._passed_on)) >= 0:
            line = self.stdout[self._passed_on : end].decode(errors="replace")
            self._passed_on = end + 1
            self.on_line(self.host, line, time.time())

    def begin_again(self) -> None:
        """Another attempt, from nothing."""
        self.attempt += 1
        self.sent = self.begun = None
        self.stdout.clear()
        self._passed_on = 0

    @property
    def line(self) -> bytes:
        """As it is sent."""
        return json.dumps({"limit": self.limit, "document": self.text.decode()}).encode() + b"\n"

    def result(self, code: int | None, reason: str, stderr: bytes = b"") -> Result:
        """``code``: what the host reported."""
        return Result(
            host=self.host,
            ok=code == 0,
            returncode=code,
            stdout=bytes(self.stdout),
            stderr=stderr,
            start=self.created if self.sent is None else self.sent,
            end=time.time(),
            attempt=self.attempt,
            reason=reason,
            started=self.begun is not None,
            via="session",
        )


class _Round:
    """All calls of one `Sessions.call`, by one thread."""

    def __init__(
        self,
        sessions: Sessions,
        idle: IdleConnections,
        calls: list[_Call],
        given_up: Callable[[], str],
    ) -> None:
        self.sessions = sessions
        self.idle = idle
        self.given_up = given_up
        self.waiting = deque(calls)
        self.retries: list[tuple[float, int, _Call]] = []
        self.running: dict[Connection, _Call] = {}
        self.results: dict[str, Result] = {}
        self.selector = selectors.DefaultSelector()

    def run(self) -> dict[str, Result]:
        try:
            while self.waiting or self.retries or self.running:
                if reason := self.given_up():
                    self._give_all_up(f"given up: {reason}")
                    break
                now = time.time()
                while self.retries and self.retries[0][0] <= now:
                    self.waiting.append(heapq.heappop(self.retries)[2])
                while self.waiting and len(self.running) < self.sessions.window:
                    self._start(self.waiting.popleft())
                self._wait(now)
                self._expire(time.time())
        finally:
            terminate([connection.process for connection in self.running])
            self.selector.close()
        return self.results

    def _start(self, call: _Call) -> None:
        call.created = time.time()
        connection = self.idle.take(call.host)
        if connection is None:
            connection = Connection(self.sessions.access, call.host, self.sessions.program)
        else:
            connection.reused = True
        connection.waiting_since, connection.errors = call.created, b""
        self.running[connection] = call
        for descriptor in (connection.stdout, connection.stderr):
            self.selector.register(descriptor, selectors.EVENT_READ, connection)
        if connection.ready:
            self._send_call(connection, call)

    def _send_call(self, connection: Connection, call: _Call) -> None:
        call.sent = connection.waiting_since = time.time()
        self._send(connection, call.line)

    def _send(self, connection: Connection, data: bytes) -> None:
        if not connection.unsent:
            self.selector.register(connection.stdin, selectors.EVENT_WRITE, connection)
        connection.unsent += data

    def _wait(self, now: float) -> None:
        times = [self._deadline(*pair)[0] for pair in self.running.items()]
        if self.retries:
            times.append(self.retries[0][0])
        patience = min(max(0.0, min(times, default=now) - now), 1.0)
        for key, _ in self.selector.select(patience):
            connection = key.data
            if connection in self.running:
                self._serve(connection, key.fd)

    def _serve(self, connection: Connection, descriptor: int) -> None:
        try:
            if descriptor == connection.stdin:
                connection.send()
                if not connection.unsent:
                    self.selector.unregister(descriptor)
            elif descriptor == connection.stderr:
                if not connection.read_errors():
                    self.selector.unregister(descriptor)
            else:
                messages = connection.receive()
                if messages is None:
                    self._lose(connection)
                for message in messages or ():
                    self._take(connection, message)
        except BrokenPipeError:
            self._lose(connection)
        except (ValueError, KeyError, TypeError) as error:  # one odd host costs no other its result
            if connection in self.running:
                self._fail(connection, f"the host's answer cannot be read ({error})")

    def _take(self, connection: Connection, message: Mapping[str, Any]) -> None:
        call = self.running[connection]
        if "ready" in message:
            connection.ready, connection.installing = True, False
            self._send_call(connection, call)
        elif "send" in message:
            connection.installing, connection.waiting_since = True, time.time()
            archive = self.sessions.program.archive()
            self._send(connection, b"%d " % len(archive) + archive)
        elif "begun" in message:
            call.begun = time.time()
        elif "out" in message:
            call.take(message["out"].encode("utf-8", "surrogateescape"))
        elif "code" in message:
            code, errors = int(message["code"]), str(message["err"]).encode()
            self._leave(connection)
            self.idle.put(connection)
            self.results[call.host] = call.result(code, _reason(call, code, errors), errors)

    def _deadline(self, connection: Connection, call: _Call) -> tuple[float, str]:
        """When to give up, and the reason to report then."""
        if call.begun is not None:
            limit = call.limit + KILL_AFTER + REPLY_SECONDS
            return call.begun + limit, f"timed out: still running after {limit:g} s"
        if connection.installing:
            limit = call.limit
            return connection.waiting_since + limit, f"timed out: not installed within {limit:g} s"
        limit = self.sessions.access.login_timeout
        what = "answer" if connection.ready else "login"
        return connection.waiting_since + limit, f"unreachable: no {what} within {limit:g} s"

    def _expire(self, now: float) -> None:
        for connection, call in list(self.running.items()):
            deadline, reason = self._deadline(connection, call)
            if now < deadline:
                continue
            if connection.reused and call.begun is None and call.idempotent:
                self._repeat(connection, 0.0)  # its host may have died without a word, and be back
            else:
                self._fail(connection, reason)

    def _lose(self, connection: Connection) -> None:
        """The connection has ended: again, if the call may run twice or cannot have begun."""
        call = self.running[connection]
        code = _exit_code(connection.process)
        while connection.read_errors():
            pass
        last = last_line(connection.errors)
        if not connection.ready and code not in (None, _SSH_FAILED) and code > 0:
            self._fail(connection, f"exit code {code}" + (f" ({last})" if last else ""))
            return
        if call.begun is not None:
            reason = "connection lost while the command ran" + (f" ({last})" if last else "")
            kind: Failure = "other"
        else:
            kind, reason = classify_failure(connection.errors)
        delay = retry_delay(
            kind, call.attempt, self.sessions.attempts, call.idempotent or not connection.ready
        )
        if delay is None:
            self._fail(connection, reason)
            return
        self._repeat(connection, delay)

    def _repeat(self, connection: Connection, delay: float) -> None:
        """The call anew, over another connection, in ``delay`` seconds."""
        call = self.running[connection]
        self._leave(connection)
        terminate([connection.process])
        call.begin_again()
        heapq.heappush(self.retries, (time.time() + delay, id(call), call))

    def _fail(self, connection: Connection, reason: str) -> None:
        call = self.running[connection]
        self._leave(connection)
        terminate([connection.process])
        self.results[call.host] = call.result(None, reason, connection.errors)

    def _leave(self, connection: Connection) -> None:
        del self.running[connection]
        for descriptor in (connection.stdin, connection.stdout, connection.stderr):
            if descriptor in self.selector.get_map():
                self.selector.unregister(descriptor)

    def _give_all_up(self, reason: str) -> None:
        ended = dict(self.running)
        for connection in ended:
            self._leave(connection)
        terminate([connection.process for connection in ended])
        for connection, call in ended.items():
            self.results[call.host] = call.result(None, reason, connection.errors)
        for call in [*self.waiting, *(call for _, _, call in self.retries)]:
            self.results[call.host] = call.result(None, reason)
        self.waiting.clear()
        self.retries.clear()


def _exit_code(process: subprocess.Popen[bytes]) -> int | None:
    """With which it has ended; None if it still runs."""
    try:
        return process.wait(0.5)
    except subprocess.TimeoutExpired:
        return None


def _reason(call: _Call, code: int, errors: bytes) -> str:
    """Why a call failed on its host; empty if it did not."""
    if code == 0:
        return ""
    if code in TIMEOUT_CODES and call.begun is not None and time.time() - call.begun >= 0.99 * call.limit:
        return f"timed out: ended after {call.limit:g} s"
    last = last_line(errors)
    return f"exit code {code}" + (f" ({last})" if last else "")
