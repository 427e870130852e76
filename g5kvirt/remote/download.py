"""What commands on hosts print, of any size: read while it comes, from several hosts in parallel."""

from __future__ import annotations

import io
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TypeVar

from g5kvirt.remote.access import Access
from g5kvirt.remote.envelope import Capture, new_token, script
from g5kvirt.remote.processes import spawn, terminate
from g5kvirt.remote.result import Failure, Result, retry_delay
from g5kvirt.remote.window import REPLY_SECONDS, make_result

__all__ = ["download"]

#: Connections to one host, at most.
ATTEMPTS = 4

T = TypeVar("T")


def download(
    access: Access,
    commands: Mapping[str, Sequence[str]],
    read: Callable[[str, IO[bytes]], T],
    *,
    timeout: float,
    window: int = 8,
) -> dict[str, tuple[Result, T | BaseException | None]]:
    """Run a command (arguments) on each host and give its standard output to ``read(host, stream)``.

    ``read`` is called in a thread, once for each host where the command began. Returns each host's result,
    without output, and what ``read`` returned or raised, None where it was not called. ``timeout``: seconds
    for a host. At most ``window`` hosts at once. A refused connection is tried again. Raises MachineError if
    ssh is missing; an interrupt ends all of them.
    """
    running: set[subprocess.Popen[bytes]] = set()
    over = threading.Event()

    def one(host: str) -> tuple[Result, T | BaseException | None]:
        for attempt in range(1, ATTEMPTS + 1):
            result, kind, value = _run(access, host, commands[host], read, timeout, attempt, running)
            delay = None if kind is None else retry_delay(kind, attempt, ATTEMPTS)
            if delay is None or over.wait(delay):
                break
        return result, value

    with ThreadPoolExecutor(max(1, min(window, len(commands))), "download") as pool:
        try:
            return dict(zip(commands, pool.map(one, commands), strict=True))
        except BaseException:
            over.set()
            pool.shutdown(wait=False, cancel_futures=True)
            terminate(list(running))
            raise


def _run(
    access: Access,
    host: str,
    argv: Sequence[str],
    read: Callable[[str, IO[bytes]], T],
    timeout: float,
    attempt: int,
    running: set[subprocess.Popen[bytes]],
) -> tuple[Result, Failure | None, T | BaseException | None]:
    """One connection: its result, the kind of failure if the command did not begin, what ``read`` gave."""
    token, start = new_token(), time.time()
    capture = Capture(host, token)
    process = spawn(access.argv(host, script(token, argv, timeout)), env=access.environment())
    running.add(process)
    late = threading.Event()
    assert process.stderr is not None
    # A descriptor of its own: `terminate` closes that of the process, maybe while the thread reads.
    pipe = os.dup(process.stderr.fileno())
    errors = threading.Thread(target=_read_errors, args=(pipe, capture), daemon=True)
    limit = access.login_timeout + timeout + REPLY_SECONDS
    timer = threading.Timer(limit, _end, (process, late))
    timer.daemon = True
    value: T | BaseException | None = None
    try:
        errors.start()
        timer.start()
        assert process.stdout is not None
        try:
            with open(process.stdout.fileno(), "rb", 1 << 18, closefd=False) as stream:
                assert isinstance(stream, io.BufferedReader)
                if stream.peek(1):
                    value = read(host, stream)
                while stream.read(1 << 18):  # what nobody wanted must not keep the command from its end
                    pass
        except Exception as error:  # noqa: BLE001  of this host alone, and returned
            value = error
            terminate([process])
        process.wait(limit)
        errors.join(REPLY_SECONDS)
    finally:
        timer.cancel()
        terminate([process])
        running.discard(process)
    reason = f"timed out: still running after {limit:g} s" if late.is_set() else ""
    result, kind = make_result(capture, timeout, start, time.time(), attempt, reason)
    return result, kind, value if result.started else None


def _end(process: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    process.kill()


def _read_errors(pipe: int, capture: Capture) -> None:
    with open(pipe, "rb", 0) as stream:
        while data := stream.read(1 << 14):
            capture.feed_stderr(data, time.time())
