"""The lines of a journal, from its bytes."""

from __future__ import annotations

import json
import lzma
from collections.abc import Sequence
from pathlib import Path

from g5kvirt.errors import RunError
from g5kvirt.run.bulk import collector_paused
from g5kvirt.run.events import Event

__all__ = ["decompress", "parse"]

#: Bytes of a journal that are parsed at once: all of them would take several times the memory.
_AT_ONCE = 1 << 19
#: Bytes of a line at most: the longest of ours places all VMs, 140 bytes for each.
_LONGEST = 256 << 20
#: Bytes of a compressed journal, unpacked, and those that unpacking may take besides.
_LARGEST = 4 << 30
_MOST_MEMORY = 256 << 20


def parse(data: bytes, path: Path, before: int) -> tuple[list[Event], int]:
    """The events of ``data``, and how many bytes of it are complete lines; ``before`` lines precede them."""
    events: list[Event] = []
    whole, sound = data.rfind(b"\n") + 1, 0  # the last piece has no newline: torn or empty
    with collector_paused():
        while sound < whole:
            end = data.find(b"\n", min(sound + _AT_ONCE, whole - 1)) + 1
            if end - sound > _AT_ONCE + _LONGEST:
                return _line_by_line(data, sound, path, before, events)
            try:  # many lines as one document: a third of the time of a line each
                documents = json.loads(b"[" + data[sound:end].rstrip().replace(b"\n", b",") + b"]")
                events += [Event.from_plain(d) for d in documents]
            except (ValueError, KeyError, TypeError, RecursionError):
                return _line_by_line(data, sound, path, before, events)
            sound = end
    return events, sound


def _line_by_line(
    data: bytes, sound: int, path: Path, before: int, events: list[Event]
) -> tuple[list[Event], int]:
    rest, more = _parse_lines(data[sound:].split(b"\n"), path, before + len(events))
    return events + rest, sound + more


def _parse_lines(lines: Sequence[bytes], path: Path, before: int) -> tuple[list[Event], int]:
    """The same line by line, to find the invalid line; if it is the last one, it is torn."""
    events: list[Event] = []
    sound = 0
    for number, line in enumerate(lines[:-1], start=1):
        try:
            if len(line) > _LONGEST:
                raise ValueError(f"it is longer than {_LONGEST >> 20} MiB")
            events.append(Event.from_json(line.decode()))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if number == len(lines) - 1 and lines[-1] == b"":
                break
            raise RunError(
                f"{path}, line {before + number} is not an event ({error}): repair or remove that line"
            ) from error
        sound += len(line) + 1
    return events, sound


def decompress(path: Path) -> bytes:
    """All of a compressed journal. Raises RunError if it is damaged or too large, or OSError."""
    decompressor = lzma.LZMADecompressor(memlimit=_MOST_MEMORY)
    try:
        data = decompressor.decompress(path.read_bytes(), max_length=_LARGEST)
    except lzma.LZMAError as error:
        raise RunError(f"{path} is damaged ({error})") from error
    if decompressor.unused_data:
        raise RunError(f"{path} has data after its end: compress a journal as a whole")
    if not decompressor.eof:
        whole = len(data) == _LARGEST
        raise RunError(f"{path} is " + (f"larger than {_LARGEST:,} bytes" if whole else "not complete"))
    return data
