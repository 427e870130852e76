"""What `g5kvirt.remote.sessions` is made of: ssh with a program at its other end, and the calls to that."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

from g5kvirt.remote.access import Access
from g5kvirt.remote.envelope import KILL_AFTER
from g5kvirt.remote.processes import spawn
from g5kvirt.remote.window import REPLY_SECONDS

__all__ = ["UNREADABLE", "Call", "Connection", "Program", "Update", "exit_code", "raise_limit"]

#: What a message of another form than the program's makes its reader raise.
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
#: Bytes of a connection's standard error that are kept, and that may come: ssh's own messages.
_ERRORS_KEPT = 16 << 10
_MOST_ERRORS = 16 << 20
#: Bytes of one message: a program sends 64 KiB of output at once, of which JSON makes at most six times that.
LONGEST_MESSAGE = 1 << 20
#: Bytes of output of one call, all of which is kept here.
MOST_OUTPUT = 256 << 20
#: Messages of calls that nobody waits for any more: one that is cancelled ends within seconds.
_MOST_STRAY = 10_000

_numbers = count(1)


@dataclass(frozen=True)
class Program:
    """What is started on a host: a shell command, and the archive that it gets if it asks for it."""

    command: str
    archive: Callable[[], bytes] = bytes


def raise_limit() -> int:
    """Let this process open as many files as it may, and return how many: a connection takes three."""
    import resource  # which Windows does not have

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
        self.installing = False
        self.has_archive = False
        self.waiting_since = time.monotonic()  # for a sign of the host
        self.errors = b""
        self.unsent = b""
        self._line = b""
        self._errors_read = self._stray = 0
        self.stdin, self.stdout, self.stderr = (
            pipe.fileno() for pipe in (self.process.stdin, self.process.stdout, self.process.stderr) if pipe
        )
        for descriptor in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(descriptor, False)

    def send(self) -> None:
        """As much of `unsent` as the pipe takes. Raises BrokenPipeError."""
        with contextlib.suppress(BlockingIOError):
            self.unsent = self.unsent[os.write(self.stdin, self.unsent) :]

    def read_errors(self) -> bool:
        """What has come on standard error, of which the end is kept; False if there is nothing now.

        Raises ValueError if it is too much.
        """
        try:
            data = os.read(self.stderr, 1 << 16)
        except BlockingIOError:
            return False
        self.errors = (self.errors + data)[-_ERRORS_KEPT:]
        self._errors_read += len(data)
        if self._errors_read > _MOST_ERRORS:
            raise ValueError(f"more than {_MOST_ERRORS >> 20} MiB of messages on standard error")
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
        if len(self._line) > LONGEST_MESSAGE:
            raise ValueError(f"a message of more than {LONGEST_MESSAGE >> 20} MiB")
        messages = [json.loads(line) for line in lines]
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError(f"{lines[0][:80]!r} is not a message")
        return messages

    def exit_code(self) -> int | None:
        """With which ssh has ended, and all that it had to say; None if it still runs."""
        try:
            code = self.process.wait(0.5)
        except subprocess.TimeoutExpired:
            code = None
        with contextlib.suppress(ValueError):  # it says more than is taken
            while self.read_errors():
                pass
        return code

    def greeted(self) -> None:
        """The program is ready for calls. Raises ValueError if it was."""
        if self.ready:
            raise ValueError("it is ready a second time")
        self.ready, self.installing = True, False

    def wants_archive(self) -> None:
        """The program has to be sent. Raises ValueError if it was, or is there."""
        if self.ready or self.has_archive:
            raise ValueError("it asks for the program a second time")
        self.has_archive = self.installing = True
        self.waiting_since = time.monotonic()

    def note_stray(self) -> None:
        """A message of a call that is over. Raises ValueError for one of too many."""
        self._stray += 1
        if self._stray > _MOST_STRAY:
            raise ValueError("it answers calls that it does not have")

    def deadline(self, call: Call, login_timeout: float) -> tuple[float, str]:
        """When to give up a call that waits here, by the monotonic clock, and the reason to report then."""
        if call.begun is not None:
            limit = call.limit + KILL_AFTER + REPLY_SECONDS
            return call.since + limit, f"timed out: still running after {limit:g} s"
        if self.installing:
            return self.waiting_since + call.limit, f"timed out: not installed within {call.limit:g} s"
        if call.sent is not None:
            return call.since + login_timeout, f"unreachable: no answer within {login_timeout:g} s"
        return self.waiting_since + login_timeout, f"unreachable: no login within {login_timeout:g} s"


@dataclass(frozen=True)
class Update:
    """What became of a call: some ``output``; it begins ``again``, from nothing; it has ended (``code``: what
    the host reported, None if it did not; ``reason``: why, if somebody ended it); or the thread has failed
    with ``error``."""

    call: Call
    kind: Literal["output", "again", "end", "error"]
    data: bytes = b""
    code: int | None = None
    reason: str = ""
    error: BaseException | None = None
    t: float = field(default_factory=time.time)


@dataclass(eq=False)
class Call:
    """One call. ``limit``: seconds that it may take on its host. ``idempotent``: it may run twice."""

    host: str
    text: bytes
    limit: float
    idempotent: bool
    updates: queue.SimpleQueue[Update]
    number: int = field(default_factory=lambda: next(_numbers))
    attempt: int = 1
    created: float = field(default_factory=time.time)  #: or when its last attempt began
    sent: float | None = None  #: to a host that was ready for it
    begun: float | None = None  #: by the host, as seen here
    reused: bool = False  #: the connection was there before it
    over: bool = False
    received: int = 0  #: bytes of its output
    since: float = 0.0  #: it was sent, or has begun, by the monotonic clock

    def note_sent(self) -> None:
        """It goes to a host now."""
        self.sent, self.since = time.time(), time.monotonic()

    def note_begun(self) -> None:
        """The host has begun; that it says so again changes nothing."""
        if self.begun is None:
            self.begun, self.since = time.time(), time.monotonic()

    @property
    def line(self) -> bytes:
        """As it is sent."""
        message = {"id": self.number, "limit": self.limit, "document": self.text.decode()}
        return json.dumps(message).encode() + b"\n"

    def tell_output(self, text: str) -> None:
        """Pass on what it has printed. Raises ValueError if that is too much by now."""
        data = text.encode("utf-8", "surrogateescape")
        self.received += len(data)
        if self.received > MOST_OUTPUT:
            raise ValueError(f"more than {MOST_OUTPUT >> 20} MiB of output")
        self.tell("output", data=data)

    def tell(self, kind: Literal["output", "again", "end", "error"], **more: Any) -> None:
        """Pass on what became of it, unless its end is known."""
        if not self.over:
            self.over = kind in ("end", "error")
            self.updates.put(Update(self, kind, **more))


def exit_code(message: Mapping[str, Any]) -> int:
    """Of the message that ends a call. Raises ValueError if there is none, KeyError."""
    code = message["code"]
    if isinstance(code, int) and 0 <= code <= 255:
        return code
    raise ValueError("an exit code of another form")
