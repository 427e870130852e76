"""Which task each guest of this host has now: one request per server for all of them, while they wait."""

from __future__ import annotations

import time

from . import http
from .loop import sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .loop import Loop
    from .netns import Home


class Announcements:
    """Reads what servers announce for ``host``, while anybody has looked in the last minute."""

    def __init__(self, home: Home, loop: Loop) -> None:
        self._home = home
        self._loop = loop
        self._tasks: dict[str, dict[str, str]] = {}  # server → guest → task
        self._looked: dict[str, float] = {}

    def task(self, server: str, host: str, guest: str, poll: float) -> str:
        """The task of a guest, as far as known; empty for none."""
        if server not in self._looked:
            self._loop.spawn(self._follow(server, host, poll))
        self._looked[server] = time.monotonic()
        return self._tasks.get(server, {}).get(guest, "")

    async def _follow(self, server: str, host: str, poll: float) -> None:
        try:
            await self._read(server, host, poll)
        finally:
            self._looked.pop(server, None)
            self._tasks.pop(server, None)

    async def _read(self, server: str, host: str, poll: float) -> None:
        while time.monotonic() - self._looked[server] < 60.0:
            pieces: list[bytes] = []
            try:
                deadline = time.monotonic() + 30.0
                await http.get(self._home, self._home.fd, f"{server}/task/@{host}", pieces.append, deadline)
            except (OSError, ValueError):  # nothing is announced
                pieces = []
            lines = b"".join(pieces).decode("utf-8", "replace").splitlines()
            self._tasks[server] = dict(line.split(" ", 1) for line in lines if " " in line)
            await sleep(poll)
