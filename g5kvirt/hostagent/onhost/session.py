"""Calls to a host one after another over one connection: ``python3 -I -S DIRECTORY session``.

A line of JSON comes in for each call, ``{"limit", "document"}``. Back go ``{"begun": true}``, its output in
lines ``{"out"}``, and at its end ``{"code", "err"}``. Each call is carried out by a child of this process, so
none sees what another has left, and one that lasts longer than ``limit`` seconds is killed. A process started
anew would cost ten times as much, and a login twice that again.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time

from . import clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .records import Record

#: Seconds between SIGTERM and SIGKILL for a call that lasts too long; the exit code that is reported then.
KILL_AFTER = 3.0
TIMED_OUT = 124
#: Bytes of a call's standard error that are reported.
ERRORS_KEPT = 16 << 10


def serve(perform: Callable[[str], int], prepare: Callable[[str], None]) -> None:
    """Carry out each document of standard input with ``perform``, after ``prepare`` here, until its end.

    If the reader of the answers goes away, a call that was begun is still brought to its end.
    """
    tell({"ready": True})
    for line in sys.stdin.buffer:
        request = json.loads(line)
        prepare(request["document"])
        tell({"begun": True})
        out, err = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            become(perform, request["document"], out[1], err[1])
        os.close(out[1])
        os.close(err[1])
        tell(follow(pid, out[0], err[0], time.monotonic() + float(request["limit"])))


def tell(line: Record) -> None:
    """One line to the other end."""
    data = json.dumps(line).encode() + b"\n"
    try:
        while data:
            data = data[os.write(1, data) :]
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def become(perform: Callable[[str], int], document: str, out: int, err: int) -> None:
    """In the child: carry out a document and exit, whatever happens."""
    code = 1
    try:
        clock.call_start = time.time()
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.closerange(3, 256)
        code = perform(document)
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001  nothing may go on as if it were the parent
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def follow(pid: int, out: int, err: int, deadline: float) -> Record:
    """Pass on what a child prints, and end it when it is late; returns how it ended."""
    process, late, errors = os.pidfd_open(pid), False, b""
    poll = select.poll()
    for descriptor in (out, err, process):
        os.set_blocking(descriptor, False)
        poll.register(descriptor, select.POLLIN)
    ended = False
    while not ended:
        events = poll.poll(max(0.0, 1e3 * (deadline - time.monotonic())) + 1)
        # A process that it has detached may keep the pipes open: they are read to their end only as far as
        # anything is in them.
        ended = any(descriptor == process for descriptor, _ in events)
        for descriptor, _ in [(out, 0), (err, 0)] if ended else events:
            while data := read(descriptor):
                if descriptor == out:
                    tell({"out": data.decode("utf-8", "surrogateescape")})
                else:
                    errors = (errors + data)[-ERRORS_KEPT:]
            if data == b"" and not ended:
                poll.unregister(descriptor)
        if not ended and time.monotonic() >= deadline:
            kill(pid, signal.SIGKILL if late else signal.SIGTERM)
            late, deadline = True, time.monotonic() + KILL_AFTER
    for descriptor in (out, err, process):
        os.close(descriptor)
    code = exit_code(os.waitpid(pid, 0)[1])
    return {"code": TIMED_OUT if late else code, "err": errors.decode("utf-8", "replace")}


def read(descriptor: int) -> bytes | None:
    """What is in a pipe now: nothing at its end, None if there may be more later."""
    try:
        return os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return None


def kill(group: int, number: int) -> None:
    """A signal to a call's process and those that it has started and not detached."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass


def exit_code(status: int) -> int:
    """As a shell gives it, from what wait(2) gave."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
