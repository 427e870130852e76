"""Calls to a program that stays on each host: one login, then any number of calls over it.

A login costs 0.1 s of a core and a new process on the host as much again; with hundreds of hosts and some ten
calls to each, that is most of the time of a run. Here ssh is started once per host with a program that takes
calls as lines of JSON and answers each with the output of a process of its own (see
`g5kvirt.hostagent.onhost.session` for its side). A call that finds the connection in use opens another one.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import selectors
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from g5kvirt.remote.access import Access
from g5kvirt.remote.envelope import KILL_AFTER
from g5kvirt.remote.processes import spawn_open, terminate
from g5kvirt.remote.result import Failure, Result, classify_failure, last_line, retry_delay
from g5kvirt.remote.window import REPLY_SECONDS, TIMEOUT_CODES

__all__ = ["Program", "Sessions"]


@dataclass(frozen=True)
class Program:
    """What is started on a host: a shell command, and the archive that it gets if it asks for it."""

    command: str
    archive: Callable[[], bytes] = bytes


class Sessions:
    """The connections to hosts by ``access``, with ``program`` at their other ends. Thread-safe.

    At most ``window`` hosts are called at once by each `call`, with at most ``attempts`` connections to one.
    """

    def __init__(self, access: Access, program: Program, *, window: int, attempts: int) -> None:
        self.access = access
        self.program = program
        self.window = window
        self.attempts = attempts
        self._idle = _Idle()
        self._finalizer = weakref.finalize(self, self._idle.close)

    def call(
        self,
        texts: Mapping[str, bytes],
        *,
        timeout: float,
        idempotent: bool,
        given_up: Callable[[], str] = str,
    ) -> dict[str, Result]:
        """Give each host its text; one result per host, as those of `Fanout.run`.

        ``timeout``: seconds that a call may take on its host before it is killed. ``idempotent``: it may run
        twice. ``given_up`` is called every second: if it returns a reason, all calls that are left end
        with it. Raises MachineError if ssh is missing.
        """
        calls = [_Call(host, text, timeout, idempotent, time.time()) for host, text in texts.items()]
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
    attempt: int = 1
    begun: float | None = None
    stdout: bytearray = field(default_factory=bytearray)

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
            start=self.created if self.begun is None else self.begun,
            end=time.time(),
            attempt=self.attempt,
            reason=reason,
            started=self.begun is not None,
            via="session",
        )


class _Connection:
    """One ssh, with the program at its other end."""

    def __init__(self, access: Access, host: str, program: Program) -> None:
        self.process = spawn_open(access.argv(host, program.command), env=access.environment())
        self.host = host
        self.start_time = time.time()
        self.ready = False
        self.errors = b""
        self.unsent = b""
        self._line = b""
        self.stdin, self.stdout, self.stderr = (
            pipe.fileno() for pipe in (self.process.stdin, self.process.stdout, self.process.stderr) if pipe
        )
        for descriptor in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(descriptor, False)

    @property
    def usable(self) -> bool:
        """Whether it waits for a call: ssh runs, and nothing has come that nobody waited for."""
        try:
            os.read(self.stdout, 1)
        except BlockingIOError:
            return self.process.poll() is None
        return False

    def send(self) -> None:
        """As much of `unsent` as the pipe takes. Raises BrokenPipeError."""
        with contextlib.suppress(BlockingIOError):
            self.unsent = self.unsent[os.write(self.stdin, self.unsent) :]

    def receive(self) -> list[dict[str, Any]] | None:
        """The messages that have come; None at the end of the connection. Raises ValueError for anything
        that the program does not send."""
        try:
            data = os.read(self.stdout, 1 << 18)
        except BlockingIOError:
            return []
        if not data:
            return None
        *lines, self._line = (self._line + data).split(b"\n")
        return [json.loads(line) for line in lines]


class _Idle:
    """Connections that no call uses now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of_host: dict[str, list[_Connection]] = {}
        self._owner = os.getpid()

    def take(self, host: str) -> _Connection | None:
        """A connection to a host, if there is one."""
        with self._lock:
            if self._owner != os.getpid():  # a fork: they are its parent's
                self._of_host, self._owner = {}, os.getpid()
            waiting = self._of_host.get(host, [])
            broken = []
            found = None
            while waiting and found is None:
                connection = waiting.pop()
                if connection.usable:
                    found = connection
                else:
                    broken.append(connection.process)
        terminate(broken)
        return found

    def put(self, connection: _Connection) -> None:
        """Keep a connection for the next call."""
        with self._lock:
            self._of_host.setdefault(connection.host, []).append(connection)

    def close(self) -> None:
        """End all of them."""
        with self._lock:
            every = [connection for some in self._of_host.values() for connection in some]
            self._of_host.clear()
            if self._owner == os.getpid():
                terminate([connection.process for connection in every])


class _Round:
    """All calls of one `Sessions.call`, by one thread."""

    def __init__(
        self, sessions: Sessions, idle: _Idle, calls: list[_Call], given_up: Callable[[], str]
    ) -> None:
        self.sessions = sessions
        self.idle = idle
        self.given_up = given_up
        self.waiting = deque(calls)
        self.retries: list[tuple[float, int, _Call]] = []
        self.running: dict[_Connection, _Call] = {}
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
            connection = _Connection(self.sessions.access, call.host, self.sessions.program)
        connection.start_time = call.created
        self.running[connection] = call
        for descriptor in (connection.stdout, connection.stderr):
            self.selector.register(descriptor, selectors.EVENT_READ, connection)
        if connection.ready:
            self._send(connection, call.line)

    def _send(self, connection: _Connection, data: bytes) -> None:
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

    def _serve(self, connection: _Connection, descriptor: int) -> None:
        try:
            if descriptor == connection.stdin:
                connection.send()
                if not connection.unsent:
                    self.selector.unregister(descriptor)
            elif descriptor == connection.stderr:
                self._read_errors(connection)
            else:
                messages = connection.receive()
                if messages is None:
                    self._lose(connection)
                for message in messages or ():
                    self._take(connection, message)
        except BrokenPipeError:
            self._lose(connection)
        except ValueError as error:
            self._fail(connection, f"the host's answer cannot be read ({error})")

    def _read_errors(self, connection: _Connection) -> None:
        try:
            data = os.read(connection.stderr, 1 << 16)
        except BlockingIOError:
            return
        connection.errors = (connection.errors + data)[-(16 << 10) :]
        if not data:
            self.selector.unregister(connection.stderr)

    def _take(self, connection: _Connection, message: Mapping[str, Any]) -> None:
        call = self.running[connection]
        if "ready" in message:
            connection.ready = True
            self._send(connection, call.line)
        elif "send" in message:
            archive = self.sessions.program.archive()
            self._send(connection, b"%d " % len(archive) + archive)
        elif "begun" in message:
            call.begun = time.time()
        elif "out" in message:
            call.stdout += message["out"].encode("utf-8", "surrogateescape")
        elif "code" in message:
            code, errors = int(message["code"]), str(message["err"]).encode()
            self._leave(connection)
            self.idle.put(connection)
            self.results[call.host] = call.result(code, _reason(call, code, errors), errors)

    def _deadline(self, connection: _Connection, call: _Call) -> tuple[float, str]:
        """When to give up, and the reason to report then."""
        if call.begun is not None:
            limit = call.limit + KILL_AFTER + REPLY_SECONDS
            return call.begun + limit, f"timed out: still running after {limit:g} s"
        limit = self.sessions.access.login_timeout
        return connection.start_time + limit, f"unreachable: no login within {limit:g} s"

    def _expire(self, now: float) -> None:
        for connection, call in list(self.running.items()):
            deadline, reason = self._deadline(connection, call)
            if now >= deadline:
                self._fail(connection, reason)

    def _lose(self, connection: _Connection) -> None:
        """The connection has ended: again, if the call may run twice or has not begun."""
        call = self.running[connection]
        self._read_errors_to_the_end(connection)
        if call.begun is not None:
            last = last_line(connection.errors)
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
        self._leave(connection)
        terminate([connection.process])
        call.attempt += 1
        call.begun = None
        call.stdout.clear()
        heapq.heappush(self.retries, (time.time() + delay, id(call), call))

    def _read_errors_to_the_end(self, connection: _Connection) -> None:
        while connection.stderr in self.selector.get_map() and self._has_errors(connection):
            self._read_errors(connection)

    @staticmethod
    def _has_errors(connection: _Connection) -> bool:
        with selectors.DefaultSelector() as one:
            one.register(connection.stderr, selectors.EVENT_READ)
            return bool(one.select(0.2))

    def _fail(self, connection: _Connection, reason: str) -> None:
        call = self.running[connection]
        self._leave(connection)
        terminate([connection.process])
        self.results[call.host] = call.result(None, reason, connection.errors)

    def _leave(self, connection: _Connection) -> None:
        del self.running[connection]
        for descriptor in (connection.stdin, connection.stdout, connection.stderr):
            if descriptor in self.selector.get_map():
                self.selector.unregister(descriptor)

    def _give_all_up(self, reason: str) -> None:
        for connection in list(self.running):
            self._fail(connection, reason)
        for call in [*self.waiting, *(call for _, _, call in self.retries)]:
            self.results[call.host] = call.result(None, reason)
        self.waiting.clear()
        self.retries.clear()


def _reason(call: _Call, code: int, errors: bytes) -> str:
    """Why a call failed on its host; empty if it did not."""
    if code == 0:
        return ""
    if code in TIMEOUT_CODES and call.begun is not None and time.time() - call.begun >= 0.99 * call.limit:
        return f"timed out: ended after {call.limit:g} s"
    last = last_line(errors)
    return f"exit code {code}" + (f" ({last})" if last else "")
