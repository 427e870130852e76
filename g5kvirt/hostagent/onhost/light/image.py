"""The images of a host's guests: fetched and verified by each guest, unpacked once for all of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time

from ..records import tail
from .loop import READABLE, Signal, ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO

    from .loop import Loop

#: Device files are left out: the host's /dev is over them, and a container may not make any.
_TAR = ["tar", "-x", "--numeric-owner", "--anchored", "--exclude=dev/*", "--exclude=./dev/*"]
_FLAGS = {"none": [], "gzip": ["-z"], "bzip2": ["-j"], "xz": ["-J"], "zstd": ["--zstd"]}
#: Seconds to unpack an image.
LIMIT = 300.0
#: Bytes that an image may have unpacked: a small archive may hold very much of nothing.
MOST = 2 << 30
_LOOK = 0.25  #: seconds between two looks at how many there are by now


class ImageStore:
    """Unpacked images below ``place``, by their SHA-256."""

    def __init__(self, place: str, loop: Loop) -> None:
        self._place = place
        self._loop = loop
        self._released = Signal()
        self._writers: dict[str, Writer] = {}
        shutil.rmtree(place, ignore_errors=True)  # of a process that was killed: nobody knows what is whole
        os.makedirs(place, mode=0o700)

    def directory(self, sha256: str) -> str:
        """Where an image is, or will be."""
        return f"{self._place}/{sha256}"

    def is_ready(self, sha256: str) -> bool:
        """Whether it is there, complete."""
        return os.path.isdir(self.directory(sha256))

    def writer(self, sha256: str) -> Writer | None:
        """For the guest that writes the image; None if it is there, or another guest is at it."""
        if self.is_ready(sha256) or sha256 in self._writers:
            return None
        self._writers[sha256] = writer = Writer(self, sha256)
        return writer

    async def written(self, sha256: str) -> None:
        """Wait until no guest is at it."""
        while sha256 in self._writers:
            await self._released.wait(float("inf"))

    def release(self, sha256: str) -> None:
        """Its writer has ended."""
        self._writers.pop(sha256, None)
        self._loop.fire(self._released)


class Writer:
    """One guest's copy of an image, on its way to be unpacked; `close` in any case."""

    def __init__(self, store: ImageStore, sha256: str) -> None:
        self._store = store
        self._sha256 = sha256
        self._file = f"{store.directory(sha256)}.tar"
        self._aside = f"{store.directory(sha256)}.new"
        self._open: IO[bytes] = open(self._file, "wb", buffering=0)

    def write(self, data: bytes | memoryview) -> None:
        """The next piece."""
        self._open.write(data)

    async def unpack(self, compression: str) -> str:
        """Unpack what was written; returns why that failed, empty if it did not."""
        if compression == "zstd" and shutil.which("zstd") is None:  # tar calls it
            return "the host has no zstd: install that package, or compress the image with gzip"
        os.makedirs(self._aside)
        argv = [*_TAR, *_FLAGS[compression], "-f", self._file, "-C", self._aside]
        said = f"{self._file}.said"
        with open(said, "wb") as errors:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
            )
        ended = -1
        try:
            ended = os.pidfd_open(process.pid)
            deadline = time.monotonic() + LIMIT
            before = self._free()
            has_ended = False
            while not has_ended:
                with contextlib.suppress(TimeoutError):
                    await ready(ended, READABLE, time.monotonic() + _LOOK)
                has_ended = process.poll() is not None
                if not has_ended and time.monotonic() > deadline:
                    return f"not unpacked within {LIMIT:g} s"
                if before - self._free() > MOST:
                    return f"it unpacks to more than {MOST >> 20} MiB, which a host keeps in its memory"
            # tar's last line says only that there was an error
            message = [line for line in tail(said).splitlines() if "due to previous errors" not in line]
        finally:
            process.kill()
            process.wait()
            if ended >= 0:
                os.close(ended)
            os.remove(said)
        if process.returncode:
            return message[-1] if message else f"tar ended with {process.returncode}"
        os.rename(self._aside, self._store.directory(self._sha256))
        return ""

    def _free(self) -> int:
        """Bytes that are free where it is unpacked."""
        there = os.statvfs(self._aside)
        return there.f_bfree * there.f_frsize

    def close(self) -> None:
        """Nothing but a complete image stays."""
        self._store.release(self._sha256)
        self._open.close()
        os.remove(self._file)
        shutil.rmtree(self._aside, ignore_errors=True)
