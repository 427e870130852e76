"""A file by TFTP (RFC 1350, with RFC 2348's block size) from inside a guest."""

from __future__ import annotations

import contextlib
import socket
import struct
import time

from .http import TransferError
from .loop import READABLE, ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .netns import Home

BLOCK = 1432  #: bytes, as iPXE requests: with all headers one Ethernet frame
WAIT = 2.0  #: seconds until the last packet is sent again
TRIES = 8

_READ, _DATA, _ACKNOWLEDGE, _ERROR, _OPTIONS = 1, 3, 4, 5, 6


async def get(
    home: Home, ns: int, server: str, path: str, sink: Callable[[bytes], object], deadline: float
) -> int:
    """Fetch a file, block by block into ``sink``; returns its size. Raises TransferError."""
    with home.inside(ns):
        link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with link:
        link.setblocking(False)
        words = [path.lstrip("/"), "octet", "blksize", str(BLOCK)]
        packet = struct.pack("!H", _READ) + b"".join(word.encode() + b"\0" for word in words)
        peer: tuple[str, int] = (server, 69)
        expected, size, received, tries = 1, 512, 0, 0
        while True:
            try:
                link.sendto(packet, peer)
                data, peer = await _packet(link, server, expected, min(deadline, time.monotonic() + WAIT))
            except OSError as error:
                tries += 1
                if not isinstance(error, TimeoutError) or tries >= TRIES or time.monotonic() >= deadline:
                    raise TransferError(f"tftp://{server}/{path}: {error}") from None
                continue
            tries = 0
            if struct.unpack("!H", data[:2])[0] == _OPTIONS:
                size = block_size(data)
                packet = struct.pack("!HH", _ACKNOWLEDGE, 0)
                continue
            sink(data[4:])
            received += len(data) - 4
            packet = struct.pack("!HH", _ACKNOWLEDGE, expected & 0xFFFF)
            if len(data) - 4 < size:
                with contextlib.suppress(OSError):  # the file is here
                    link.sendto(packet, peer)
                return received
            expected += 1


def block_size(acknowledgement: bytes) -> int:
    """The block size that the server agrees to: it may be smaller than `BLOCK`. Raises TransferError."""
    words = acknowledgement[2:].split(b"\0")
    options = {name.lower(): value for name, value in zip(words[::2], words[1::2])}  # noqa: B905  Python 3.9
    value = options.get(b"blksize", b"512")
    if not value.isdigit() or not 8 <= int(value) <= BLOCK:
        raise TransferError(f"the server's block size is {value!r}")
    return int(value)


async def _packet(
    link: socket.socket, server: str, expected: int, until: float
) -> tuple[bytes, tuple[str, int]]:
    """The next packet that continues with the transfer. Raises TimeoutError, TransferError."""
    while True:
        await ready(link.fileno(), READABLE, until)
        try:
            data, peer = link.recvfrom(65536)
        except BlockingIOError:
            continue
        if peer[0] != server or len(data) < 4:
            continue
        kind, number = struct.unpack("!HH", data[:4])
        if kind == _ERROR:
            raise TransferError(data[4:].rstrip(b"\0").decode("utf-8", "replace") or f"error {number}")
        if (kind == _DATA and number == expected & 0xFFFF) or (kind == _OPTIONS and expected == 1):
            return data, peer
