"""A thread that runs a socket server until it is stopped."""

from __future__ import annotations

import socketserver
import threading

__all__ = ["ServerThread"]


class ServerThread(threading.Thread):
    """Runs ``server`` in a daemon thread; `stop` ends it."""

    def __init__(self, server: socketserver.BaseServer, name: str) -> None:
        super().__init__(name=name, daemon=True, target=server.serve_forever, kwargs={"poll_interval": 0.05})
        self._server = server

    def stop(self) -> None:
        """Stop the server and close its socket."""
        self._server.shutdown()
        self._server.server_close()
        self.join(5)
