"""The structure of a zstd file, read without unpacking anything: Python has no zstd before 3.14.

Source: RFC 8878. A file is a sequence of frames; a frame is a header, which may hold the size of its content,
and blocks, each with a header of three bytes; skippable frames may lie between.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

__all__ = ["content_size"]

_MAGIC = 0xFD2FB528
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_RAW, _RLE, _COMPRESSED = 0, 1, 2


def content_size(path: Path) -> int:
    """Bytes of the file's content; 0 if its frames do not all hold that.

    Raises ValueError if it is not a whole zstd file, OSError if it cannot be read.
    """
    total, known, frames = 0, True, 0
    with path.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        while file.tell() < length:
            magic = _number(file, 4)
            if magic in _SKIPPABLE:
                _skip(file, _number(file, 4), length)
                continue
            if magic != _MAGIC:
                raise ValueError("not zstd" if not frames else "there is other data after the zstd data")
            size = _frame(file, length)
            total, known, frames = total + (size or 0), known and size is not None, frames + 1
    if not frames:
        raise ValueError("not zstd")
    return total if known else 0


def _frame(file: IO[bytes], length: int) -> int | None:
    """Go behind a frame; the size of its content, None if it does not hold it."""
    descriptor = _number(file, 1)
    single, checksum = bool(descriptor & 0x20), bool(descriptor & 0x04)
    if descriptor & 0x08:
        raise ValueError("not zstd")
    _skip(file, (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3], length)  # window, dictionary
    width = (int(single), 2, 4, 8)[descriptor >> 6]
    size = _number(file, width) + (256 if width == 2 else 0) if width else None
    last = False
    while not last:
        header = _number(file, 3)
        last, kind = bool(header & 1), header >> 1 & 3
        if kind not in (_RAW, _RLE, _COMPRESSED):
            raise ValueError("a block is corrupt")
        _skip(file, 1 if kind == _RLE else header >> 3, length)
    if checksum:
        _skip(file, 4, length)
    return size


def _number(file: IO[bytes], width: int) -> int:
    data = file.read(width)
    if len(data) < width:
        raise ValueError("it is truncated")
    return int.from_bytes(data, "little")


def _skip(file: IO[bytes], size: int, length: int) -> None:
    if file.seek(size, os.SEEK_CUR) > length:
        raise ValueError("it is truncated")
