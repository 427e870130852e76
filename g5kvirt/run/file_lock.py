"""Exclusive locks on files, on every system."""

from __future__ import annotations

import errno
import os
import sys

__all__ = ["lock"]

if sys.platform == "win32":
    import msvcrt

    #: A byte that no file has, since other processes cannot read what is locked.
    _FAR = (1 << 31) - 2  # the C library counts in 32 bits

    def lock(descriptor: int) -> None:
        """Lock an open file for this process, until it is closed.

        Raises BlockingIOError if it is locked already, and OSError if its file system has no locks.
        """
        place = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(errno.EWOULDBLOCK, "locked by another process") from error
        finally:
            os.lseek(descriptor, place, os.SEEK_SET)

else:
    import fcntl

    def lock(descriptor: int) -> None:
        """Lock an open file for this process, until it is closed.

        Raises BlockingIOError if it is locked already, and OSError if its file system has no locks.
        """
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
