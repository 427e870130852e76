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

A predecessor that pauses for longer than is usual for its bytes (20 ms at the least, `silence` at the most)
is asked with a HEAD request on a connection of its own. If it answers, it lives and lacks data itself: its
successors wait, and only the one behind the lost host moves on. If its kernel does not even take the
connection within 40 ms (or four times what it took before), the next predecessor is asked for the file, and
whoever sends first wins; a kernel that answers for a relay that does not has `answer` seconds. So a lost host
is passed by at once, and a busy one is not taken for lost. It is taken again later if it comes back.

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
# ruff: noqa: PTH103, PTH105, PTH107, PTH110, PTH116, PTH118, PTH123, SIM105
import errno
import hashlib
import hmac
import json
import os
import re
import resource
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
    "silence": 0.4,  #: without a byte, after which a predecessor is asked whether it lives, at the latest
    "answer": 0.6,  #: that a predecessor has for its answer, and for a connection
    "grace": 5.0,  #: after our start, in which a predecessor that refuses may still be starting
    "patience": 30.0,  #: without a byte and without a predecessor alive, before we give up
    "deadline": 900.0,  #: for everything until the file is here and checked
    "serve": 86400.0,  #: how long to serve after that
    "idle": 300.0,  #: after which somebody who takes nothing of what is there is put out
}
CHUNK = 256 << 10  #: bytes read at once; small enough for the processor's cache
#: Seconds' worth of bytes that must have come before we are woken: each hop of a chain adds them.
WAKE = 0.001
LEAST = 16 << 10  #: bytes for which we are woken at the least: a wake-up costs more than a copy
STALL = 0.02  #: seconds without a byte before a predecessor is doubted, at the least; to ask it costs little
KNOCK = 0.04  #: seconds that a predecessor's kernel has to take a connection, at the least
HALF = 0.25  #: seconds after which half of an unusual pause is forgotten
GRAIN = 0.005  #: seconds between two looks at the clock while the file is coming
TICK = 0.1  #: and otherwise
BURST = 4 << 20  #: bytes for one successor or VM before the others have their turn
CONNECTIONS = 1024  #: at once
PRIORITY = -10  #: of ours among processes; that of VMs is 0
HOG = 0.3  #: seconds that a process of real time may keep a processor without a pause
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

    def forget(self) -> None:
        """Give the room on the RAM disk back: the file will not be whole."""
        os.kill(self.checker, signal.SIGKILL)
        os.ftruncate(self.fd, 0)
        self.have = 0

    def close(self, remove: bool) -> None:
        """Close, and remove the file unless it was somebody else's."""
        try:
            os.kill(self.checker, signal.SIGKILL)
            os.waitpid(self.checker, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self.result)
        if remove and not self.source:
            try:
                ours = os.path.samestat(os.stat(self.path), os.fstat(self.fd))
                if ours:  # and has not been replaced meanwhile by a broadcast of another kind
                    os.remove(self.path)
            except FileNotFoundError:
                pass
        os.close(self.fd)

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


def schedule(pid: int, policy: int, priority: int = 0) -> None:
    """Change how a process is scheduled, if that is allowed here."""
    try:
        os.sched_setscheduler(pid, policy, os.sched_param(priority))
    except OSError:
        pass


class Place:
    """Our place among those who want a processor: before VMs, if that is allowed here, since while they boot
    they take every processor, and what they wait for is what we bring.

    Always by priority. Many kernels first divide a processor's time among sessions, and only then heed
    priorities within each: a session of our own (the supervisor has given us one) is preferred as a whole.

    And while bytes come or go to successors, as a process of real time: a relay works for 0.2 ms in each
    millisecond, and what it has to wait for a processor is lost for all hosts behind it, since no link can
    catch up. Should it keep a processor for `HOG` seconds without a pause, the kernel says so, and it is an
    ordinary process from then on.
    """

    def __init__(self) -> None:
        self.first = False  # a process of real time
        self.hogged = False
        try:
            os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
            if os.getsid(0) == os.getpid():
                with open("/proc/self/autogroup", "w", encoding="ascii") as file:
                    file.write(str(PRIORITY))
        except OSError:  # we are not root, or the kernel knows no such thing
            pass
        signal.signal(signal.SIGXCPU, self.hog)
        resource.setrlimit(
            resource.RLIMIT_RTTIME, (int(HOG * 1e6), resource.getrlimit(resource.RLIMIT_RTTIME)[1])
        )

    def take(self, first: bool) -> None:
        """Be a process of real time, or an ordinary one."""
        first = first and not self.hogged
        if first != self.first:
            self.first = first
            schedule(0, os.SCHED_RR if first else os.SCHED_OTHER, int(first))

    def hog(self, *_: object) -> None:
        """The kernel says that we keep others from a processor."""
        self.hogged = True
        self.take(False)


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
        self.relay.hurry()
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

    def behind(self) -> bool:
        """Whether it is a successor that still takes the file."""
        return self.secret and self.streaming and self.at < self.end

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
        self.took = 0.0  # the least time that a connection to it has taken
        self.fails = 0
        self.again = 0.0  # not before this time
        self.why = ""

    def rest(self, now: float) -> None:
        """It is of no use now: leave it for a while, each time for longer."""
        self.fails += 1
        self.again = now + min(8.0, 0.25 * 2**self.fails)


class Ask:
    """One request of ours to a predecessor: a connection that never blocks, and the header of its answer.

    Raises OSError if not even a connection can be begun.
    """

    def __init__(self, relay: Relay, peer: Peer, method: str, at: int, told: Callable[[Ask], object]) -> None:
        self.relay, self.peer, self.told = relay, peer, told
        self.code, self.header, self.rest = 0, b"", b""
        self.began, self.connected = relay.now, False
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

    @property
    def age(self) -> float:
        """Seconds since it was put."""
        return self.relay.now - self.began

    def ready(self, mask: int) -> None:
        """Connected, or something of the answer is here."""
        try:
            if mask & selectors.EVENT_WRITE:
                code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    raise OSError(code, os.strerror(code))
                self.connected = True
                self.peer.took = min(self.peer.took or self.age, self.age)
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


# ------------------------------------------------------------------------------------- taking the file
class Flow:
    """How bytes come: when the last ones did, how fast, and how long the pauses between them usually are."""

    def __init__(self, now: float, pause: float) -> None:
        self.last = now  #: when bytes came last, or a connection for them began
        self.first: float | None = None  #: when the very first ones came
        self.count = 0
        self.pause = pause  #: the longest usual one: it forgets half of what it knows every `HALF` seconds
        self.fresh = True  # a new connection: the time before its first byte is no pause
        self.heard = now  # when bytes came last
        self.outage = 0.0  #: the longest time from the last byte of one connection to the first of the next

    def begin(self, now: float) -> None:
        """A new connection for the bytes."""
        self.last, self.fresh = now, True

    def came(self, now: float, count: int) -> None:
        """Bytes are here."""
        if self.first is None:
            self.first = now
        elif self.fresh:
            self.outage = max(self.outage, now - self.heard)
        gap = 0.0 if self.fresh else now - self.last
        self.pause = max(gap, self.pause * 0.5 ** (gap / HALF))
        self.last, self.heard, self.fresh = now, now, False
        self.count += count

    def found(self, count: int) -> None:
        """Bytes were lying here, for nobody knows how long: no sign of life, and no pause."""
        self.count += count

    def stall(self, silence: float) -> float:
        """Seconds without a byte that are not usual here."""
        return min(silence, max(STALL, 2 * self.pause))

    def lowat(self, left: int) -> int:
        """Bytes to be woken for: a millisecond's worth of them, as they come, or the last ones."""
        rate = self.count / max(self.last - self.first, 0.01) if self.first is not None else 0.0
        return min(left, CHUNK, max(LEAST, int(rate * WAKE)))


def verdict(
    quiet: float, stall: float, asked: float | None, connected: bool, knock: float, answer: float
) -> str:
    """What to do about a predecessor from which nothing has come for ``quiet`` seconds.

    ``stall``: how long that is usual; ``asked``: seconds since it was asked whether it lives, None if it has
    not been; ``connected``: its kernel took the connection for that; ``knock`` and ``answer``: seconds that
    its kernel and its relay have. Gives "wait", "ask", "pass" (ask the next for the file, and take it from
    whoever is first) or "leave".
    """
    if quiet <= stall:
        return "wait"
    if asked is None:
        return "ask"
    if asked > answer:
        return "leave"
    return "pass" if asked > knock and not connected else "wait"


class Fetch:
    """Taking the file from those before us: whom to ask, when to doubt them, when to leave them."""

    def __init__(self, relay: Relay, records: list[Record]) -> None:
        self.relay = relay
        self.peers = [Peer(record) for record in records]
        self.asks: list[Ask] = []  # for the file; several while those that do not answer are passed by
        self.probe: Ask | None = None  # whether the one that we take from lives
        self.scout: Ask | None = None  # whether somebody nearer is back
        self.scouted = relay.now
        self.doubt = 0.0  # not before so many seconds without a byte is it asked again
        self.stream: socket.socket | None = None
        self.peer: Peer | None = None  # from whom we take
        self.sign = relay.now  # when there was a sign of life of anybody before us
        self.flow = Flow(relay.now, relay.limits["silence"] / 2)
        self.took: list[str] = []
        self.skipped: list[str] = []
        self.buffer = memoryview(bytearray(CHUNK))
        self.lowat = 1

    def tick(self) -> None:
        """What has to be done as time goes by."""
        if self.stream is not None:
            self.attend()
        for ask in [a for a in self.asks if a.age > self.relay.limits["answer"]]:
            self.abandon(ask, f"no answer within {self.relay.limits['answer']:g} s")
        if self.stream is None and not self.asks:
            if self.relay.now - self.sign > self.relay.limits["patience"] or not self.peers:
                self.relay.fail(self.nobody())
            else:
                self.choose()
        elif self.asks and not self.asks[-1].connected and self.asks[-1].age > self.knock(self.asks[-1].peer):
            self.choose()

    def close(self) -> None:
        """End every connection of ours."""
        self.drop()
        for ask in (*self.asks, self.probe, self.scout):
            if ask:
                ask.abandon()
        self.asks, self.probe, self.scout = [], None, None

    # ---- asking for it
    def knock(self, peer: Peer) -> float:
        """Seconds that a predecessor's kernel has to take a connection before the next one is asked, too.

        A kernel answers even where its processes wait for a processor. As long as nothing has come, all may
        be starting, and the nearest is worth waiting for.
        """
        answer = float(self.relay.limits["answer"])
        return answer if self.flow.first is None else min(answer, max(KNOCK, 4 * peer.took))

    def choose(self) -> None:
        """Ask the nearest predecessor that may be asked now and is not being asked already."""
        busy = [ask.peer for ask in self.asks]
        if self.stream is not None and self.peer is not None:
            busy.append(self.peer)
        for peer in self.peers:
            if peer.again <= self.relay.now and peer not in busy and self.ask_file(peer):
                return

    def ask_file(self, peer: Peer) -> bool:
        """Ask a predecessor for what we lack; False if not even that is possible."""
        try:
            self.asks.append(Ask(self.relay, peer, "GET", self.relay.image.have, self.answered))
        except TROUBLE as error:
            self.bad(peer, words(error))
            return False
        return True

    def abandon(self, ask: Ask, why: str = "") -> None:
        """Take a request back; with a reason if that is its predecessor's fault."""
        self.asks.remove(ask)
        ask.abandon()
        if why:
            self.bad(ask.peer, why)

    def bad(self, peer: Peer, why: str) -> None:
        """A predecessor does not answer, or not as it should: leave it for a while.

        One that refuses while all are starting is only tried again, without looking further.
        """
        now, peer.why = self.relay.now, why
        young = self.relay.began + self.relay.limits["grace"]
        if not peer.seen and now < young and "refused" in why:
            peer.again = now + 0.05
            for other in self.peers:
                if other is not peer:
                    other.again = max(other.again, min(now + 0.06, young))
            return
        peer.rest(now)
        if peer.host not in self.skipped:
            self.skipped.append(peer.host)

    def answered(self, ask: Ask) -> None:
        """The header of an answer to a request for the file is here, or an error."""
        self.asks.remove(ask)
        peer, relay = ask.peer, self.relay
        if not ask.error:
            try:
                if ask.code not in (200, 206):
                    raise ValueError(f"it answers {ask.code}")
                if first_of(ask.code, ask.header, relay.image.size) != relay.image.have:
                    raise ValueError("it knows no ranges")
            except ValueError as error:
                ask.error = words(error)
                ask.sock.close()
        if ask.error:
            reason = field(ask.header, b"X-Reason").decode("utf-8", "replace")
            if reason and peer is self.peers[-1]:  # the head itself will never have it
                relay.fail(f"{peer.host} has given it up: {reason}"[:600])
            else:
                self.bad(peer, ask.error)
            return
        for other in list(self.asks):
            slow = not other.connected and other.age > self.knock(other.peer)
            self.abandon(other, f"no connection within {other.age:.2f} s" if slow else "")
        if self.stream is not None and self.peer is not None:
            self.leave(f"silent for {relay.now - self.flow.last:.2f} s")
        self.adopt(ask)

    def adopt(self, ask: Ask) -> None:
        """Take the file from this predecessor from now on."""
        relay, peer = self.relay, ask.peer
        peer.seen = True
        if self.peer is not peer:
            self.took.append(peer.host)
        self.peer, self.stream, self.sign, self.lowat, self.doubt = peer, ask.sock, relay.now, 1, 0.0
        self.flow.begin(relay.now)
        if relay.state == "waiting":
            relay.state = "receiving"
        relay.selector.register(self.stream, selectors.EVENT_READ, self.receive)
        self.take(memoryview(ask.rest))

    # ---- taking it
    def receive(self, _: int = 0, late: bool = False) -> None:
        """Bytes are here: append them and hand them on. ``late``: it is the clock that says to look."""
        if self.stream is None:
            return
        try:
            got = self.stream.recv_into(self.buffer)
        except BlockingIOError:
            return
        except OSError as error:
            self.lost(words(error))
            return
        if got:
            self.take(self.buffer[:got], late)
        else:
            self.lost("it closed the connection in the middle")

    def take(self, data: memoryview, late: bool = False) -> None:
        """Append; hand on; see whether that was all."""
        image, relay = self.relay.image, self.relay
        if data:
            if image.have + len(data) > image.size:
                self.lost("it sends more than the file has")
                return
            try:
                image.append(data)
            except OSError as error:
                image.forget()  # what else is on the RAM disk needs the room
                relay.fail(f"the RAM disk takes no more: {words(error)}")
                return
            if late:
                self.flow.found(len(data))
            else:
                self.sign, self.doubt = relay.now, 0.0
                self.flow.came(relay.now, len(data))
                self.believe()
            relay.hand_on()
        left = image.size - image.have
        if not left:
            self.close()
            relay.complete()
        elif not late:
            self.wake_for(self.flow.lowat(left), last=left)

    def wake_for(self, lowat: int, last: int = 0) -> None:
        """Be woken when so many bytes are here; ``last``: exactly if these are the last ones."""
        if self.stream is not None and (lowat == last or not 0.7 < lowat / self.lowat < 1.4):
            self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, lowat)
            self.lowat = lowat

    def believe(self) -> None:
        """Whom we take from lives after all: what was asked in doubt is answered."""
        if self.probe:
            self.probe.abandon()
            self.probe = None
        for ask in list(self.asks):
            self.abandon(ask)

    def drop(self) -> None:
        """End the connection that we take from."""
        if self.probe:
            self.probe.abandon()
            self.probe = None
        if self.stream is not None:
            self.relay.selector.unregister(self.stream)
            self.stream.close()
            self.stream = None

    def leave(self, why: str) -> None:
        """The predecessor that we took from is of no use now."""
        self.drop()
        if self.peer:
            self.bad(self.peer, why)

    def lost(self, why: str) -> None:
        """The same; go on with the next at once."""
        self.leave(why)
        if not self.asks:
            self.choose()

    # ---- doubting whom we take it from
    def attend(self) -> None:
        """Watch the connection that we take from: is it silent, is somebody nearer back?"""
        limits, now = self.relay.limits, self.relay.now
        stall = self.flow.stall(limits["silence"])
        if now - self.flow.last > stall and self.lowat > 1:
            # Fewer bytes than we are woken for may be lying there; the next one that comes tells us itself.
            self.wake_for(1)
            self.receive(late=True)
        if self.stream is None or self.peer is None:
            return
        quiet, probe = now - self.flow.last, self.probe
        # Whoever has nobody else to ask has no use for haste: many may be asking the same one.
        answer = limits["answer"] * (1 if len(self.peers) > 1 else 5)
        asked, connected = (probe.age, probe.connected) if probe else (None, False)
        word = verdict(quiet, max(stall, self.doubt), asked, connected, self.knock(self.peer), answer)
        if word == "ask":
            self.probe = self.ask_life(self.peer, self.probed)
        elif word == "pass" and not self.asks:
            self.choose()
        elif word == "leave":
            self.lost(f"silent for {quiet:.1f} s")
        elif self.scout:
            if self.scout.age > limits["answer"]:
                self.scout.abandon()
                self.scout.peer.rest(now)
                self.scout = None
        elif self.peer is not self.peers[0] and now - self.scouted > 1.0:
            self.scouted = now
            nearer = self.peers[: self.peers.index(self.peer)]
            back = [p for p in nearer if p.again <= now]
            if back:
                self.scout = self.ask_life(back[0], self.returned)

    def ask_life(self, peer: Peer, told: Callable[[Ask], object]) -> Ask | None:
        """Ask a predecessor, beside the data, whether it lives and how much it has."""
        try:
            return Ask(self.relay, peer, "HEAD", 0, told)
        except TROUBLE as error:
            if peer is self.peer:
                self.lost(words(error))
            else:
                peer.rest(self.relay.now)
            return None

    def alive(self, ask: Ask) -> int | None:
        """How much a predecessor has, by its answer; None if that was none."""
        if not ask.error:
            ask.sock.close()
            if ask.code != 200:
                ask.error = f"it answers {ask.code}"
        if ask.error:
            return None
        ask.peer.seen, self.sign = True, self.relay.now
        have = field(ask.header, b"X-Have")
        return int(have) if have.isdigit() else self.relay.image.size

    def probed(self, ask: Ask) -> None:
        """The predecessor that we take from has said that it lives, or has not."""
        self.probe = None
        have, quiet, silence = self.alive(ask), self.relay.now - self.flow.last, self.relay.limits["silence"]
        if quiet <= self.flow.stall(silence):
            return
        if have is None:
            self.lost(ask.error)
        elif have > self.relay.image.have and quiet > 2 * silence:
            self.lost(f"it lives but has sent nothing for {quiet:.1f} s")
        else:  # it lacks data itself: only the one behind the break moves on
            self.doubt = min(1.5 * quiet, quiet + 1.0)
            self.believe()

    def returned(self, ask: Ask) -> None:
        """A nearer predecessor has said that it is back, or has not.

        If it is not behind us, we take from it, so that each link is used once again.
        """
        self.scout = None
        have = self.alive(ask)
        if have is None:
            ask.peer.rest(self.relay.now)
        elif have >= self.relay.image.have and self.stream is not None and not self.asks:
            self.drop()
            self.ask_file(ask.peer)

    def nobody(self) -> str:
        """Why nobody gives us the file, by the nearest and the farthest of those before us."""
        if not self.peers:
            return "there is nobody before this host and no source"
        told = {p.host: p.why or "not asked" for p in (self.peers[0], self.peers[-1])}
        said = "; ".join(f"{host}: {why}" for host, why in told.items())
        patience = f"{self.relay.limits['patience']:g} s"
        return f"none of the {len(self.peers)} before this host gave it within {patience} ({said})"


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
        self.fetch = Fetch(self, job.get("before", []))
        self.image = Image(job)
        self.resumed = self.image.have  # found here from a life before
        self.state, self.reason = "waiting", ""
        self.arrived: float | None = None
        self.over: float | None = None
        self.ending = False
        self.reported = 0.0
        self.wake = os.pipe()

    # ------------------------------------------------------------------------------------ life and death
    def run(self) -> int:
        """Do the job; 0 if the file came and is right."""
        self.place = Place()
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
            self.begin()
            ticked = 0.0
            while not self.ending:
                events = self.selector.select(GRAIN if self.arrived is None else TICK)
                self.now = time.monotonic()
                for key, mask in events:
                    now = self.selector.get_map().get(key.fd)
                    if now is not None and now.data == key.data:  # else one before it has closed it
                        key.data(mask)
                # All that has come is heard before anybody is judged by the clock, however late we are.
                if self.over is None and self.arrived is None:
                    self.fetch.tick()
                if self.now - ticked > TICK / 2:
                    ticked = self.now
                    self.tick()
        finally:
            self.close()
        return 0 if self.state == "ok" else 1

    def begin(self) -> None:
        """See whether there is something to do, and room for it."""
        lacking = self.image.size - self.image.have
        if not lacking:
            self.complete()
            return
        disk = os.fstatvfs(self.image.fd)
        free = disk.f_bavail * disk.f_frsize
        if disk.f_blocks and free < lacking:
            self.fail(f"the RAM disk has {free} bytes left, and {lacking} are to come")

    def close(self) -> None:
        """Leave nothing behind: connections, the file, the state."""
        signal.set_wakeup_fd(-1)
        for client in list(self.clients):
            client.close()
        for listener in self.listeners:
            listener.close()
        self.fetch.close()
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

    # -------------------------------------------------------------------------------------------- the file
    def hand_on(self) -> None:
        """There is more: those who have taken all that there was get it at once."""
        for client in list(self.clients):
            if client.streaming and client.mask == selectors.EVENT_READ and client.at < client.end:
                client.ready(selectors.EVENT_WRITE)

    def complete(self) -> None:
        """The last byte is here."""
        self.arrived = time.monotonic()
        self.image.hurry()
        self.state = "received"
        self.report()

    def checked(self, _: int) -> None:
        """The sum is known, or will not be."""
        self.selector.unregister(self.image.result)
        self.image.checked()
        if self.over is not None:
            return
        self.state = "ok"
        if self.image.sum != self.image.sha256:
            self.fail(f"its SHA-256 is {self.image.sum}", cut=self.image.have < self.image.size)
        else:
            self.settle()

    def tick(self) -> None:
        """What has to be done as time goes by."""
        if self.over is not None:
            self.ending = self.ending or self.now - self.over > self.limits["serve"]
        elif self.now - self.began > self.limits["deadline"]:
            self.fail(f"not here within {self.limits['deadline']:g} s")
        elif self.now - self.reported >= 1.0:
            self.report()
        self.hurry()
        for client in [c for c in self.clients if c.expired()]:
            client.close()

    def fail(self, reason: str, cut: bool = True) -> None:
        """End without the file, or with a wrong one.

        Those who wait here for more are cut off at once, so that they can look elsewhere or say so; those who
        are getting a wrong file get it to its end (``cut=False``) and find out by themselves.
        """
        self.fetch.close()
        self.state, self.reason = "failed", reason
        for client in list(self.clients) if cut else ():
            client.close()
        self.settle()

    def hurry(self) -> None:
        """Come first while hosts wait for it; what is left then is for VMs, which need processors, too."""
        coming = self.arrived is None and self.over is None
        self.place.take(coming or any(client.behind() for client in self.clients))

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
            "from": self.fetch.peer.host if self.fetch.peer else "",
            "took_from": self.fetch.took,
            "skipped": self.fetch.skipped,
            "outage": round(self.fetch.flow.outage, 3),
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
