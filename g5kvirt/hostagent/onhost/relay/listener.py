"""The sockets on which a relay listens."""

from __future__ import annotations

import errno
import socket
import time

from .errors import error_text


def listen(address: str, port: int) -> socket.socket:
    """A listening socket that never blocks. An address still held by a relay before us gets 2 s.

    Raises OSError if the address is not available.
    """
    family, kind, proto, _, where = socket.getaddrinfo(
        address, port, 0, socket.SOCK_STREAM, 0, socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, proto)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    use_cubic(listener)
    for left in range(20, -1, -1):
        try:
            listener.bind(where)
            break
        except OSError as error:
            if not left or error.errno != errno.EADDRINUSE:
                listener.close()
                raise OSError(f"cannot listen on {address}:{port}: {error_text(error)}") from None
            time.sleep(0.1)
    listener.listen(256)
    listener.setblocking(False)
    return listener


def use_cubic(listener: socket.socket) -> None:
    """Have the connections of a listening socket keep their links full, if that is allowed here.

    BBR empties its link for 0.2 s every 10 s to measure it; down a chain the pauses of all hops add up.
    """
    try:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    except OSError:
        pass


def accept(listener: socket.socket) -> socket.socket | None:
    """The next client's connection; None if it is gone again, or no descriptor is left for it."""
    try:
        sock, _ = listener.accept()
    except OSError:
        return None
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000)
    return sock
