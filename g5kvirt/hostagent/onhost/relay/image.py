"""The file on the RAM disk: as long as what has arrived, and checked by a process that follows behind."""

from __future__ import annotations

import hashlib
import os
import signal
import time

from ..processes import next_look
from .priority import set_scheduler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..records import Record

CHUNK = 256 << 10  #: bytes read at once; small enough for the processor's cache


class StoredFile:
    """The file on the RAM disk: as long as what has arrived, and checked by a process that follows behind."""

    def __init__(self, job: Record) -> None:
        self.size, self.sha256 = int(job["size"]), str(job["sha256"])
        self.source = job.get("source")
        if self.source:
            self.path = str(self.source)
            self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        else:
            os.makedirs(job["store"], mode=0o700, exist_ok=True)
            self.path = os.path.join(job["store"], self.sha256)
            self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self.have = os.fstat(self.fd).st_size
        if self.have > self.size or (self.source and self.have != self.size):
            raise ValueError(f"{self.path} has {self.have} bytes instead of {self.size}")
        self.sum = ""  #: the SHA-256 of the whole file, once known
        self.checker, self.result = self._start_checker()

    def append(self, data: memoryview) -> None:
        """Put further bytes at the end. Raises OSError if the RAM disk is full."""
        while data:
            written = os.pwrite(self.fd, data, self.have)
            self.have += written
            data = data[written:]

    def check_at_full_speed(self) -> None:
        """All is here: what is left to do is the checking."""
        set_scheduler(self.checker, os.SCHED_OTHER)

    def read_sum(self) -> None:
        """Read the checker's result: the sum, or that it ended without one."""
        self.sum = os.read(self.result, 64).decode("ascii") or "unknown: the verification was interrupted"

    def discard(self) -> None:
        """Give the room on the RAM disk back: the file will not be whole."""
        os.kill(self.checker, signal.SIGKILL)
        os.ftruncate(self.fd, 0)
        self.have = 0

    def close(self, remove: bool) -> None:
        """Close, and remove the file unless it was the job's source."""
        try:
            os.kill(self.checker, signal.SIGKILL)
            os.waitpid(self.checker, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self.result)
        if remove and not self.source:
            try:
                ours = os.path.samestat(os.stat(self.path), os.fstat(self.fd))
                if ours:  # and has not been replaced meanwhile by a broadcast of another kind
                    os.remove(self.path)
            except FileNotFoundError:
                pass
        os.close(self.fd)

    def _start_checker(self) -> tuple[int, int]:
        """The checker: a process that hashes what is there and waits for more, and the pipe of its result.

        A process and not a thread: while bytes arrive it takes only processor time that nothing else wants
        (the hosts behind us wait for the relaying, and at 1 Gb/s hashing costs more than that), and a thread
        that is kept waiting may hold the interpreter. It is begun before there is any connection to inherit.
        """
        result, answer = os.pipe()
        parent, pid = os.getpid(), os.fork()
        if pid:
            os.close(answer)
            return pid, result
        try:
            set_scheduler(0, os.SCHED_IDLE)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            digest, at, view = hashlib.sha256(), 0, memoryview(bytearray(CHUNK))
            last = time.monotonic()
            while at < self.size and os.getppid() == parent:
                got = os.preadv(self.fd, [view[: min(CHUNK, self.size - at)]], at)
                digest.update(view[:got])
                at += got
                if got:
                    last = time.monotonic()
                else:
                    time.sleep(next_look(last, 0.02))
            if at == self.size:
                os.write(answer, digest.hexdigest().encode())
        finally:
            os._exit(0)
