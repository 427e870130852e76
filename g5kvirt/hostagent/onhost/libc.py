"""Functions of the C library that Python 3.9 lacks. Each raises OSError."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWNET = 0x00020000, 0x04000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_REMOUNT = 2, 4, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18

#: Opened once: each opening makes two classes, and a guest enters namespaces dozens of times.
_LIBC = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Mount a file system, or change a mount. mount(8) would take a host 6 ms of a core."""
    words = [None if word is None else word.encode() for word in (source, target, kind)]
    if _LIBC.mount(*words, ctypes.c_ulong(flags), None if data is None else data.encode()):
        number = ctypes.get_errno()
        raise OSError(number, f"mount {source} on {target}: {os.strerror(number)}")


def setns(fd: int, kind: int) -> None:
    """Enter a namespace; Python has it from 3.12 on."""
    if hasattr(os, "setns"):
        os.setns(fd, kind)
    else:
        _call("setns", fd, kind)


def unshare(kinds: int) -> None:
    """Enter new namespaces."""
    if hasattr(os, "unshare"):
        os.unshare(kinds)
    else:
        _call("unshare", kinds)


def prctl(option: int, value: int) -> None:
    """Change what the kernel does with this process."""
    _call("prctl", option, value, 0, 0, 0)


def _call(name: str, *arguments: int) -> None:
    if getattr(_LIBC, name)(*arguments):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
