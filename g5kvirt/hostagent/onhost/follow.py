"""The ``follow`` operation: a stream of the lines that are appended to files."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time

from .pieces import newest_first, number_of

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

    A file may not exist yet, or be rotated: what was put aside (see `pieces`) is read first. With each line
    come the ``offset`` where the next one begins, and the number of its ``piece``: given back as the start,
    nothing is lost or seen twice. A heartbeat is sent every 5 s.
    ``input_is_open``: the request did not come by standard input, so its end means that the reader is gone.
    """
    pause, beat = max(0.01, float(request.get("poll", 0.05))), 0.0
    until = time.monotonic() + float(request.get("seconds", 10 * 86400))
    pieces = request.get("pieces", {})
    files = [Followed(path, int(offset), pieces.get(path)) for path, offset in request["files"].items()]
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
    """A file that grows, and that is put aside from time to time."""

    def __init__(self, path: str, offset: int, piece: int | None) -> None:
        self.path = path
        self._offset = offset
        self._piece = piece  # its number; None: from the beginning of all that is there
        self._file: IO[bytes] | None = None
        self._torn = b""
        self._replaced = 0.0  # when there was first another file in its place

    def appended(self) -> Iterator[dict[str, Any]]:
        """New whole lines, each with the offset behind it and the number of its piece."""
        if self._file is None and not self._open():
            return
        assert self._file is not None
        data = self._file.read(MOST)
        *lines, self._torn = (self._torn + data).split(b"\n")
        if lines:
            self._piece = number_of(self._file)  # its first line is whole now
        for line in lines:
            self._offset += len(line) + 1
            text = line.decode("utf-8", "replace")
            yield {"offset": self._offset, "piece": self._piece, "line": text}
        if not data:
            self._close_if_replaced()

    def _open(self) -> bool:
        """Where we were, else from the beginning: of the oldest piece that was put aside, if there is one."""
        file = self._find()
        if file is None and self._piece is not None:  # that one is gone, with its lines
            self._piece, self._offset = None, 0
            file = self._find()
        if file is None:
            return False
        if self._offset > os.fstat(file.fileno()).st_size or not begins_line(file, self._offset):
            self._offset = 0  # emptied
        self._file = file
        file.seek(self._offset)
        return True

    def _find(self) -> IO[bytes] | None:
        """The piece where we were, or to begin with; None if it is not there."""
        only_newest = self._piece is None and self._offset
        paths = [self.path] if only_newest else [path for path, _ in newest_first(self.path)]
        for path in reversed(paths):
            with contextlib.suppress(FileNotFoundError):
                file = open(path, "rb")
                if self._piece in (None, number_of(file)):
                    return file
                file.close()
        return None

    def _close_if_replaced(self) -> None:
        """Go on with the next piece, if this one has been put aside, or with its beginning if it has been
        emptied.
        """
        assert self._file is not None
        here = os.fstat(self._file.fileno())
        newer, path = None, ""
        for path, found in newest_first(self.path):
            if found.st_ino == here.st_ino:
                break
            newer = path
        else:
            path = ""  # it is gone: all that is there is newer
        if newer is not None:
            self._replaced = self._replaced or time.monotonic()
            if time.monotonic() - self._replaced < LINGER:
                return
            self._file.close()
            self._offset, self._torn, self._replaced = 0, b"", 0.0
            self._open_next(here.st_ino)
        elif path == self.path and here.st_size < self._offset:
            self._file.seek(0)
            self._offset, self._torn = 0, b""

    def _open_next(self, inode: int) -> None:
        """The piece after the one with this inode, or the oldest one if that is gone."""
        file = None
        for path, found in newest_first(self.path):
            if found.st_ino == inode:
                break
            with contextlib.suppress(FileNotFoundError):
                candidate = open(path, "rb")
                if file is not None:
                    file.close()
                file = candidate
        self._file, self._piece = file, None


def begins_line(file: IO[bytes], offset: int) -> bool:
    """Whether a line begins there."""
    file.seek(max(0, offset - 1))
    return offset == 0 or file.read(1) == b"\n"
