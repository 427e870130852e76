"""The logs of containers: what comes out of a pipe of each, in a file of the machine, with a bound."""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress
from pathlib import Path

__all__ = ["LIMIT", "ContainerLogs", "append"]

LIMIT = 4 << 20  #: bytes of a log before it is put aside; one older piece is kept


class ContainerLogs:
    """One thread that reads all pipes. Thread-safe."""

    def __init__(self) -> None:
        self._files: dict[int, Path] = {}
        self._poll = select.epoll()
        self._thread: threading.Thread | None = None

    def add(self, pipe: int, file: Path) -> None:
        """Append what comes out of ``pipe`` to ``file`` until its end, and close it then."""
        self._files[pipe] = file
        self._poll.register(pipe, select.EPOLLIN)
        if self._thread is None:
            self._thread = threading.Thread(target=self._copy, name="logs", daemon=True)
            self._thread.start()

    def _copy(self) -> None:
        while True:
            for pipe, _ in self._poll.poll():
                data = os.read(pipe, 1 << 16)
                if data:
                    with suppress(OSError):  # a full disk costs lines of a log, and no container
                        append(self._files[pipe], data)
                else:
                    self._poll.unregister(pipe)
                    del self._files[pipe]
                    os.close(pipe)


def append(path: Path, data: bytes) -> None:
    """Append to a log, which is put aside when it is long. Raises OSError."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
        file.write(data)
        full = file.tell() > LIMIT
    if full:
        path.replace(path.with_name(f"{path.name}.1"))
