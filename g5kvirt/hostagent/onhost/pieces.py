"""The pieces of a log: ``LOG``, and older ones that were put aside as ``LOG.1``, ``LOG.2``, …

More than one of them is kept, so that a reader whose connection is broken for a while finds where it was.
"""

from __future__ import annotations

import contextlib
import os
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

OLDER = 3  #: pieces that are kept besides the newest one
_LONGEST_LINE = 16 << 10


def put_aside(path: str) -> None:
    """Make room for a new log; the oldest piece goes. Raises OSError."""
    for number in range(OLDER - 1, 0, -1):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}.{number}", f"{path}.{number + 1}")
    os.replace(path, f"{path}.1")


def newest_first(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """The pieces that are there.

    In the direction in which they are renamed: one that is renamed meanwhile may come twice, none is missed.
    """
    for piece in (path, *(f"{path}.{number}" for number in range(1, OLDER + 1))):
        with contextlib.suppress(FileNotFoundError):
            yield piece, os.stat(piece)


def number_of(file: IO[bytes]) -> int:
    """A number of a piece by which it is known again, above 0.

    From its inode, which a later file may get when this one is gone, and its first line, which has a time.
    """
    first, newline, _ = os.pread(file.fileno(), _LONGEST_LINE, 0).partition(b"\n")
    return zlib.crc32(first if newline else b"", os.fstat(file.fileno()).st_ino & 0xFFFFFFFF) or 1
