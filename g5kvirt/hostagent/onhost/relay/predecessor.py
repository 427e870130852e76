"""A relay's predecessors, from whom it takes the file, and single requests to them."""

from __future__ import annotations

import errno
import os
import re
import selectors
import socket

from .errors import NETWORK_ERRORS, error_text
from .http import HEADER_LIMIT, URL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..records import Record
    from .interface import RelayInterface


class Predecessor:
    """A predecessor, and what we know of it."""

    def __init__(self, record: Record) -> None:
        found = URL.fullmatch(str(record["url"]))
        if not found:
            raise ValueError(f"{record['url']!r} is not an http URL with a port")
        self.host = str(record["host"])
        self.address, self.port, self.path = found.group(1).strip("[]"), int(found.group(2)), found.group(3)
        self.has_answered = False
        self.connect_seconds = 0.0  # the least time that a connection to it has taken
        self.failures = 0
        self.retry_at = 0.0  # not before this time
        self.reason = ""
        self._found: tuple[socket.AddressFamily, int, tuple[Any, ...]] | None = None

    def resolve(self) -> tuple[socket.AddressFamily, int, tuple[Any, ...]]:
        """Family, protocol and address; looked up once, since it is probed often. Raises OSError."""
        if self._found is None:
            family, _, proto, _, where = socket.getaddrinfo(self.address, self.port, 0, socket.SOCK_STREAM)[0]
            self._found = family, proto, where
        return self._found

    def back_off(self, now: float) -> None:
        """Do not use it for a while, longer each time."""
        self.failures += 1
        self.retry_at = now + min(8.0, 0.25 * 2**self.failures)
        self._found = None  # another address may be right


class OutgoingRequest:
    """One request to a predecessor: a connection that never blocks, and the header of its answer.

    Raises OSError if not even a connection can be begun.
    """

    def __init__(
        self,
        relay: RelayInterface,
        peer: Predecessor,
        method: str,
        at: int,
        on_answer: Callable[[OutgoingRequest], object],
    ) -> None:
        self.relay, self.peer, self.on_answer = relay, peer, on_answer
        self.code, self.header, self.body_start = 0, b"", b""
        self.began, self.connected = relay.now, False
        self.error = ""
        family, proto, where = peer.resolve()
        self.sock = socket.socket(family, socket.SOCK_STREAM, proto)
        self.sock.setblocking(False)
        host = f"[{peer.address}]" if ":" in peer.address else peer.address
        lines = f"{method} {peer.path} HTTP/1.1\r\nHost: {host}:{peer.port}\r\nConnection: close\r\n"
        lines += f"Authorization: Bearer {relay.token.decode()}\r\n"
        self.request = (lines + (f"Range: bytes={at}-\r\n" if method == "GET" else "") + "\r\n").encode()
        code = self.sock.connect_ex(where)
        if code not in (0, errno.EINPROGRESS):
            self.sock.close()
            raise OSError(code, os.strerror(code))
        relay.selector.register(self.sock, selectors.EVENT_WRITE, self.ready)

    @property
    def age(self) -> float:
        """Seconds since it was made."""
        return self.relay.now - self.began

    def ready(self, mask: int) -> None:
        """Connected, or a part of the answer has arrived."""
        try:
            if mask & selectors.EVENT_WRITE:
                code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    raise OSError(code, os.strerror(code))
                self.connected = True
                self.peer.connect_seconds = min(self.peer.connect_seconds or self.age, self.age)
                self.sock.send(self.request)  # far smaller than a fresh connection's buffer
                self.relay.selector.modify(self.sock, selectors.EVENT_READ, self.ready)
                return
            data = self.sock.recv(HEADER_LIMIT)
            if not data:
                raise OSError("it closed the connection without an answer")
            self.body_start += data
            head, gap, rest = self.body_start.partition(b"\r\n\r\n")
            if gap:
                self.header, self.body_start = head + b"\r\n", rest
                found = re.match(rb"HTTP/1\.[01] (\d{3})\b", head)
                self.code = int(found.group(1)) if found else 0
                self.finish("" if found else "it does not speak HTTP")
            elif len(self.body_start) > HEADER_LIMIT:
                raise OSError("it does not speak HTTP")
        except BlockingIOError:
            return
        except NETWORK_ERRORS as error:
            self.finish(error_text(error))

    def finish(self, error: str) -> None:
        """The answer has arrived, or will not come."""
        self.error = error
        self.relay.selector.unregister(self.sock)
        if error:
            self.sock.close()
        self.on_answer(self)

    def cancel(self) -> None:
        """The answer is not needed any more."""
        if self.sock.fileno() >= 0:
            try:
                self.relay.selector.unregister(self.sock)
            except KeyError:
                pass
            self.sock.close()
