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

#: Seconds for which a file that was put aside is still read: not all processes let go of it at once.
LINGER = 2.0
MOST = 1 << 20  #: bytes that are read at once


def follow(request: Record, emit: Callable[[Record], object], input_is_open: bool) -> None:
    """Emit every line that is appended to the files, until our output has no reader any more.

    A file may not exist yet, or be rotated: what was put aside as ``FILE.1`` is read first. With each line
    come the ``offset`` where the next one begins, and the file's ``inode``: given back as the start, nothing
    is lost or seen twice. A heartbeat is sent every 5 s.
    ``input_is_open``: the request did not come by standard input, so its end means that the reader is gone.
    """
    pause, beat = max(0.01, float(request.get("poll", 0.05))), 0.0
    until = time.monotonic() + float(request.get("seconds", 10 * 86400))
    inodes = request.get("inodes", {})
    files = [Followed(path, int(offset), inodes.get(path)) for path, offset in request["files"].items()]
    hangup = select.poll()
    hangup.register(sys.stdout.fileno(), 0)
    if input_is_open:
        hangup.register(sys.stdin.fileno(), select.POLLIN)
    while time.monotonic() < until and not hangup.poll(0):
        for file in files:
            for line in file.appended():
                emit({"op": "follow", "file": file.path, **line})
        if time.monotonic() - beat > 5.0:
            beat = time.monotonic()
            emit({"op": "follow", "t": time.time()})
        sys.stdout.flush()
        time.sleep(pause)


class Followed:
    """A file that grows, and that is put aside as ``PATH.1`` from time to time."""

    def __init__(self, path: str, offset: int, inode: int | None) -> None:
        self.path = path
        self._offset = offset
        self._inode = inode  # None: from the beginning of all that is there
        self._file: IO[bytes] | None = None
        self._torn = b""
        self._replaced = 0.0  # when there was first another file in its place

    def appended(self) -> Iterator[dict[str, Any]]:
        """New whole lines, each with the offset behind it and the file's inode."""
        if self._file is None and not self._open():
            return
        assert self._file is not None
        data = self._file.read(MOST)
        *lines, self._torn = (self._torn + data).split(b"\n")
        for line in lines:
            self._offset += len(line) + 1
            text = line.decode("utf-8", "replace")
            yield {"offset": self._offset, "inode": self._inode, "line": text}
        if not data:
            self._close_if_replaced()

    def _open(self) -> bool:
        """Where we were, else from the beginning: of the piece that was put aside, if there is one."""
        older = [f"{self.path}.1"] if self._inode is not None or self._offset == 0 else []
        for path in (*older, self.path):
            try:
                file = open(path, "rb")
            except FileNotFoundError:
                continue
            found = os.fstat(file.fileno())
            if self._inode in (None, found.st_ino):
                if self._offset > found.st_size or not begins_line(file, self._offset):
                    self._offset = 0  # emptied, or another file with the number of one that is gone
                self._file, self._inode = file, found.st_ino
                file.seek(self._offset)
                return True
            file.close()
        if self._inode is not None:  # that one is gone, with its lines
            self._inode, self._offset = None, 0
            return self._open()
        return False

    def _close_if_replaced(self) -> None:
        """Go on with the file that is now in its place, if this one has been put aside, or with its beginning
        if it has been emptied.
        """
        assert self._file is not None
        try:
            now = os.stat(self.path)
        except FileNotFoundError:
            return
        if now.st_ino != self._inode:
            self._replaced = self._replaced or time.monotonic()
            if time.monotonic() - self._replaced < LINGER:
                return
            self._inode = now.st_ino
        elif now.st_size >= self._offset:
            return
        self._file.close()
        self._file, self._offset, self._torn, self._replaced = None, 0, b"", 0.0


def begins_line(file: IO[bytes], offset: int) -> bool:
    """Whether a line begins there."""
    file.seek(max(0, offset - 1))
    return offset == 0 or file.read(1) == b"\n"
