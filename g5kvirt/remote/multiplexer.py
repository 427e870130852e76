"""All calls to hosts over one connection to each: the thread behind `g5kvirt.remote.sessions`."""

from __future__ import annotations

import heapq
import json
import os
import selectors
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from g5kvirt.remote.access import Access
from g5kvirt.remote.connections import UNREADABLE, Call, Connection, Program, exit_code, raise_limit
from g5kvirt.remote.processes import terminate
from g5kvirt.remote.result import Failure, classify_failure, exit_reason, last_line, retry_delay
from g5kvirt.run.printable import short

__all__ = ["Multiplexer"]

_SSH_FAILED = 255
#: Seconds between two looks at what is late.
_LOOK = 0.25
#: Seconds to close all connections.
_CLOSE_LIMIT = 10.0


class Multiplexer:
    """Connections by ``access`` to ``program``, each for any number of calls.

    At most ``window`` logins are in progress at once, with at most ``attempts`` for a call. Its thread runs
    while there are connections. Each of ``lost`` is called, in that thread, with a host whose connection has
    ended though nobody closed it.
    """

    def __init__(
        self,
        access: Access,
        program: Program,
        *,
        window: int,
        attempts: int,
        lost: Collection[Callable[[str], object]] = (),
    ) -> None:
        self.access = access
        self.program = program
        self.window = window
        self.attempts = attempts
        self.owner = os.getpid()
        self._lost_listeners = lost
        self._most = raise_limit() // 6  # connections: half of what may be open is left to others
        self._lock = threading.Lock()  # of the next three
        self._inbox: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None
        self._waker = -1
        # of the thread alone:
        self._connections: dict[str, Connection] = {}
        self._calls: dict[Connection, dict[int, Call]] = {}
        self._waiting: deque[Call] = deque()  # for a login
        self._retries: list[tuple[float, int, Call]] = []
        self._doomed: list[subprocess.Popen[bytes]] = []
        self._looked = 0.0

    # ---- from any thread ----------------------------------------------------------------------------

    def submit(self, calls: Iterable[Call]) -> None:
        """Carry these out; what becomes of them goes to their queues."""
        self._post(lambda: self._begin(list(calls)))

    def cancel(self, calls: Iterable[Call]) -> None:
        """Nobody waits for these any more."""
        self._post(lambda: self._cancel(list(calls)))

    def abandon(self, host: str, reason: str) -> None:
        """End all calls of ``host``, and its connection, with ``reason``."""
        if self.is_running:
            self._post(lambda: self._abandon(host, reason))

    def close(self) -> None:
        """Close all connections that no call uses."""
        if self.owner != os.getpid():  # of a fork's parent, whose lock may be taken for ever here
            return
        thread = self._thread
        if thread is None or thread is threading.current_thread():  # there, by the garbage collector
            return
        closed = threading.Event()
        self._post(lambda: self._close(closed))
        closed.wait(_CLOSE_LIMIT)

    @property
    def is_running(self) -> bool:
        """Whether anybody sees to the calls: True as long as one of them has not ended."""
        return self._thread is not None

    def _post(self, action: Callable[[], None]) -> None:
        with self._lock:
            if self._thread is None:
                self._start()  # raises: nothing was posted
            self._inbox.append(action)
            if len(self._inbox) == 1:
                os.write(self._waker, b"x")

    def _start(self) -> None:
        """Start the thread; it waits for the lock, which the caller holds."""
        wake, waker = os.pipe()
        thread = threading.Thread(target=self._run, args=(wake, waker), name="g5kvirt-sessions", daemon=True)
        try:
            os.set_blocking(wake, False)
            os.set_blocking(waker, False)
            thread.start()
        except BaseException:
            os.close(wake)
            os.close(waker)
            raise
        self._thread, self._waker = thread, waker

    # ---- the thread ---------------------------------------------------------------------------------

    def _run(self, wake: int, waker: int) -> None:
        try:
            with selectors.DefaultSelector() as self._selector:
                self._selector.register(wake, selectors.EVENT_READ)
                while self._take_actions():
                    self._start_due()
                    self._wait(wake)
                    self._look()
        except BaseException as error:  # noqa: BLE001  a bug here must not leave anybody waiting
            self._fail_all(error)
        finally:
            os.close(wake)
            os.close(waker)

    def _take_actions(self) -> bool:
        """Do what was posted, and end what is of no use; False if there is nothing left to do, ever."""
        while True:
            with self._lock:
                action = self._inbox.popleft() if self._inbox else None
                if action is None and not self._doomed:
                    if self._connections or self._waiting or self._retries:
                        return True
                    self._thread = None
                    return False
            if action is not None:
                action()
            else:
                self._end_doomed()

    def _begin(self, calls: Iterable[Call]) -> None:
        for call in calls:
            call.created = time.time()
            connection = self._connections.get(call.host)
            if connection is None:
                self._waiting.append(call)
            else:
                self._attach(connection, call)

    def _start_due(self) -> None:
        now = time.monotonic()
        while self._retries and self._retries[0][0] <= now:
            self._begin([heapq.heappop(self._retries)[2]])
        logins = sum(not connection.ready for connection in self._connections.values())
        while self._waiting and logins < self.window:
            call = self._waiting.popleft()
            if call.over:
                continue
            connection = self._connections.get(call.host)
            if connection is None:
                try:
                    connection = self._open(call.host)
                except Exception as error:  # noqa: BLE001  of the caller: there is no ssh, for example
                    call.tell("error", error=error)
                    continue
                logins += 1
            call.created = time.time()
            self._attach(connection, call)

    def _open(self, host: str) -> Connection:
        connection = Connection(self.access, host, self.program)
        self._connections[host] = connection
        self._calls[connection] = {}
        for descriptor in (connection.stdout, connection.stderr):
            self._selector.register(descriptor, selectors.EVENT_READ, connection)
        return connection

    def _attach(self, connection: Connection, call: Call) -> None:
        if call.over:
            return
        call.reused = connection.ready
        self._calls[connection][call.number] = call
        if connection.ready:
            self._send_call(connection, call)

    def _send_call(self, connection: Connection, call: Call) -> None:
        call.note_sent()
        self._send(connection, call.line)

    def _send(self, connection: Connection, data: bytes) -> None:
        if not connection.unsent:
            self._selector.register(connection.stdin, selectors.EVENT_WRITE, connection)
        connection.unsent += data

    def _wait(self, wake: int) -> None:
        busy = self._waiting or self._retries or any(self._calls.values())
        for key, _ in self._selector.select(_LOOK if busy else None):
            if key.fd == wake:
                os.read(wake, 4096)
            elif key.data in self._calls:  # else it was closed by an event before this one
                self._serve(key.data, key.fd)

    # ---- what comes ---------------------------------------------------------------------------------

    def _serve(self, connection: Connection, descriptor: int) -> None:
        try:
            if descriptor == connection.stdin:
                connection.send()
                if not connection.unsent:
                    self._selector.unregister(descriptor)
            elif descriptor == connection.stderr:
                if not connection.read_errors():
                    self._selector.unregister(descriptor)
            else:
                messages = connection.receive()
                if messages is None:
                    self._lose(connection)
                for message in messages or ():
                    self._take(connection, message)
        except BrokenPipeError:
            self._lose(connection)
        except UNREADABLE as error:  # one odd host costs no other its result
            why = short(str(error)) if isinstance(error, ValueError) else "a message of another form"
            self._drop(connection, f"the host's answer cannot be read ({why})")

    def _take(self, connection: Connection, message: Mapping[str, Any]) -> None:
        if "ready" in message:
            connection.greeted()
            for call in self._calls[connection].values():
                self._send_call(connection, call)
            return
        if "send" in message:
            connection.wants_archive()
            archive = self.program.archive()
            self._send(connection, b"%d " % len(archive) + archive)
            return
        known = self._calls[connection].get(int(message["id"]))
        if known is None or known.sent is None:  # cancelled
            connection.note_stray()
            return
        if "begun" in message:
            known.note_begun()
        elif "out" in message:
            known.tell_output(message["out"])
        else:
            late = f"timed out: ended after {known.limit:g} s" if message.get("late") else ""
            known.tell("end", code=exit_code(message), reason=late, data=str(message["err"]).encode())
            del self._calls[connection][known.number]
            if len(self._connections) > self._most and not self._calls[connection]:
                self._forget(connection)

    # ---- what goes wrong ----------------------------------------------------------------------------

    def _look(self) -> None:
        """Find what is late."""
        now = time.monotonic()  # a clock that is set makes nobody late
        if now - self._looked < _LOOK:
            return
        self._looked = now
        for connection, calls in list(self._calls.items()):
            for call in list(calls.values()):
                deadline, reason = connection.deadline(call, self.access.login_timeout)
                if now >= deadline:
                    self._give_up(connection, call, reason)
                    break

    def _give_up(self, connection: Connection, call: Call, reason: str) -> None:
        """A host is silent: the call has failed, and the connection with it."""
        if not connection.ready:
            self._drop(connection, reason)
            return
        self._tell_lost(connection)
        calls = self._forget(connection)
        calls.remove(call)
        if call.reused and call.begun is None and call.idempotent:
            self._repeat(call, 0.0)  # its host may have died without a word, and be back
        else:
            call.tell("end", reason=reason, data=connection.errors)
        for other in calls:
            self._lost(connection, other, f"connection lost ({reason})", "other")

    def _lose(self, connection: Connection) -> None:
        """The connection has ended."""
        self._tell_lost(connection)
        calls = self._forget(connection)
        code = connection.exit_code()
        if not connection.ready and code is not None and 0 < code != _SSH_FAILED:
            reason = exit_reason(code, connection.errors)
            for call in calls:
                call.tell("end", reason=reason, data=connection.errors)
            return
        kind, reason = classify_failure(connection.errors)
        last = last_line(connection.errors)
        for call in calls:
            if call.begun is None:
                self._lost(connection, call, reason, kind)
            else:
                broken = "connection lost while the command ran" + (f" ({last})" if last else "")
                self._lost(connection, call, broken, "other")

    def _tell_lost(self, connection: Connection) -> None:
        if connection.ready:
            for listener in tuple(self._lost_listeners):
                listener(connection.host)

    def _lost(self, connection: Connection, call: Call, reason: str, kind: Failure) -> None:
        """Again, if the call may run twice or cannot have begun."""
        twice = call.idempotent or not connection.ready
        delay = retry_delay(kind, call.attempt, self.attempts, twice)
        if delay is None:
            call.tell("end", reason=reason, data=connection.errors)
        else:
            self._repeat(call, delay)

    def _repeat(self, call: Call, delay: float) -> None:
        """The call again, over another connection, in ``delay`` seconds."""
        call.tell("again")
        call.attempt += 1
        call.sent = call.begun = None
        call.received = 0
        heapq.heappush(self._retries, (time.monotonic() + delay, call.number, call))

    def _drop(self, connection: Connection, reason: str) -> None:
        """A connection of no use."""
        if connection in self._calls:
            for call in self._forget(connection):
                call.tell("end", reason=reason, data=connection.errors)

    def _forget(self, connection: Connection) -> list[Call]:
        """End a connection; returns its calls, of which the end is not known."""
        for descriptor in (connection.stdin, connection.stdout, connection.stderr):
            if descriptor in self._selector.get_map():
                self._selector.unregister(descriptor)
        del self._connections[connection.host]
        self._doomed.append(connection.process)
        return [call for call in self._calls.pop(connection).values() if not call.over]

    def _end_doomed(self) -> None:
        processes, self._doomed = self._doomed, []
        terminate(processes)

    def _cancel(self, calls: Iterable[Call]) -> None:
        for call in calls:
            call.over = True
            connection = self._connections.get(call.host)
            if connection is None or call.number not in self._calls[connection]:
                continue
            del self._calls[connection][call.number]
            if call.sent is not None:
                self._send(connection, json.dumps({"id": call.number, "cancel": True}).encode() + b"\n")
            elif not self._calls[connection]:  # nobody needs that login
                self._forget(connection)

    def _abandon(self, host: str, reason: str) -> None:
        if host in self._connections:
            self._drop(self._connections[host], reason)
        for call in (*self._waiting, *(one for _, _, one in self._retries)):  # both skip what is over
            if call.host == host:
                call.tell("end", reason=reason)

    def _close(self, closed: threading.Event) -> None:
        for connection in [one for one, calls in self._calls.items() if not calls]:
            self._forget(connection)
        self._end_doomed()
        closed.set()

    def _fail_all(self, error: BaseException) -> None:
        calls = [call for some in self._calls.values() for call in some.values()]
        calls += [*self._waiting, *(call for _, _, call in self._retries)]
        processes = [connection.process for connection in self._connections.values()]
        self._connections, self._calls, self._waiting, self._retries = {}, {}, deque(), []
        processes += self._doomed
        self._doomed = []
        for call in calls:
            call.tell("error", error=error)
        with self._lock:
            self._thread = None
            if self._inbox:
                self._start()
        terminate(processes)
