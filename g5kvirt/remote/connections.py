"""The connections of `g5kvirt.remote.sessions`: ssh with a program at its other end, and those not in use."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from g5kvirt.remote.access import Access
from g5kvirt.remote.processes import spawn, terminate

__all__ = ["Connection", "IdleConnections", "Program", "raise_limit"]

#: Bytes of a connection's standard error.
_ERRORS_KEPT = 16 << 10


@dataclass(frozen=True)
class Program:
    """What is started on a host: a shell command, and the archive that it gets if it asks for it."""

    command: str
    archive: Callable[[], bytes] = bytes


def raise_limit() -> int:
    """Let this process open as many files as it may, and return how many: a connection takes three."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Connection:
    """One ssh, with the program at its other end."""

    def __init__(self, access: Access, host: str, program: Program) -> None:
        self.process = spawn(
            access.argv(host, program.command), env=access.environment(), stdin=subprocess.PIPE
        )
        self.host = host
        self.ready = False
        self.reused = False
        self.installing = False
        self.waiting_since = time.time()  # for a sign of the host
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

    def read_errors(self) -> bool:
        """What has come on standard error, of which the end is kept; False if there is nothing now."""
        try:
            data = os.read(self.stderr, 1 << 16)
        except BlockingIOError:
            return False
        self.errors = (self.errors + data)[-_ERRORS_KEPT:]
        return bool(data)

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
        messages = [json.loads(line) for line in lines]
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError(f"{lines[0][:80]!r} is no message")
        return messages


class IdleConnections:
    """Connections that no call uses now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of_host: dict[str, list[Connection]] = {}
        self._owner = os.getpid()
        self._most = raise_limit() // 6  # connections: half of what may be open is left to others

    def take(self, host: str) -> Connection | None:
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

    def put(self, connection: Connection) -> None:
        """Keep a connection for the next call."""
        with self._lock:
            if sum(map(len, self._of_host.values())) < self._most:
                self._of_host.setdefault(connection.host, []).append(connection)
                return
        terminate([connection.process])

    def close(self) -> None:
        """End all of them."""
        with self._lock:
            every = [connection for some in self._of_host.values() for connection in some]
            self._of_host.clear()
            if self._owner == os.getpid():
                terminate([connection.process for connection in every])
