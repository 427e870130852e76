"""Calls to a host in parallel over one connection: ``python3 -I -S DIRECTORY session``.

A line of JSON comes in for each call, ``{"id", "limit", "document"}``. Back go ``{"id", "begun": true}``, its
output in lines ``{"id", "out"}``, and at its end ``{"id", "code", "err", "late"}``. A line
``{"id", "cancel": true}`` ends it early.

Each call is carried out by a child of this process, so none sees what another has left, and one that lasts
longer than ``limit`` seconds is killed: it is ``late``. A process started again would cost ten times as much,
and a login twice that again.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time

from . import clock
from .processes import kill_group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .records import Record

#: Seconds between SIGTERM and SIGKILL for a call that lasts too long; the exit code that is reported then.
KILL_AFTER = 3.0
TIMED_OUT = 124
#: Bytes of a call's standard error that are reported.
ERRORS_KEPT = 16 << 10
#: Pieces of a call's output that are passed on before other calls have their turn.
MOST_PIECES = 8
_INPUT = 0


def serve(perform: Callable[[str], int], prepare: Callable[[str], None]) -> None:
    """Carry out each document of standard input with ``perform``, after ``prepare`` here, until its end.

    If the reader of the answers goes away, a call that was begun is still brought to its end.
    """
    tell({"ready": True})
    calls: dict[int, Call] = {}  # by each of its descriptors
    poll = select.poll()
    poll.register(_INPUT, select.POLLIN)
    rest, is_open = b"", True
    while is_open or calls:
        for descriptor, _ in poll.poll(patience(calls)):
            if descriptor in calls:
                calls[descriptor].read(descriptor, poll)
                continue
            data = os.read(_INPUT, 1 << 18)
            is_open = bool(data)
            if not is_open:
                poll.unregister(_INPUT)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                request = json.loads(line)
                if "cancel" in request:
                    for call in set(calls.values()):
                        call.cancel(request["id"])
                else:
                    prepare(request["document"])
                    try:
                        call = Call(request, perform)
                    except OSError as error:  # no process, no descriptor: of this call alone
                        tell({"id": request["id"], "code": 1, "err": f"the host agent failed: {error}"})
                        continue
                    for one in call.descriptors:
                        calls[one] = call
                        poll.register(one, select.POLLIN)
        for call in set(calls.values()):
            call.expire()
            if call.ended:
                for one in call.close(poll):
                    del calls[one]


def pipes() -> tuple[int, int, int, int]:
    """Two pipes: both ends of one, both ends of the other. Raises OSError, and leaves none of them."""
    first = os.pipe()
    try:
        return (*first, *os.pipe())
    except OSError:
        for descriptor in first:
            os.close(descriptor)
        raise


def patience(calls: dict[int, Call]) -> float | None:
    """Milliseconds until the next call is late."""
    if not calls:
        return None
    return max(0.0, 1e3 * (min(call.deadline for call in calls.values()) - time.monotonic())) + 1


def tell(line: Record) -> None:
    """One line to the other end."""
    data = json.dumps(line).encode() + b"\n"
    try:
        while data:
            data = data[os.write(1, data) :]
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


class Call:
    """One call, which a child carries out."""

    def __init__(self, request: Record, perform: Callable[[str], int]) -> None:
        self._id = request["id"]
        self.deadline = time.monotonic() + float(request["limit"])
        self.ended = False
        self._late = False
        self._errors = b""
        self._out, out, self._err, err = pipes()
        # Before it begins: whoever loses this host then knows that the call may have done something.
        tell({"id": self._id, "begun": True})
        try:
            self._pid = os.fork()
        except OSError:
            for descriptor in (self._out, out, self._err, err):
                os.close(descriptor)
            raise
        if self._pid == 0:
            become(perform, request["document"], out, err)
        os.close(out)
        os.close(err)
        try:
            self._process = os.pidfd_open(self._pid)
        except OSError:
            kill_group(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            os.close(self._out)
            os.close(self._err)
            raise
        self.descriptors = (self._out, self._err, self._process)
        for descriptor in self.descriptors:
            os.set_blocking(descriptor, False)

    def read(self, descriptor: int, poll: select.poll) -> None:
        """Pass on what it prints; at its end, all that is left."""
        # A process that it has detached may keep the pipes open: they are read to their end only as far as
        # anything is in them.
        self.ended = self.ended or descriptor == self._process
        for one in (self._out, self._err) if self.ended else (descriptor,):
            for _ in range(1 << 30 if self.ended else MOST_PIECES):
                data = read(one)
                if not data:
                    if data == b"" and not self.ended:
                        poll.unregister(one)
                    break
                if one == self._out:
                    tell({"id": self._id, "out": data.decode("utf-8", "surrogateescape")})
                else:
                    self._errors = (self._errors + data)[-ERRORS_KEPT:]

    def expire(self) -> None:
        """End it if it is late."""
        if not self.ended and time.monotonic() >= self.deadline:
            kill_group(self._pid, signal.SIGKILL if self._late else signal.SIGTERM)
            self._late, self.deadline = True, time.monotonic() + KILL_AFTER

    def cancel(self, number: int) -> None:
        """End it if it has this number: nobody waits for it any more."""
        if number == self._id and not self._late:
            self.deadline = time.monotonic()

    def close(self, poll: select.poll) -> tuple[int, ...]:
        """Report how it ended; returns its descriptors, which are closed."""
        for descriptor in self.descriptors:
            try:
                poll.unregister(descriptor)
            except KeyError:  # a pipe that came to its end before
                pass
            os.close(descriptor)
        code = exit_code(os.waitpid(self._pid, 0)[1])
        errors = self._errors.decode("utf-8", "replace")
        tell({"id": self._id, "code": TIMED_OUT if self._late else code, "err": errors, "late": self._late})
        return self.descriptors


def become(perform: Callable[[str], int], document: str, out: int, err: int) -> None:
    """In the child: carry out a document and exit, whatever happens."""
    code = 1
    try:
        clock.call_start = time.time()
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.closerange(3, 1024)
        code = perform(document)
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001  nothing may continue as if it were the parent
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def read(descriptor: int) -> bytes | None:
    """What is in a pipe now: nothing at its end, None if there may be more later."""
    try:
        return os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return None


def exit_code(status: int) -> int:
    """As a shell gives it, from what wait(2) gave."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
