"""How many calls of a fake ran at once."""

from __future__ import annotations

import threading
import time


class AtOnce:
    """A fake calls `stay` for as long as it would be busy; ``most`` is how many were in it at once."""

    def __init__(self) -> None:
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def stay(self, seconds: float) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(seconds)
        with self._lock:
            self._now -= 1
