"""GET requests (HTTP/1.1) from inside a guest."""

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


class ClosedError(OSError):
    """The server has closed the connection before it answered."""


class Client:
    """GET requests of one guest. A connection is kept for the next request to its server, as iPXE does."""

    def __init__(self, home: Home, ns: int) -> None:
        self._home = home
        self._ns = ns
        self._links: dict[tuple[str, int], socket.socket] = {}

    async def get(self, url: str, sink: Sink, deadline: float) -> int:
        """Fetch a file, piece by piece into ``sink``, which keeps none of them; returns its size.

        Raises TransferError.
        """
        address, port, path = split(url)
        server = (address, port)
        try:
            link = self._links.pop(server, None)
            if link is not None:
                try:
                    return await self._exchange(link, server, path, sink, deadline)
                except ClosedError:  # it has been idle for too long
                    pass
            link = await self._connect(server, deadline)
            return await self._exchange(link, server, path, sink, deadline)
        except TransferError as error:
            raise TransferError(f"{url}: {error}") from None
        except OSError as error:
            raise TransferError(f"{url}: {error.strerror or error}") from None

    def close(self) -> None:
        """End all connections."""
        for link in self._links.values():
            link.close()
        self._links.clear()

    async def _connect(self, server: tuple[str, int], deadline: float) -> socket.socket:
        with self._home.inside(self._ns):
            link = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            link.setblocking(False)
            link.connect_ex(server)
            await ready(link.fileno(), WRITABLE, min(deadline, time.monotonic() + SILENCE))
            failure = link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failure:
                raise OSError(failure, f"{server[0]}:{server[1]} cannot be reached (error {failure})")
        except BaseException:
            link.close()
            raise
        return link

    async def _exchange(
        self, link: socket.socket, server: tuple[str, int], path: str, sink: Sink, deadline: float
    ) -> int:
        """One request and its answer; ``link`` is kept or closed."""
        try:
            size, is_open = await _exchange(link, server[0], path, sink, deadline)
        except BaseException:
            link.close()
            raise
        if is_open:
            self._links[server] = link
        else:
            link.close()
        return size


async def get(home: Home, ns: int, url: str, sink: Sink, deadline: float) -> int:
    """`Client.get` over a connection of its own."""
    client = Client(home, ns)
    try:
        return await client.get(url, sink, deadline)
    finally:
        client.close()


async def _exchange(
    link: socket.socket, host: str, path: str, sink: Sink, deadline: float
) -> tuple[int, bool]:
    """The size of what has come, and whether the server leaves the connection open."""
    try:
        link.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        head = bytes(await _receive(link, deadline))
    except ConnectionError as error:
        raise ClosedError(error.errno, error.strerror) from None
    if not head:
        raise ClosedError("the server closed the connection")
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
    while received < size or size < 0:
        data = await _receive(link, deadline)
        if not data:
            break
        received += len(data)
        sink(data)
    if size >= 0 and received != size:
        raise TransferError(f"{received} of {size} bytes came")
    is_open = size >= 0 and first.startswith("HTTP/1.1") and fields.get("connection", "").lower() != "close"
    return received, is_open


async def _receive(link: socket.socket, deadline: float) -> memoryview:
    while True:
        await ready(link.fileno(), READABLE, min(deadline, time.monotonic() + SILENCE))
        try:
            return _BUFFER[: link.recv_into(_BUFFER)]
        except BlockingIOError:
            continue
