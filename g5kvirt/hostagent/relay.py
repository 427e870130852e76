#!/usr/bin/env python3
"""The relay: one file (an image) down a chain of hosts, and from each host to its VMs, while it arrives.

It is sent to every host beside the host agent and runs there on its own, standard library only::

    python3 relay.py run JOB.json [STATE.json]     fetch, check, serve until SIGTERM or `serve` seconds later
    python3 relay.py watch STATE.json SECONDS      print what the relay reports until it says how it ended

Every relay *pulls*: it asks the nearest of its predecessors for the file, from the byte on that it lacks, by
plain HTTP (``GET /SHA256`` with ``Range``). What arrives is appended to a file on the RAM disk and handed on
from there by sendfile(2) to everybody who asks: successors and VMs. So a host that is lost costs its
successors one more request to the next predecessor alive, any HTTP server that knows ranges can be the head,
and a relay that was killed goes on where its file ends.

A predecessor that sends nothing for `silence` seconds is asked with a HEAD request on a connection of its
own. If it answers, it lives and lacks data itself: its successors wait, and only the one behind the lost host
moves on. If it does not within `answer` seconds, it is skipped; it is taken again later if it comes back.

The job is one JSON object; see `DEFAULTS` for what may be left out::

    {"host", "sha256", "size", "token", "store": DIRECTORY, "source": FILE or null,
     "listen": [[ADDRESS, PORT]], "open": [[ADDRESS, PORT]], "before": [{"host", "url"}], "limits": {}}

``listen`` serves only requests with the broadcast's token (successors), ``open`` everybody who knows the
sum (VMs). ``before``: the predecessors, nearest first. ``source``: the file itself; then nothing is fetched.
Reports are lines of JSON on standard output, the last one also in STATE.json. Python 3.9 and newer. Times are
seconds, sizes bytes.
"""

from __future__ import annotations

# pathlib and contextlib are left out: they would cost every start their import
# ruff: noqa: PTH103, PTH105, PTH107, PTH110, PTH118, PTH123, SIM105
import errno
import hashlib
import hmac
import json
import os
import re
import selectors
import signal
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Record = dict[str, Any]

DEFAULTS: Record = {
    "silence": 0.4,  #: without a byte, before a predecessor is asked whether it lives
    "answer": 0.6,  #: that a predecessor has for its answer, and for a connection
    "grace": 5.0,  #: after our start, in which a predecessor that refuses may still be starting
    "patience": 30.0,  #: without a byte and without a predecessor alive, before we give up
    "deadline": 900.0,  #: for everything until the file is here and checked
    "serve": 86400.0,  #: how long to serve after that
    "idle": 300.0,  #: after which somebody who takes nothing of what is there is put out
}
CHUNK = 256 << 10  #: bytes read at once; small enough for the processor's cache
WAKE = (
    0.001  #: seconds' worth of bytes that must have come before we are woken: each hop of a chain adds them
)
LEAST = 16 << 10  #: bytes for which we are woken at the least: a wake-up costs more than a copy
TICK = 0.1  #: seconds between two looks at the clock
BURST = 4 << 20  #: bytes for one successor or VM before the others have their turn
CONNECTIONS = 1024  #: at once
GONE = 10.0  #: seconds that a supervisor may take to start a killed relay again
HEADER = 8 << 10  #: bytes of a request or an answer before its body
REQUEST = re.compile(rb"(GET|HEAD) (?:http://[^/ ]+)?/([^ ]*) HTTP/1\.[01]\r\n", re.ASCII)
URL = re.compile(r"http://(\[[0-9A-Fa-f:]+\]|[^/:@\s]+):(\d{1,5})(/[!-~]*)", re.ASCII)
WORDS = {200: "OK", 206: "Partial Content", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found"}
WORDS.update({416: "Range Not Satisfiable", 503: "Service Unavailable"})
#: what a network does to one connection; it never ends the relay
TROUBLE = (OSError, ValueError)


def field(header: bytes, name: bytes) -> bytes:
    """The value of a header field, empty if it is not there."""
    found = re.search(rb"(?im)^" + re.escape(name) + rb":[ \t]*([^\r\n]*?)[ \t]*\r?$", header)
    return found.group(1) if found else b""


def wanted(value: bytes, size: int) -> tuple[int, int] | None:
    """The half-open range of bytes of a ``Range`` field; None for none or one that we do not serve."""
    found = re.fullmatch(rb"bytes=(\d{1,18})-(\d{0,18})", value)
    if not found:
        return None
    return int(found.group(1)), min(size, int(found.group(2)) + 1) if found.group(2) else size


def first_of(code: int, header: bytes, size: int) -> int:
    """Where the body of an answer begins in the file. Raises ValueError if it is not our file."""
    if code == 206:
        found = re.fullmatch(rb"bytes (\d+)-\d+/(\d+)", field(header, b"Content-Range"))
        if found and int(found.group(2)) == size:
            return int(found.group(1))
    elif code == 200 and field(header, b"Content-Length") == b"%d" % size:
        return 0
    raise ValueError(f"it answers {code} with a file of another size or none")


# --------------------------------------------------------------------------------------------- the image
class Image:
    """The file on the RAM disk: as long as what has arrived, and checked by a process that follows behind."""

    def __init__(self, job: Record) -> None:
        self.size, self.sha256 = int(job["size"]), str(job["sha256"])
        self.source = job.get("source")
        if self.source:
            self.path = str(self.source)
            self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        else:
            os.makedirs(job["store"], mode=0o700, exist_ok=True)
            self.path = os.path.join(job["store"], self.sha256)
            self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self.have = os.fstat(self.fd).st_size
        if self.have > self.size or (self.source and self.have != self.size):
            raise ValueError(f"{self.path} has {self.have} bytes instead of {self.size}")
        self.sum = ""  #: the SHA-256 of the whole file, once known
        self.checker, self.result = self._fork()

    def append(self, data: memoryview) -> None:
        """Put further bytes at the end. Raises OSError if the RAM disk is full."""
        while data:
            written = os.pwrite(self.fd, data, self.have)
            self.have += written
            data = data[written:]

    def hurry(self) -> None:
        """All is here: what is left to do is the checking."""
        schedule(self.checker, os.SCHED_OTHER)

    def checked(self) -> None:
        """The checker has something to say: the sum, or that it ended without one."""
        self.sum = os.read(self.result, 64).decode("ascii") or "unknown: the checking process was ended"

    def close(self, remove: bool) -> None:
        """Close, and remove the file unless it was somebody else's."""
        try:
            os.kill(self.checker, signal.SIGKILL)
            os.waitpid(self.checker, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self.result)
        os.close(self.fd)
        if remove and not self.source:
            try:
                os.remove(self.path)
            except FileNotFoundError:
                pass

    def _fork(self) -> tuple[int, int]:
        """The checker: a process that hashes what is there and waits for more, and the pipe it answers by.

        A process and not a thread: while bytes arrive it takes only what processor time nobody else wants
        (the hosts behind us wait for the relaying, and at 1 Gb/s hashing costs more than that), and a thread
        that is kept waiting may hold the interpreter. It is begun before there is any connection to inherit.
        """
        result, answer = os.pipe()
        parent, pid = os.getpid(), os.fork()
        if pid:
            os.close(answer)
            return pid, result
        try:
            schedule(0, os.SCHED_IDLE)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            digest, at, view = hashlib.sha256(), 0, memoryview(bytearray(CHUNK))
            while at < self.size and os.getppid() == parent:
                got = os.preadv(self.fd, [view[: min(CHUNK, self.size - at)]], at)
                digest.update(view[:got])
                at += got
                if not got:
                    time.sleep(0.02)
            if at == self.size:
                os.write(answer, digest.hexdigest().encode())
        finally:
            os._exit(0)


def schedule(pid: int, policy: int) -> None:
    """Change how a process is scheduled, if that is allowed here."""
    try:
        os.sched_setscheduler(pid, policy, os.sched_param(0))
    except OSError:
        pass


# ------------------------------------------------------------------------------------- those who ask us
class Client:
    """A connection of somebody who wants the file: a successor with the token, or a VM."""

    def __init__(self, relay: Relay, sock: socket.socket, secret: bool) -> None:
        self.relay, self.sock, self.secret = relay, sock, secret
        self.seen = relay.now
        self.heard, self.head = b"", b""  # what came, and what of our answer's header is still to be sent
        self.at = self.end = -1
        self.mask = selectors.EVENT_READ
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
                self.pump()
        except TROUBLE:  # they are gone; that is their affair
            self.close()

    def read(self) -> None:
        """Take a request; anything that comes after it is not heard."""
        data = self.sock.recv(HEADER)
        if not data or (self.streaming and len(self.heard) > HEADER):
            self.close()
            return
        self.heard += data
        if self.streaming:
            return
        if b"\r\n\r\n" in self.heard:
            self.answer()
        elif len(self.heard) > HEADER:
            self.refuse(400)

    def answer(self) -> None:
        """Decide on a request whose header is complete."""
        image, found = self.relay.image, REQUEST.match(self.heard)
        if not found:
            self.refuse(400)
            return
        if self.secret:
            token = b"Bearer " + self.relay.token
            if not hmac.compare_digest(field(self.heard, b"Authorization"), token):
                self.refuse(401)
                return
        if found.group(2).partition(b"?")[0] != image.sha256.encode():
            self.refuse(404)
            return
        if self.relay.state == "failed":
            self.refuse(503, f"X-Reason: {self.relay.reason}\r\n")
            return
        span = wanted(field(self.heard, b"Range"), image.size)
        if span and (span[0] > span[1] or span[0] > image.size):
            self.refuse(416, f"Content-Range: bytes */{image.size}\r\n")
            return
        first, end = span or (0, image.size)
        extra = f"Content-Type: application/octet-stream\r\nAccept-Ranges: bytes\r\nX-Have: {image.have}\r\n"
        if span:
            extra += f"Content-Range: bytes {first}-{end - 1}/{image.size}\r\n"
        self.head = self.header(206 if span else 200, end - first, extra)
        self.at, self.end = first, first if found.group(1) == b"HEAD" else end
        self.pump()

    @staticmethod
    def header(code: int, length: int, extra: str = "") -> bytes:
        """An answer up to its body."""
        lines = f"HTTP/1.1 {code} {WORDS[code]}\r\nContent-Length: {length}\r\nConnection: close\r\n"
        return f"{lines}{extra}\r\n".encode()

    def refuse(self, code: int, extra: str = "") -> None:
        """Answer without a body and end."""
        self.head, self.at, self.end = self.header(code, 0, extra), 0, 0
        self.pump()

    def pump(self) -> None:
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
            self.seen = self.relay.now
        if not self.head and self.at >= self.end:
            self.finish()
            return
        self.want(blocked or left <= 0)

    def want(self, writing: bool) -> None:
        """Be told when the connection takes more; or, if it took all there is, when there is more."""
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
        if mask != self.mask:
            self.mask = mask
            self.relay.selector.modify(self.sock, mask, self.ready)

    def finish(self) -> None:
        """All is sent: say so, and let them close; at the latest when they are idle we do."""
        self.want(False)
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()

    def expired(self) -> bool:
        """Whether they have had their time: 5 s for the request, `idle` to take some of what is there."""
        quiet = self.relay.now - self.seen
        if not self.streaming or self.at >= self.end:
            return quiet > 5.0
        if self.at >= self.relay.image.have:  # it is we who have nothing for them
            self.seen = self.relay.now
            return False
        return bool(quiet > self.relay.limits["idle"])

    def close(self) -> None:
        """End the connection."""
        if self.sock.fileno() >= 0:
            self.relay.selector.unregister(self.sock)
            self.sock.close()
            self.relay.clients.discard(self)


# ---------------------------------------------------------------------------------- those whom we ask
class Peer:
    """A predecessor, and what we know of it."""

    def __init__(self, record: Record) -> None:
        found = URL.fullmatch(str(record["url"]))
        if not found:
            raise ValueError(f"{record['url']!r} is no http URL with a port")
        self.host = str(record["host"])
        self.address, self.port, self.path = found.group(1).strip("[]"), int(found.group(2)), found.group(3)
        self.seen = False  # it has answered once
        self.fails = 0
        self.again = 0.0  # not before this time
        self.why = ""


class Ask:
    """One request of ours to a predecessor: a connection that never blocks, and the header of its answer."""

    def __init__(self, relay: Relay, peer: Peer, method: str, at: int, told: Callable[[Ask], object]) -> None:
        self.relay, self.peer, self.told = relay, peer, told
        self.code, self.header, self.rest = 0, b"", b""
        self.began = relay.now
        self.error = ""
        family, kind, proto, _, where = socket.getaddrinfo(peer.address, peer.port, 0, socket.SOCK_STREAM)[0]
        self.sock = socket.socket(family, kind, proto)
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

    def ready(self, mask: int) -> None:
        """Connected, or something of the answer is here."""
        try:
            if mask & selectors.EVENT_WRITE:
                code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    raise OSError(code, os.strerror(code))
                self.sock.send(self.request)  # far smaller than a fresh connection's buffer
                self.relay.selector.modify(self.sock, selectors.EVENT_READ, self.ready)
                return
            data = self.sock.recv(HEADER)
            if not data:
                raise OSError("it closed the connection without an answer")
            self.rest += data
            head, gap, rest = self.rest.partition(b"\r\n\r\n")
            if gap:
                self.header, self.rest = head + b"\r\n", rest
                found = re.match(rb"HTTP/1\.[01] (\d{3})\b", head)
                self.code = int(found.group(1)) if found else 0
                self.settle("" if found else "it does not speak HTTP")
            elif len(self.rest) > HEADER:
                raise OSError("it does not speak HTTP")
        except BlockingIOError:
            return
        except TROUBLE as error:
            self.settle(words(error))

    def settle(self, error: str) -> None:
        """The answer is here, or will not come."""
        self.error = error
        self.relay.selector.unregister(self.sock)
        if error:
            self.sock.close()
        self.told(self)

    def abandon(self) -> None:
        """Nobody wants the answer any more."""
        if self.sock.fileno() >= 0:
            try:
                self.relay.selector.unregister(self.sock)
            except KeyError:
                pass
            self.sock.close()


def words(error: BaseException) -> str:
    """What an error says, without its number."""
    return str(getattr(error, "strerror", None) or error)


# -------------------------------------------------------------------------------------------- the relay
class Relay:
    """Everything together: one thread that waits for the network, and a process of its own that checks."""

    def __init__(self, job: Record, state: str | None = None) -> None:
        self.job, self.state_file = job, state
        self.limits = {**DEFAULTS, **job.get("limits", {})}
        self.token = str(job["token"]).encode("ascii")
        if not re.fullmatch(r"[0-9a-f]{64}", str(job["sha256"])) or len(self.token) < 16:
            raise ValueError("a job needs the file's SHA-256 and a token of 16 characters or more")
        self.now = self.began = time.monotonic()
        self.selector = selectors.DefaultSelector()
        self.clients: set[Client] = set()
        self.listeners: list[socket.socket] = []
        self.peers = [Peer(record) for record in job.get("before", [])]
        self.image = Image(job)
        self.resumed = self.image.have  # found here from a life before
        self.state, self.reason = "waiting", ""
        self.asking: Ask | None = None  # for the file
        self.probe: Ask | None = None  # whether somebody lives
        self.stream: socket.socket | None = None
        self.peer: Peer | None = None  # from whom we take
        self.last = self.now  # when a byte came last
        self.sign = self.now  # when there was a sign of life of anybody before us
        self.first: float | None = None
        self.arrived: float | None = None
        self.switches: list[str] = []
        self.skipped: list[str] = []
        self.buffer = memoryview(bytearray(CHUNK))
        self.lowat = 1
        self.ending = False
        self.over: float | None = None
        self.reported = 0.0
        self.returned = self.now
        self.wake = os.pipe()

    # ------------------------------------------------------------------------------------ life and death
    def run(self) -> int:
        """Do the job; 0 if the file came and is right."""
        os.set_blocking(self.wake[0], False)
        os.set_blocking(self.wake[1], False)
        signal.set_wakeup_fd(self.wake[1])
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self, "ending", True))
        self.selector.register(self.wake[0], selectors.EVENT_READ, lambda _: os.read(self.wake[0], 512))
        self.selector.register(self.image.result, selectors.EVENT_READ, self.checked)
        try:
            self.listen()
            self.report()
            ticked = 0.0
            while not self.ending:
                for key, mask in self.selector.select(TICK):
                    now = self.selector.get_map().get(key.fd)
                    if now is not None and now.data == key.data:  # else one before it has closed it
                        key.data(mask)
                self.now = time.monotonic()
                if self.now - ticked > TICK / 2:
                    ticked = self.now
                    self.tick()
        finally:
            self.close()
        return 0 if self.state == "ok" else 1

    def close(self) -> None:
        """Leave nothing behind: connections, the file, the state."""
        signal.set_wakeup_fd(-1)
        for client in list(self.clients):
            client.close()
        for listener in self.listeners:
            listener.close()
        self.drop()
        for ask in (self.asking, self.probe):
            if ask:
                ask.abandon()
        self.image.close(remove=bool(self.job.get("remove", True)))
        self.selector.close()
        if self.state_file and self.job.get("remove", True) and os.path.exists(self.state_file):
            os.remove(self.state_file)

    def listen(self) -> None:
        """Open the addresses of the job, and no other. One that is still held by a life before gets 2 s."""
        for secret, places in ((True, self.job.get("listen", [])), (False, self.job.get("open", []))):
            for address, port in places:
                family, kind, proto, _, where = socket.getaddrinfo(
                    address, int(port), 0, socket.SOCK_STREAM, 0, socket.AI_PASSIVE
                )[0]
                listener = socket.socket(family, kind, proto)
                self.listeners.append(listener)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self.fill(listener)
                for left in range(20, -1, -1):
                    try:
                        listener.bind(where)
                        break
                    except OSError as error:
                        if not left or error.errno != errno.EADDRINUSE:
                            raise OSError(f"cannot listen on {address}:{port}: {words(error)}") from None
                        time.sleep(0.1)
                listener.listen(256)
                listener.setblocking(False)
                self.selector.register(listener, selectors.EVENT_READ, self.acceptor(listener, secret))

    @staticmethod
    def fill(listener: socket.socket) -> None:
        """Have the connections of a listening socket keep their links full, if that is allowed here.

        BBR empties its link for 0.2 s every 10 s to measure it; down a chain the pauses of all hops add up.
        """
        try:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
        except OSError:
            pass

    def acceptor(self, listener: socket.socket, secret: bool) -> Callable[[int], None]:
        """What to do when somebody comes to a listening socket."""

        def accept(_: int) -> None:
            try:
                sock, _ = listener.accept()
            except OSError:  # gone again, or no descriptor left: the next tick is another chance
                return
            if len(self.clients) >= CONNECTIONS:
                sock.close()
                return
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000)
            self.clients.add(Client(self, sock, secret))

        return accept

    def checked(self, _: int) -> None:
        """The sum is known."""
        self.selector.unregister(self.image.result)
        self.image.checked()
        self.progress()

    # ------------------------------------------------------------------------------------- taking the file
    def choose(self) -> None:
        """Ask the nearest predecessor that may be asked now."""
        for peer in self.peers:
            if peer.again <= self.now and self.ask_file(peer):
                return

    def ask_file(self, peer: Peer) -> bool:
        """Ask a predecessor for what we lack; False if not even that is possible."""
        try:
            self.asking = Ask(self, peer, "GET", self.image.have, self.answered)
        except TROUBLE as error:
            self.bad(peer, words(error))
            return False
        return True

    def bad(self, peer: Peer, why: str) -> None:
        """A predecessor does not answer, or not as it should: leave it for a while, each time for longer.

        One that refuses while all are starting is only tried again, without looking further.
        """
        peer.why = why
        starting = not peer.seen and self.now - self.began < self.limits["grace"]
        if starting and "refused" in why:
            peer.again = self.now + 0.05
            for other in self.peers:
                if other is not peer:
                    other.again = max(other.again, min(self.now + 0.06, self.began + self.limits["grace"]))
            return
        peer.fails += 1
        peer.again = self.now + min(8.0, 0.25 * 2**peer.fails)
        if peer.host not in self.skipped:
            self.skipped.append(peer.host)

    def answered(self, ask: Ask) -> None:
        """The header of an answer to our request for the file is here, or an error."""
        self.asking, peer = None, ask.peer
        if not ask.error:
            try:
                if ask.code not in (200, 206):
                    raise ValueError(f"it answers {ask.code}")
                if first_of(ask.code, ask.header, self.image.size) != self.image.have:
                    raise ValueError("it knows no ranges")
            except ValueError as error:
                ask.error = words(error)
                ask.sock.close()
        if ask.error:
            reason = field(ask.header, b"X-Reason").decode("utf-8", "replace")
            if reason and peer is self.peers[-1]:  # the head itself will never have it
                self.fail(f"{peer.host} has given it up: {reason}"[:600])
            else:
                self.bad(peer, ask.error)
            return
        peer.seen = True
        if self.peer is not peer:
            self.switches.append(peer.host)
        self.peer, self.stream, self.last, self.sign, self.lowat = peer, ask.sock, self.now, self.now, 1
        if self.state == "waiting":
            self.state = "receiving"
        self.selector.register(self.stream, selectors.EVENT_READ, self.receive)
        self.take(memoryview(ask.rest))

    def receive(self, _: int) -> None:
        """Bytes are here: append them and hand them on."""
        if self.stream is None:
            return
        try:
            got = self.stream.recv_into(self.buffer)
        except BlockingIOError:
            return
        except OSError as error:
            self.lost(words(error))
            return
        if not got:
            self.lost("it closed the connection in the middle")
            return
        self.take(self.buffer[:got])

    def take(self, data: memoryview) -> None:
        """Append; hand on; see whether that was all."""
        image = self.image
        if data:
            if image.have + len(data) > image.size:
                self.lost("it sends more than the file has")
                return
            try:
                image.append(data)
            except OSError as error:
                self.fail(f"the RAM disk takes no more: {words(error)}")
                return
            self.last = self.sign = self.now
            self.first = self.now if self.first is None else self.first
            for client in list(self.clients):
                if client.streaming and client.mask == selectors.EVENT_READ and client.at < client.end:
                    client.ready(selectors.EVENT_WRITE)
        left = image.size - image.have
        if not left:
            self.arrived = time.monotonic()
            image.hurry()
            self.drop()
            self.state = "received"
            self.report()
        elif self.stream is not None and self.first is not None:
            self.pace(left)

    def pace(self, left: int) -> None:
        """Be woken for a millisecond's worth of bytes, as they come now, or for the last ones."""
        assert self.stream is not None
        assert self.first is not None
        rate = (self.image.have - self.resumed) / max(self.now - self.first, 0.01)
        lowat = min(left, CHUNK, max(LEAST, int(rate * WAKE)))
        if lowat == left or not 0.7 < lowat / self.lowat < 1.4:
            self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, lowat)
            self.lowat = lowat

    def drop(self) -> None:
        """End the connection that we take from."""
        if self.stream is not None:
            self.selector.unregister(self.stream)
            self.stream.close()
            self.stream = None

    def lost(self, why: str) -> None:
        """The predecessor that we took from is of no use now; go on with the next at once."""
        self.drop()
        if self.peer:
            self.bad(self.peer, why)
        self.choose()

    # -------------------------------------------------------------------------------------------- the clock
    def tick(self) -> None:
        """What has to be done as time goes by."""
        if self.over is None:
            self.progress()
        elif self.now - self.over > self.limits["serve"]:
            self.ending = True
        for client in [c for c in self.clients if c.expired()]:
            client.close()
        if self.over is None and self.now - self.reported >= 1.0:
            self.report()

    def progress(self) -> None:
        """See that the file comes, or say why not."""
        image = self.image
        if image.have == image.size:
            if self.arrived is None:
                self.arrived = self.now
                self.state = "received"
                image.hurry()
            if image.sum:
                right = image.sum == image.sha256
                self.state = "ok"
                if not right:
                    self.fail(f"its SHA-256 is {image.sum}", cut=False)
                    return
                self.settle()
            return
        if self.now - self.began > self.limits["deadline"]:
            self.fail(f"not here within {self.limits['deadline']:g} s")
        elif self.asking:
            if self.now - self.asking.began > self.limits["answer"]:
                ask = self.asking
                ask.abandon()
                self.asking = None
                self.bad(ask.peer, f"no answer within {self.limits['answer']:g} s")
                self.choose()
        elif self.stream is None:
            if self.now - self.sign > self.limits["patience"] or not self.peers:
                self.fail(self.nobody())
            else:
                self.choose()
        else:
            self.attend()

    def nobody(self) -> str:
        """Why nobody gives us the file, by the nearest and the farthest of those before us."""
        if not self.peers:
            return "there is nobody before this host and no source"
        told = {p.host: p.why or "not asked" for p in (self.peers[0], self.peers[-1])}
        said = "; ".join(f"{host}: {why}" for host, why in told.items())
        patience = f"{self.limits['patience']:g} s"
        return f"none of the {len(self.peers)} before this host gave it within {patience} ({said})"

    def attend(self) -> None:
        """Watch the connection that we take from: is it silent, is somebody nearer back?"""
        assert self.stream is not None
        assert self.peer is not None
        quiet = self.now - self.last
        if quiet > TICK:  # fewer bytes than we are woken for may be lying there
            self.receive(0)
            if self.stream is None or self.asking:
                return
            quiet = self.now - self.last
        if self.probe:
            if self.now - self.probe.began > self.limits["answer"]:
                probe = self.probe
                probe.abandon()
                probe.error = f"silent for {quiet:.1f} s"
                self.probed(probe)
        elif quiet > self.limits["silence"]:
            self.ask_life(self.peer)
        elif self.peer is not self.peers[0] and self.now - self.returned > 1.0:
            self.returned = self.now
            nearer = self.peers[: self.peers.index(self.peer)]
            back = [p for p in nearer if p.again <= self.now]
            if back:
                self.ask_life(back[0])

    def ask_life(self, peer: Peer) -> None:
        """Ask a predecessor, beside the data, whether it lives and how much it has."""
        try:
            self.probe = Ask(self, peer, "HEAD", 0, self.probed)
        except TROUBLE as error:
            self.probe = None
            self.judge(peer, words(error), 0)

    def probed(self, ask: Ask) -> None:
        """A predecessor has said that it lives, or has not."""
        self.probe = None
        if not ask.error:
            ask.sock.close()
            if ask.code != 200:
                ask.error = f"it answers {ask.code}"
        have = field(ask.header, b"X-Have")
        self.judge(ask.peer, ask.error, int(have) if have.isdigit() else self.image.size)

    def judge(self, peer: Peer, error: str, have: int) -> None:
        """Go on waiting, move on to the next, or go back to a nearer one."""
        if self.stream is None:
            return
        silent = self.now - self.last > self.limits["silence"]
        if not error:
            peer.seen = True
            self.sign = self.now
        if peer is self.peer:
            if error and silent:
                self.lost(error)
            elif silent and have > self.image.have and self.now - self.last > 2 * self.limits["silence"]:
                self.lost(f"it lives but has sent nothing for {self.now - self.last:.1f} s")
        elif error:
            peer.fails += 1
            peer.again = self.now + min(8.0, 0.25 * 2**peer.fails)
        elif have >= self.image.have:  # nearer, back, and not behind us: so each link is used once again
            self.drop()
            self.ask_file(peer)

    def fail(self, reason: str, cut: bool = True) -> None:
        """End without the file, or with a wrong one.

        Those who wait here for more are cut off at once, so that they can look elsewhere or say so; those who
        are getting a wrong file get it to its end (``cut=False``) and find out by themselves.
        """
        self.drop()
        self.state, self.reason = "failed", reason
        for client in list(self.clients) if cut else ():
            client.close()
        self.settle()

    def settle(self) -> None:
        """That is how it ended."""
        self.over = self.now
        self.report()

    # ---------------------------------------------------------------------------------------------- reports
    def report(self) -> None:
        """One line of JSON: where we are."""
        self.reported = self.now
        now, cpu = time.monotonic(), os.times()
        end = self.arrived or now
        line = {
            "op": "broadcast",
            "host": self.job["host"],
            "pid": os.getpid(),
            "sha256": self.image.sha256,
            "state": self.state,
            "have": self.image.have,
            "size": self.image.size,
            "resumed": self.resumed,
            "from": self.peer.host if self.peer else "",
            "took_from": self.switches,
            "skipped": self.skipped,
            "seconds": round(end - self.began, 4),
            "checked": round(now - self.began, 4) if self.over is not None else None,
            "cpu": round(cpu.user + cpu.system, 3),
            "clients": len(self.clients),
            "reason": self.reason,
            "t": time.time(),
        }
        text = json.dumps(line)
        try:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
        except BrokenPipeError:  # nobody listens any more; the VMs still do
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if self.state_file:
            temporary = f"{self.state_file}.{os.getpid()}.new"
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text + "\n")
            os.replace(temporary, self.state_file)


def watch(path: str, limit: float) -> int:
    """Print what a relay last reported whenever that changes, until it has ended; 1 if it did not in time.

    A relay that is gone and is not started again for `GONE` seconds has failed, too.
    """
    began = seen = time.monotonic()
    last, record = "", {}
    while True:
        now = time.monotonic()
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read().strip()
            if text != last:
                last, record = text, json.loads(text)
                sys.stdout.write(text + "\n")
                sys.stdout.flush()
            if os.path.exists(f"/proc/{record['pid']}"):
                seen = now
        except FileNotFoundError:
            pass
        if record.get("state") in ("ok", "failed"):
            return 0
        if record and now - seen > GONE:
            reason = "its relay is gone, and nobody has started it again"
            sys.stdout.write(
                json.dumps({**record, "state": "failed", "reason": reason, "t": time.time()}) + "\n"
            )
            return 0
        if now - began > limit or now - seen > GONE:
            return 1
        time.sleep(0.1)


def main(arguments: list[str]) -> int:
    """See the top of this file."""
    if len(arguments) == 3 and arguments[0] == "watch":
        return watch(arguments[1], float(arguments[2]))
    if len(arguments) not in (2, 3) or arguments[0] != "run":
        sys.stderr.write("relay.py run JOB.json [STATE.json] | relay.py watch STATE.json SECONDS\n")
        return 2
    os.environ.setdefault(
        "RES_OPTIONS", "timeout:1 attempts:2"
    )  # a name server that is gone is no reason to stop
    try:
        with open(arguments[1], encoding="utf-8") as file:
            relay = Relay(json.load(file), arguments[2] if len(arguments) == 3 else None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.stderr.write(f"the job {arguments[1]} cannot be begun: {error!r}\n")
        return 2
    try:
        return relay.run()
    except OSError as error:
        sys.stderr.write(f"the relay ended: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
