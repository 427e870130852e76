"""What DHCP servers send in a local testbed, seen on every interface of every machine."""

from __future__ import annotations

import ctypes
import selectors
import socket
import struct
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from localbed import below

from g5kvirt.hostagent.onhost.light import dhcp
from g5kvirt.testbeds.local import network

_LOOK = 0.2  #: seconds between two looks for machines that are new
_EVERYTHING = (socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  #: of every interface
_OUTGOING = 4  #: packet(7): what this machine sends, also what its bridge passes on through the interface


def _filter(link: socket.socket) -> None:
    """Leave the images of VMs, a hundred thousand frames, to them."""
    program = b"".join(struct.pack("HBBI", *step) for step in dhcp._FILTER)
    kept = ctypes.create_string_buffer(program)
    filter_ = struct.pack("HL", len(dhcp._FILTER), ctypes.addressof(kept))
    link.setsockopt(socket.SOL_SOCKET, dhcp._SO_ATTACH_FILTER, filter_)


@dataclass(frozen=True)
class Sent:
    """A message of a DHCP server that came in by an interface, or went ``out``."""

    interface: str
    out: bool
    kind: int  #: as in `dhcp`
    server: str


class DhcpWatch:
    """Collects the messages while it is entered; ``pid``: of the testbed's init."""

    def __init__(self, pid: int) -> None:
        self.messages: set[Sent] = set()
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> DhcpWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        seen: set[int] = set()
        with ExitStack() as opened, selectors.DefaultSelector() as selector:
            while not self._over.is_set():
                for pid in below(self._pid):
                    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                        number = Path(f"/proc/{pid}/ns/net").stat().st_ino
                        if number in seen:
                            continue
                        with network.socket_inside(pid, *_EVERYTHING) as link:
                            link.setblocking(False)
                            _filter(link)
                        seen.add(number)
                        selector.register(opened.enter_context(link), selectors.EVENT_READ)
                for key, _ in selector.select(_LOOK):
                    self._receive(key.fileobj)

    def _receive(self, link: object) -> None:
        assert isinstance(link, socket.socket)
        with suppress(BlockingIOError):
            while True:
                data, (interface, _, direction, *_) = link.recvfrom(2048)
                found = dhcp.parse(data, data[70:76], int.from_bytes(data[46:50], "big"))
                if found is not None:
                    server = socket.inet_ntoa(found[1].server)
                    self.messages.add(Sent(interface, direction == _OUTGOING, found[0], server))
