"""Which task each guest of this host has now: one request per server for all of them, while they wait."""

from __future__ import annotations

import time

from . import http
from .loop import Signal, sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .loop import Loop
    from .netns import Home

#: Seconds that a server is still read after the last guest has stopped waiting: most come back soon.
LINGER = 60.0


class Server:
    """What one server announces."""

    def __init__(self) -> None:
        self.tasks: dict[str, str] = {}  # guest → task
        self.changed = Signal()
        self.waiting = 0
        self.left = time.monotonic()  # when a guest stopped waiting


class Announcements:
    """Reads what servers announce for ``host``, while anybody waits for a task."""

    def __init__(self, home: Home, loop: Loop) -> None:
        self._home = home
        self._loop = loop
        self._servers: dict[str, Server] = {}

    async def next_task(self, url: str, host: str, guest: str, poll: float, done: str) -> str:
        """The task of a guest, once there is one that is not ``done``. Idle guests take no processor time."""
        while True:
            if url not in self._servers:
                self._servers[url] = Server()
                self._loop.spawn(self._follow(url, host, poll))
            server = self._servers[url]
            if server.tasks.get(guest, done) != done:
                return server.tasks[guest]
            server.waiting += 1
            try:
                await server.changed.wait(time.monotonic() + LINGER)
            except TimeoutError:  # is anybody still reading?
                pass
            finally:
                server.waiting -= 1
                server.left = time.monotonic()

    async def _follow(self, url: str, host: str, poll: float) -> None:
        server = self._servers[url]
        try:
            while server.waiting or time.monotonic() - server.left < LINGER:
                tasks = await self._read(f"{url}/task/@{host}")
                if tasks != server.tasks:
                    server.tasks = tasks
                    self._loop.fire(server.changed)
                await sleep(poll)
        finally:
            del self._servers[url]

    async def _read(self, url: str) -> dict[str, str]:
        """Guest → task; nothing where nothing is announced."""
        text = bytearray()
        try:
            await http.get(self._home, self._home.fd, url, text.extend, time.monotonic() + 30.0)
        except (OSError, ValueError):
            return {}
        lines = text.decode("utf-8", "replace").splitlines()
        return dict(line.split(" ", 1) for line in lines if " " in line)
