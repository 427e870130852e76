"""A relay's clients, who take the file from it: successors and VMs."""

from __future__ import annotations

import errno
import hmac
import os
import selectors
import socket

from .errors import NETWORK_ERRORS
from .http import HEADER_LIMIT, REASONS, REQUEST_LINE, header_field, parse_range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .interface import RelayInterface

BURST = 4 << 20  #: bytes for one successor or VM before the others have their turn


def peer_address(sock: socket.socket) -> str:
    """The address at the other end; empty if nobody is there any more."""
    try:
        return str(sock.getpeername()[0])
    except OSError:
        return ""


class Client:
    """One connection: of a successor with the token, or of a VM."""

    def __init__(self, relay: RelayInterface, sock: socket.socket, needs_token: bool) -> None:
        self.relay, self.sock, self.needs_token = relay, sock, needs_token
        self.active_at = relay.now
        self.received, self.head = b"", b""  # what came, and what of our answer's header is still to be sent
        self.at = self.end = -1
        self.mask = selectors.EVENT_READ
        self.peer = peer_address(sock)
        self.address = "" if needs_token else self.peer
        sock.setblocking(False)
        relay.selector.register(sock, self.mask, self.ready)

    @property
    def streaming(self) -> bool:
        """Whether the request has been read."""
        return self.at >= 0

    def ready(self, mask: int) -> None:
        """The connection can be read or written."""
        try:
            if mask & selectors.EVENT_READ:
                self.read()
            if mask & selectors.EVENT_WRITE and self.sock.fileno() >= 0:
                self.send_available()
        except NETWORK_ERRORS:  # they are gone
            self.close()

    def read(self) -> None:
        """Take a request; anything that comes after it is ignored."""
        data = self.sock.recv(HEADER_LIMIT)
        if not data or (self.streaming and len(self.received) > HEADER_LIMIT):
            self.close()
            return
        self.received += data
        if self.streaming:
            return
        if b"\r\n\r\n" in self.received:
            self.answer()
        elif len(self.received) > HEADER_LIMIT:
            self.refuse(400)

    def answer(self) -> None:
        """Decide on a request whose header is complete."""
        image, found = self.relay.image, REQUEST_LINE.match(self.received)
        if not found:
            self.refuse(400)
            return
        if self.needs_token:
            token = b"Bearer " + self.relay.token
            if not hmac.compare_digest(header_field(self.received, b"Authorization"), token):
                self.refuse(401)
                return
        if found.group(2).partition(b"?")[0] != image.sha256.encode():
            self.refuse(404)
            return
        if self.relay.state == "failed":
            self.refuse(503, f"X-Reason: {self.relay.reason}\r\n")
            return
        span = parse_range(header_field(self.received, b"Range"), image.size)
        if span and (span[0] > span[1] or span[0] > image.size):
            self.refuse(416, f"Content-Range: bytes */{image.size}\r\n")
            return
        first, end = span or (0, image.size)
        extra = f"Content-Type: application/octet-stream\r\nAccept-Ranges: bytes\r\nX-Have: {image.have}\r\n"
        if span:
            extra += f"Content-Range: bytes {first}-{end - 1}/{image.size}\r\n"
        self.head = self.header(206 if span else 200, end - first, extra)
        self.at, self.end = first, first if found.group(1) == b"HEAD" else end
        self.relay.set_priority()
        self.send_available()

    @staticmethod
    def header(code: int, length: int, extra: str = "") -> bytes:
        """An answer up to its body."""
        lines = f"HTTP/1.1 {code} {REASONS[code]}\r\nContent-Length: {length}\r\nConnection: close\r\n"
        return f"{lines}{extra}\r\n".encode()

    def refuse(self, code: int, extra: str = "") -> None:
        """Answer without a body and end."""
        self.head, self.at, self.end = self.header(code, 0, extra), 0, 0
        self.send_available()

    def send_available(self) -> None:
        """Send what is there until the connection takes no more or all is sent."""
        sock, image, left = self.sock, self.relay.image, BURST
        blocked = False
        try:
            while self.head:
                more = socket.MSG_MORE if self.at < min(self.end, image.have) else 0
                self.head = self.head[sock.send(self.head, more) :]
            while left > 0 and self.at < self.end:
                count = min(image.have, self.end) - self.at
                if count <= 0:
                    break
                sent = os.sendfile(sock.fileno(), image.fd, self.at, min(count, left))
                if not sent:
                    raise OSError(errno.EIO, "the file is shorter than it was")
                self.at += sent
                left -= sent
        except BlockingIOError:
            blocked = True
        if left != BURST:
            self.active_at = self.relay.now
        if not self.head and self.at >= self.end:
            self.finish()
            return
        self.wait_for(blocked or left <= 0)

    def wait_for(self, writing: bool) -> None:
        """Wake when the connection takes more; or, if it took all there is, when there is more."""
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
        if mask != self.mask:
            self.mask = mask
            self.relay.selector.modify(self.sock, mask, self.ready)

    def finish(self) -> None:
        """All is sent: shut our side down and let them close; when they are idle, we do."""
        self.wait_for(False)
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()

    def expired(self) -> bool:
        """Whether they have had their time: 5 s for the request, `idle` to take some of what is there."""
        quiet = self.relay.now - self.active_at
        if not self.streaming or self.at >= self.end:
            return quiet > 5.0
        if self.at >= self.relay.image.have:  # it is we who have nothing more yet
            self.active_at = self.relay.now
            return False
        return bool(quiet > self.relay.limits["idle"])

    def note_progress(self) -> None:
        """Note how far a VM is in the file; what it asks for besides, such as a header, is no progress."""
        if self.address and self.end > 0:
            self.relay.taken[self.address] = self.at

    def is_successor(self) -> bool:
        """Whether it is a successor that still takes the file."""
        return self.needs_token and self.streaming and self.at < self.end

    def close(self) -> None:
        """End the connection."""
        if self.sock.fileno() >= 0:
            self.note_progress()
            self.relay.selector.unregister(self.sock)
            self.sock.close()
            self.relay.clients.discard(self)
