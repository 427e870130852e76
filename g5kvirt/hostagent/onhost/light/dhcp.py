"""DHCP (RFC 2131) by raw packets, as a firmware without an address does it."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import time

from .loop import READABLE, ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .netns import Home

DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6

#: Seconds until a message is sent again, doubled each time up to the last: 1,000 guests that repeat after 2 s
#: keep a busy server busy.
FIRST_WAIT, LONGEST_WAIT = 4.0, 16.0

_MAGIC = b"\x63\x82\x53\x63"
#: Subnet mask, router, DNS servers, host name, boot file.
_WANTED = bytes([1, 3, 6, 12, 67])
#: By which iPXE is recognised: its own option 175 (here "bus id"), and its user class.
_IPXE = b"\xaf\x06\xb1\x04\x01\x10\x00\x00" + b"\x4d\x04iPXE"

#: For the kernel (classic BPF): UDP to port 68 and nothing else, or broadcasts of others wake every guest.
_FILTER = (
    (0x30, 0, 0, 23),  # ldb [23]: the protocol
    (0x15, 0, 3, 17),  # UDP?
    (0x28, 0, 0, 36),  # ldh [36]: the destination port
    (0x15, 0, 1, 68),
    (0x06, 0, 0, 0xFFFF),
    (0x06, 0, 0, 0),
)
_PROGRAM = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _FILTER))
_SO_ATTACH_FILTER = 26


class Lease:
    """What a server gave: address, netmask and DNS servers as text, boot file, next server, name."""

    __slots__ = ("address", "dns", "file", "name", "netmask", "next_server", "server")

    def __init__(self, message: bytes, options: dict[int, bytes]) -> None:
        self.address = socket.inet_ntoa(message[16:20])
        mask = options.get(1, b"")
        self.netmask = socket.inet_ntoa(mask if len(mask) == 4 else b"\xff\xff\xff\xff")
        dns = options.get(6, b"")
        self.dns = tuple(socket.inet_ntoa(dns[at : at + 4]) for at in range(0, len(dns) - 3, 4))
        file = options.get(67) or message[108:236]
        self.file = file.split(b"\0")[0].decode("ascii", "replace")
        self.next_server = socket.inet_ntoa(message[20:24])
        self.server = options.get(54, b"\0\0\0\0")
        self.name = options.get(12, b"").decode("ascii", "replace")


def frame(mac: bytes, xid: int, kind: int, extra: bytes) -> bytes:
    """An Ethernet frame with a DHCP message of ``kind``; ``extra``: further options, encoded."""
    options = _MAGIC + bytes([53, 1, kind]) + bytes([55, len(_WANTED)]) + _WANTED + extra + b"\xff"
    message = struct.pack("!BBBBIHH16x16s192x", 1, 1, 6, 0, xid, 0, 0, mac) + options
    message = message.ljust(300, b"\0")
    udp = struct.pack("!HHHH", 68, 67, 8 + len(message), 0) + message
    head = struct.pack("!BBHHHBBH4x4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, b"\xff" * 4)
    total = sum(struct.unpack("!10H", head))
    total = (total >> 16) + (total & 0xFFFF)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    return b"\xff" * 6 + mac + b"\x08\x00" + head + udp


def parse(data: bytes, mac: bytes, xid: int) -> tuple[int, Lease] | None:
    """The kind of an answer to ``mac`` and ``xid``, with what it gives; None for any other frame."""
    if len(data) < 42 + 240 or data[23] != 17 or data[34:38] != b"\0\x43\0\x44":
        return None
    message = data[42:]
    (number,) = struct.unpack("!I", message[4:8])
    if number != xid or message[28:34] != mac or message[236:240] != _MAGIC:
        return None
    options, place = {}, 240
    while place + 1 < len(message) and message[place] != 255:
        if message[place] == 0:
            place += 1
            continue
        length = message[place + 1]
        options[message[place]] = message[place + 2 : place + 2 + length]
        place += 2 + length
    kind = options.get(53, b"\0")
    return kind[0] if kind else 0, Lease(message, options)


def _open(home: Home, ns: int, interface: str) -> socket.socket:
    # It hears nothing until it is bound. After a socket that hears every interface, bind waits until all
    # processors have noticed, 10 ms.
    with home.inside(ns):
        link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        link.setblocking(False)
        program = struct.pack("HL", len(_FILTER), ctypes.addressof(_PROGRAM))
        link.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        link.bind((interface, 0x0800))
    return link


async def lease(home: Home, ns: int, interface: str, mac: str, *, ipxe: bool, deadline: float) -> Lease:
    """Get an address. Raises TimeoutError if no server gave one by ``deadline`` (monotonic clock)."""
    own = bytes.fromhex(mac.replace(":", ""))
    xid = int.from_bytes(os.urandom(4), "big")
    extra = _IPXE if ipxe else b""
    message, expected, wait = frame(own, xid, DISCOVER, extra), OFFER, FIRST_WAIT
    chosen = b""  # the server whose offer is taken: another's refusal does not count
    with _open(home, ns, interface) as link:
        while True:
            try:
                link.send(message)
            except OSError:  # the queue is full: as if it had been lost on its way
                pass
            until = min(deadline, time.monotonic() + wait)
            answer = await _answer(link, own, xid, expected, chosen, until)
            if answer is None:
                if time.monotonic() >= deadline:
                    raise TimeoutError("no DHCP server answered")
                wait = min(2 * wait, LONGEST_WAIT)
            elif answer[0] == OFFER:
                given = answer[1]
                chosen = given.server
                words = b"\x32\x04" + socket.inet_aton(given.address) + b"\x36\x04" + chosen
                message, expected, wait = frame(own, xid, REQUEST, words + extra), ACK, FIRST_WAIT
            elif answer[0] == ACK:
                return answer[1]
            else:
                message, expected, wait = frame(own, xid, DISCOVER, extra), OFFER, FIRST_WAIT
                chosen = b""


async def _answer(
    link: socket.socket, mac: bytes, xid: int, expected: int, chosen: bytes, until: float
) -> tuple[int, Lease] | None:
    """The next answer that is expected, of the ``chosen`` server if there is one, or its refusal; None if
    there is none in time."""
    while True:
        try:
            await ready(link.fileno(), READABLE, until)
        except TimeoutError:
            return None
        try:
            found = parse(link.recv(2048), mac, xid)
        except BlockingIOError:
            continue
        if found is None or (chosen and found[1].server != chosen):
            continue
        if found[0] == expected or (found[0] == NAK and chosen):
            return found
