"""The ``follow`` operation: a stream of the lines that are appended to files."""

from __future__ import annotations

import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO, Any

    from .records import Record


def follow(request: Record, emit: Callable[[Record], object], input_is_open: bool) -> None:
    """Emit every line that is appended to the files, until our output has no reader any more.

    A file may not exist yet, or be rotated. ``offset`` is where the next line begins: given back as the
    start, nothing is lost or seen twice. A heartbeat is sent every 5 s.
    ``input_is_open``: the request did not come by standard input, so its end means that the reader is gone.
    """
    pause, beat = max(0.01, float(request.get("poll", 0.05))), 0.0
    until = time.monotonic() + float(request.get("seconds", 10 * 86400))
    files = {path: [None, int(offset), b""] for path, offset in request["files"].items()}
    hangup = select.poll()
    hangup.register(sys.stdout.fileno(), 0)
    if input_is_open:
        hangup.register(sys.stdin.fileno(), select.POLLIN)
    while time.monotonic() < until and not hangup.poll(0):
        for path, state in files.items():
            for line, offset in appended_lines(path, state):
                emit({"op": "follow", "file": path, "offset": offset, "line": line})
        if time.monotonic() - beat > 5.0:
            beat = time.monotonic()
            emit({"op": "follow", "t": time.time()})
        sys.stdout.flush()
        time.sleep(pause)


def appended_lines(path: str, state: list[Any]) -> Iterator[tuple[str, int]]:
    """New whole lines of a file with the offset behind each; ``state`` is [open file, offset, torn line]."""
    file: IO[bytes] | None = state[0]
    if file is None:
        try:
            file = state[0] = open(path, "rb")
        except FileNotFoundError:
            return
        if state[1] > os.fstat(file.fileno()).st_size:
            state[1] = 0
        file.seek(state[1])
    data = file.read()
    *lines, torn = (state[2] + data).split(b"\n")
    for line in lines:
        state[1] += len(line) + 1
        yield line.decode("utf-8", "replace"), state[1]
    state[2] = torn
    if not data:
        there = os.fstat(file.fileno())
        try:
            now = os.stat(path)
        except FileNotFoundError:
            return
        if (now.st_ino, now.st_dev) != (there.st_ino, there.st_dev) or now.st_size < state[1]:
            file.close()
            state[:] = [None, 0, b""]
