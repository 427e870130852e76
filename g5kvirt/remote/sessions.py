"""Calls to a program that stays on each host: one login, then any number of calls over it.

A login costs 0.1 s of a core and a new process on the host as much again; with hundreds of hosts and some ten
calls to each, that is most of the time of a run. Here ssh is started once per host with a program that takes
calls as lines of JSON and answers each with the output of a process of its own, any number in parallel (see
`g5kvirt.hostagent.onhost.session` for its side).
"""

from __future__ import annotations

import os
import queue
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping

from g5kvirt.errors import SpecError
from g5kvirt.remote.access import Access
from g5kvirt.remote.connections import Call, Program, Update
from g5kvirt.remote.envelope import OnLine
from g5kvirt.remote.multiplexer import Multiplexer
from g5kvirt.remote.result import Result, exit_reason

__all__ = ["Sessions"]

#: Seconds between two looks at whether to give up.
_LOOK = 1.0


class Sessions:
    """The connections to hosts by ``access``, with ``program`` at their other ends. Thread-safe.

    At most ``window`` hosts are called at once by each `call`, and as many logins are in progress, with at
    most ``attempts`` to one host. ``lost``: see `Multiplexer`. Raises SpecError for a window below 1.
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
        if window < 1:
            raise SpecError(f"a window of {window} connections is too small", advice="use at least 1")
        self.program = program
        self.window = window
        self._made = (access, program, window, attempts, lost)
        self._start()

    def _start(self) -> None:
        access, program, window, attempts, lost = self._made
        self._connections = Multiplexer(access, program, window=window, attempts=attempts, lost=lost)
        self._finalizer = weakref.finalize(self, self._connections.close)

    def call(
        self,
        texts: Mapping[str, bytes],
        *,
        timeout: float,
        idempotent: bool,
        on_line: OnLine | None = None,
        given_up: Callable[[], str] = str,
        window: int | None = None,
    ) -> dict[str, Result]:
        """Give each host its text; one result per host, as those of `Fanout.run`.

        ``timeout``: seconds that a call may take on its host before it is killed. ``idempotent``: it may run
        twice. ``on_line(host, line, t)`` is called for each line of the output as it comes, in this thread.
        ``given_up`` is called every second: if it returns a reason, all calls that are left end with it.
        ``window``: for calls that only wait, more hosts at once.
        Raises MachineError if ssh is missing, SpecError for a timeout that is not above 0.
        """
        if timeout <= 0:
            raise SpecError("a call needs a timeout greater than 0 seconds")
        if self._connections.owner != os.getpid():  # a fork: they are its parent's
            self._start()
        updates: queue.SimpleQueue[Update] = queue.SimpleQueue()
        calls = [Call(host, text, timeout, idempotent, updates) for host, text in texts.items()]
        return _Round(self._connections, calls, updates, on_line).run(window or self.window, given_up)

    def abandon(self, host: str, reason: str) -> None:
        """End all calls of a host, with ``reason``."""
        self._connections.abandon(host, reason)

    def close(self) -> None:
        """Close all connections that are not in use; a later call opens new ones."""
        self._connections.close()


class _Round:
    """All calls of one `Sessions.call`, from its thread."""

    def __init__(
        self,
        connections: Multiplexer,
        calls: Iterable[Call],
        updates: queue.SimpleQueue[Update],
        on_line: OnLine | None,
    ) -> None:
        self._connections = connections
        self._waiting = deque(calls)
        self._updates = updates
        self._on_line = on_line
        self._running: dict[Call, _Output] = {}
        self._results: dict[str, Result] = {}

    def run(self, window: int, given_up: Callable[[], str]) -> dict[str, Result]:
        try:
            while self._waiting or self._running:
                if reason := given_up():
                    self._give_all_up(f"given up: {reason}")
                    break
                self._submit(window - len(self._running))
                try:
                    self._take(self._updates.get(timeout=_LOOK))
                except queue.Empty:
                    if not self._connections.is_running and self._updates.empty():
                        raise RuntimeError("the thread of the connections has ended") from None
        finally:
            if self._running:
                self._connections.cancel(self._running)
        return self._results

    def _submit(self, number: int) -> None:
        new = [self._waiting.popleft() for _ in range(min(number, len(self._waiting)))]
        if new:
            self._running |= {call: _Output(call.host, self._on_line) for call in new}
            self._connections.submit(new)

    def _take(self, update: Update) -> None:
        call = update.call
        output = self._running[call]
        match update.kind:
            case "output":
                output.add(update.data)
            case "again":
                self._running[call] = _Output(call.host, self._on_line)
            case "end":
                del self._running[call]
                ended = exit_reason(update.code, update.data) if update.code != 0 else ""
                reason = update.reason or ended
                self._results[call.host] = _result(call, output, update.code, reason, update.data, update.t)
            case "error":
                assert update.error is not None
                raise update.error

    def _give_all_up(self, reason: str) -> None:
        now = time.time()
        for call in [*self._running, *self._waiting]:
            output = self._running.get(call, _Output(call.host, None))
            self._results[call.host] = _result(call, output, None, reason, b"", now)
        self._waiting.clear()


class _Output:
    """What a call prints."""

    def __init__(self, host: str, on_line: OnLine | None) -> None:
        self.data = bytearray()
        self._host = host
        self._on_line = on_line
        self._passed_on = 0  # bytes

    def add(self, data: bytes) -> None:
        """Keep it, and pass on what is complete."""
        self.data += data
        if b"\n" not in data:
            return
        while self._on_line is not None and (end := self.data.find(b"\n", self._passed_on)) >= 0:
            line = self.data[self._passed_on : end].decode(errors="replace")
            self._passed_on = end + 1
            self._on_line(self._host, line, time.time())


def _result(call: Call, output: _Output, code: int | None, reason: str, stderr: bytes, end: float) -> Result:
    return Result(
        host=call.host,
        ok=code == 0,
        returncode=code,
        stdout=bytes(output.data),
        stderr=stderr,
        start=call.created if call.sent is None else call.sent,
        end=end,
        attempt=call.attempt,
        reason=reason,
        started=call.begun is not None,
        via="session",
    )
