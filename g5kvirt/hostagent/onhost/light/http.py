"""A GET request (HTTP/1.1, one per connection) from inside a guest."""

from __future__ import annotations

import socket
import time

from .loop import READABLE, WRITABLE, ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .netns import Home

    Sink = Callable[[memoryview], object]

#: Into which everything is read: a piece is used before another guest has its turn. Memory of its own for
#: each, of some 100 KB, left every host with 4 MB of gaps.
_BUFFER = memoryview(bytearray(1 << 18))
#: Seconds without a byte after which a transfer is given up.
SILENCE = 60.0


class TransferError(OSError):
    """The file could not be fetched."""


def split(url: str) -> tuple[str, int, str]:
    """Address, port and path of ``http://ADDRESS[:PORT]/PATH``. Raises TransferError for anything else."""
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    address, _, port = place.partition(":")
    try:
        socket.inet_aton(address)
        number = int(port or 80)
    except (OSError, ValueError):
        number = 0
    if scheme != "http" or not slash or not number:
        raise TransferError(f"{url} is not http://ADDRESS:PORT/PATH")
    return address, number, "/" + path


async def get(home: Home, ns: int, url: str, sink: Sink, deadline: float) -> int:
    """Fetch a file, piece by piece into ``sink``, which keeps none of them; returns its size.

    Raises TransferError.
    """
    address, port, path = split(url)
    with home.inside(ns):
        link = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with link:
        link.setblocking(False)
        try:
            return await _exchange(link, (address, port), path, sink, deadline)
        except TransferError as error:
            raise TransferError(f"{url}: {error}") from None
        except OSError as error:
            raise TransferError(f"{url}: {error.strerror or error}") from None


async def _exchange(
    link: socket.socket,
    server: tuple[str, int],
    path: str,
    sink: Sink,
    deadline: float,
) -> int:
    link.connect_ex(server)
    await ready(link.fileno(), WRITABLE, min(deadline, time.monotonic() + SILENCE))
    failure = link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if failure:
        raise OSError(failure, f"{server[0]}:{server[1]} cannot be reached (error {failure})")
    link.send(f"GET {path} HTTP/1.1\r\nHost: {server[0]}\r\nConnection: close\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        data = await _receive(link, deadline)
        if not data or len(head) > 1 << 16:
            raise TransferError("the server closed the connection")
        head += data
    head, _, rest = head.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    if first.split(" ")[1:2] != ["200"]:
        raise TransferError(f"the server answered {first[:80]!r}")
    if "transfer-encoding" in fields:
        raise TransferError(f"the server sends it {fields['transfer-encoding']}, which is not supported")
    length = fields.get("content-length", "")
    size = int(length) if length.isascii() and length.isdigit() else -1
    received = len(rest)
    sink(memoryview(rest))
    while received != size:
        data = await _receive(link, deadline)
        if not data:
            break
        received += len(data)
        sink(data)
    if size >= 0 and received != size:
        raise TransferError(f"{received} of {size} bytes came")
    return received


async def _receive(link: socket.socket, deadline: float) -> memoryview:
    while True:
        await ready(link.fileno(), READABLE, min(deadline, time.monotonic() + SILENCE))
        try:
            return _BUFFER[: link.recv_into(_BUFFER)]
        except BlockingIOError:
            continue
