"""A plain HTTP proxy on this machine, as the package proxy of a site: GET for any address, passed on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

#: Headers of a request that matter to a mirror, and of its answer that matter to apt.
_ASKED = ("If-Modified-Since", "Range", "If-Range", "User-Agent")
_GIVEN = ("Content-Type", "Content-Length", "Content-Range", "Last-Modified", "Accept-Ranges")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Fetch it, and pass on what comes as it comes."""
        self.server.requested.append(self.path)  # type: ignore[attr-defined]
        asked = {name: self.headers[name] for name in _ASKED if name in self.headers}
        with requests.Session() as session:
            session.trust_env = False
            try:
                answer = session.get(
                    self.path, headers={**asked, "Accept-Encoding": "identity"}, stream=True, timeout=60
                )
            except requests.RequestException:
                self.send_error(502)
                return
            self.send_response(answer.status_code)
            for name in _GIVEN:
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            if "Content-Length" not in answer.headers and answer.status_code not in (204, 304):
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            with suppress(ConnectionError):  # apt has gone
                for piece in answer.iter_content(1 << 16):
                    self.wfile.write(piece)

    def log_message(self, *_: object) -> None:
        """Nothing is said."""


@contextmanager
def proxying() -> Iterator[tuple[str, list[str]]]:
    """The proxy's URL, and the addresses that it was asked for so far."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    requested: list[str] = []
    server.requested = requested  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", requested
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
