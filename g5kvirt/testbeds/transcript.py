"""Commands and API requests to a testbed with their answers, verbatim, for bug reports.

``transcript.jsonl`` of a run's directory has one line for each command on a frontend and each request to the
API, with the time it took and its answer. It is bounded, and only its owner may read it. Nothing reads it but
``g5kvirt report``.
"""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from pathlib import Path

__all__ = ["FILES", "Transcript", "transcript"]

#: The files of a transcript in a run's directory, the older one first.
FILES = ("transcript-1.jsonl", "transcript.jsonl")

LONGEST_ANSWER = 64 << 10  #: characters that are kept of an answer
LARGEST_FILE = 2 << 20  #: bytes of a file before it takes the place of the older one
_WAITING = 200  #: exchanges that are kept until there is a run to which they belong


class Transcript:
    """Collects exchanges with a testbed; writes them once it knows where. Thread-safe, and never raises."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._waiting: deque[str] = deque(maxlen=_WAITING)
        self._last: dict[tuple[str, str], int] = {}  # hash of the last answer to a request
        self._lock = threading.Lock()

    def keep_in(self, folder: Path) -> None:
        """Write exchanges into this run's directory from now on, including those collected so far."""
        with self._lock:
            if folder == self._folder:
                return
            self._folder = folder
            self._last.clear()
            waiting, self._waiting = "".join(self._waiting), deque(maxlen=_WAITING)
            self._write(waiting)

    def note(
        self, to: str, request: str, answer: str, *, begin: float, end: float, status: int | str | None
    ) -> None:
        """One exchange. ``to``: a frontend or ``API``; ``status``: exit code, HTTP's status, what failed."""
        known = hash((status, answer))
        with self._lock:
            same = self._last.get((to, request)) == known
            if len(self._last) > 10_000:
                self._last.clear()
            self._last[to, request] = known
            line: dict[str, object] = {
                "t": round(begin, 3),
                "seconds": round(end - begin, 3),
                "to": to,
                "request": request[:LONGEST_ANSWER],
                "status": status,
            }
            if same and answer:  # as of a job that is polled
                line["same"] = True
            else:
                line["answer"] = answer[:LONGEST_ANSWER]
                if len(answer) > LONGEST_ANSWER:
                    line["cut"] = len(answer)
            text = json.dumps(line) + "\n"
            if self._folder is None:
                self._waiting.append(text)
            else:
                self._write(text)

    def _write(self, text: str) -> None:
        if self._folder is None or not text:
            return
        older, path = (self._folder / name for name in FILES)
        try:
            if path.exists() and path.stat().st_size + len(text) > LARGEST_FILE:
                path.replace(older)
                self._last.clear()  # a file has its answers in it
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(file, text.encode())
            finally:
                os.close(file)
        except OSError:  # a run does not fail because its report would be shorter
            return


#: That of this process: execo supports only one testbed in each.
transcript = Transcript()
