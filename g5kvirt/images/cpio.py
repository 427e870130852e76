"""Initramfs archives in the kernel's own format ("newc"), written the same way every time."""

from __future__ import annotations

import stat
from dataclasses import dataclass

__all__ = ["Entry", "archive", "device", "directory", "regular", "symlink"]


@dataclass(frozen=True)
class Entry:
    """A file, directory, link or device node of an archive; owned by root, without a time."""

    path: str  #: relative, without a leading slash
    mode: int  #: type and permissions
    data: bytes = b""
    device: tuple[int, int] = (0, 0)  #: major and minor number


def directory(path: str, mode: int = 0o755) -> Entry:
    """A directory."""
    return Entry(path, stat.S_IFDIR | mode)


def regular(path: str, data: bytes, mode: int = 0o644) -> Entry:
    """A file."""
    return Entry(path, stat.S_IFREG | mode, data)


def symlink(path: str, target: str) -> Entry:
    """A symbolic link."""
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def device(path: str, major: int, minor: int, mode: int = 0o600) -> Entry:
    """A character device."""
    return Entry(path, stat.S_IFCHR | mode, device=(major, minor))


def archive(entries: list[Entry]) -> bytes:
    """The archive (format: Documentation/driver-api/early-userspace/buffer-format.rst of Linux)."""
    pieces = [_record(entry, number) for number, entry in enumerate(entries, start=1)]
    return b"".join([*pieces, _record(Entry("TRAILER!!!", 0), 0)])


def _record(entry: Entry, inode: int) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    numbers = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    header = b"070701" + b"".join(b"%08x" % number for number in numbers)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
