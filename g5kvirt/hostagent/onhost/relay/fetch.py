"""Taking the file from the predecessors: from which, when to doubt it, when to leave it."""

from __future__ import annotations

import selectors
import socket

from .errors import NETWORK_ERRORS, error_text
from .http import body_offset, header_field
from .image import CHUNK
from .predecessor import OutgoingRequest, Predecessor
from .silence import ArrivalStats, silence_action

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..records import Record
    from .interface import RelayInterface

CONNECT_TIME = 0.04  #: seconds that a predecessor's kernel has to take a connection, at the least


class Fetcher:
    """Takes the file: from whom, when to probe them, when to leave them."""

    def __init__(self, relay: RelayInterface, records: list[Record]) -> None:
        self.relay = relay
        self.peers = [Predecessor(record) for record in records]
        self.requests: list[OutgoingRequest] = []  # for the file; several while some do not answer
        self.probe: OutgoingRequest | None = None  # whether the current predecessor is alive
        self.scout: OutgoingRequest | None = None  # whether a nearer one is back
        self.scouted = relay.now
        self.doubt = 0.0  # not before so many seconds without a byte is it probed again
        self.stream: socket.socket | None = None
        self.peer: Predecessor | None = None  # from whom we take
        self.last_sign = relay.now  # when any of them last gave a sign of life
        self.arrivals = ArrivalStats(relay.now, relay.limits["silence"] / 2)
        self.sources: list[str] = []
        self.skipped: list[str] = []
        self.buffer = memoryview(bytearray(CHUNK))
        self.wake_bytes = 1

    def tick(self) -> None:
        """Periodic work."""
        if self.stream is not None:
            self.check_silence()
        for request in [a for a in self.requests if a.age > self.relay.limits["answer"]]:
            self.cancel(request, f"no answer within {self.relay.limits['answer']:g} s")
        if self.stream is None and not self.requests:
            if self.relay.now - self.last_sign > self.relay.limits["patience"] or not self.peers:
                self.relay.fail(self.no_source_reason())
            else:
                self.request_next()
        elif self.requests:
            last = self.requests[-1]
            if not last.connected and last.age > self.connect_time(last.peer):
                self.request_next()

    def close(self) -> None:
        """Close every connection."""
        self.close_stream()
        for request in (*self.requests, self.probe, self.scout):
            if request:
                request.cancel()
        self.requests, self.probe, self.scout = [], None, None

    # ---- requesting it
    def connect_time(self, peer: Predecessor) -> float:
        """Seconds that a predecessor's kernel has to take a connection before the next one is tried, too.

        A kernel answers even where its processes wait for a processor. As long as nothing has come, all may
        be starting, and the nearest is worth waiting for.
        """
        answer = float(self.relay.limits["answer"])
        return (
            answer
            if self.arrivals.first is None
            else min(answer, max(CONNECT_TIME, 4 * peer.connect_seconds))
        )

    def request_next(self) -> None:
        """Request the file from the nearest predecessor that may be tried now and has no request yet."""
        busy = [request.peer for request in self.requests]
        if self.stream is not None and self.peer is not None:
            busy.append(self.peer)
        for peer in self.peers:
            if peer.retry_at <= self.relay.now and peer not in busy and self.request_file(peer):
                return

    def request_file(self, peer: Predecessor) -> bool:
        """Request what we lack from a predecessor; False if not even that is possible."""
        try:
            self.requests.append(
                OutgoingRequest(self.relay, peer, "GET", self.relay.image.have, self.on_file_answer)
            )
        except NETWORK_ERRORS as error:
            self.suspend(peer, error_text(error))
            return False
        return True

    def cancel(self, request: OutgoingRequest, why: str = "") -> None:
        """Cancel a request; with a reason if its predecessor is at fault."""
        self.requests.remove(request)
        request.cancel()
        if why:
            self.suspend(request.peer, why)

    def suspend(self, peer: Predecessor, why: str) -> None:
        """A predecessor does not answer, or not correctly: do not use it for a while.

        One that refuses while all are starting is only tried again, without looking further.
        """
        now, peer.reason = self.relay.now, why
        young = self.relay.began + self.relay.limits["grace"]
        if not peer.has_answered and now < young and "refused" in why:
            # After a tenth of what was waited: with hundreds on one machine, none may be in haste.
            pause = min(1.0, max(0.05, (now - self.relay.began) / 10))
            peer.retry_at = now + pause
            for other in self.peers:
                if other is not peer:
                    other.retry_at = max(other.retry_at, min(now + pause + 0.01, young))
            return
        peer.back_off(self.relay.now)
        if peer.host not in self.skipped:
            self.skipped.append(peer.host)

    def on_file_answer(self, request: OutgoingRequest) -> None:
        """The header of an answer to a request for the file is here, or an error."""
        self.requests.remove(request)
        peer, relay = request.peer, self.relay
        if not request.error:
            try:
                if request.code not in (200, 206):
                    raise ValueError(f"it answers {request.code}")
                if body_offset(request.code, request.header, relay.image.size) != relay.image.have:
                    raise ValueError("it does not support ranges")
            except ValueError as error:
                request.error = error_text(error)
                request.sock.close()
        if request.error:
            reason = header_field(request.header, b"X-Reason").decode("utf-8", "replace")
            if reason and peer is self.peers[-1]:  # the head itself will never have it
                relay.fail(f"{peer.host} failed: {reason}"[:600])
            else:
                self.suspend(peer, request.error)
            return
        for other in list(self.requests):
            slow = not other.connected and other.age > self.connect_time(other.peer)
            self.cancel(other, f"no connection within {other.age:.2f} s" if slow else "")
        if self.stream is not None and self.peer is not None:
            self.leave(f"silent for {relay.now - self.arrivals.last:.2f} s")
        self.switch_to(request)

    def switch_to(self, request: OutgoingRequest) -> None:
        """Take the file from this predecessor from now on."""
        relay, peer = self.relay, request.peer
        peer.has_answered = True
        if self.peer is not peer:
            self.sources.append(peer.host)
        self.peer, self.stream, self.last_sign, self.wake_bytes, self.doubt = (
            peer,
            request.sock,
            relay.now,
            1,
            0.0,
        )
        self.arrivals.begin_connection(relay.now)
        if relay.state == "waiting":
            relay.state = "receiving"
        relay.selector.register(self.stream, selectors.EVENT_READ, self.receive)
        self.accept(memoryview(request.body_start))

    # ---- taking it
    def receive(self, _: int = 0, late: bool = False) -> None:
        """Bytes are here: append them and hand them on. ``late``: not woken by them, but by the clock."""
        if self.stream is None:
            return
        try:
            got = self.stream.recv_into(self.buffer)
        except BlockingIOError:
            return
        except OSError as error:
            self.fail_over(error_text(error))
            return
        if got:
            self.accept(self.buffer[:got], late)
        else:
            self.fail_over("it closed the connection before the end")

    def accept(self, data: memoryview, late: bool = False) -> None:
        """Append; hand on; see whether that was all."""
        image, relay = self.relay.image, self.relay
        if data:
            if image.have + len(data) > image.size:
                self.fail_over("it sends more bytes than the file has")
                return
            try:
                image.append(data)
            except OSError as error:
                image.discard()  # what else is on that disk needs the room
                relay.fail(f"cannot write to the disk: {error_text(error)}")
                return
            if late:
                self.arrivals.add_backlog(len(data))
            else:
                self.last_sign, self.doubt = relay.now, 0.0
                self.arrivals.add_arrival(relay.now, len(data))
                self.clear_doubt()
            relay.hand_on()
        left = image.size - image.have
        if not left:
            self.close()
            relay.complete()
        elif not late:
            self.set_wake_bytes(self.arrivals.wake_bytes(left), last=left)

    def set_wake_bytes(self, lowat: int, last: int = 0) -> None:
        """Be woken when so many bytes are here; ``last``: exactly if these are the last ones."""
        if self.stream is not None and (lowat == last or not 0.7 < lowat / self.wake_bytes < 1.4):
            self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, lowat)
            self.wake_bytes = lowat

    def clear_doubt(self) -> None:
        """The current predecessor is alive after all: requests made in doubt are cancelled."""
        if self.probe:
            self.probe.cancel()
            self.probe = None
        for request in list(self.requests):
            self.cancel(request)

    def close_stream(self) -> None:
        """End the connection that we take from."""
        if self.probe:
            self.probe.cancel()
            self.probe = None
        if self.stream is not None:
            self.relay.selector.unregister(self.stream)
            self.stream.close()
            self.stream = None

    def leave(self, why: str) -> None:
        """The predecessor that we took from is of no use now."""
        self.close_stream()
        if self.peer:
            self.suspend(self.peer, why)

    def fail_over(self, why: str) -> None:
        """Leave it and continue with the next one at once."""
        self.leave(why)
        if not self.requests:
            self.request_next()

    # ---- doubting whom we take it from
    def check_silence(self) -> None:
        """Watch the connection that we take from: is it silent, is a nearer predecessor back?"""
        limits, now = self.relay.limits, self.relay.now
        stall = self.arrivals.stall(limits["silence"])
        if now - self.arrivals.last > stall and self.wake_bytes > 1:
            # Fewer bytes than we are woken for may be lying there; the next one that comes wakes us.
            self.set_wake_bytes(1)
            self.receive(late=True)
        if self.stream is None or self.peer is None:
            return
        quiet, probe = now - self.arrivals.last, self.probe
        # Without another predecessor there is no use in haste: many may be probing the same one.
        answer = limits["answer"] * (1 if len(self.peers) > 1 else 5)
        probe_age, connected = (probe.age, probe.connected) if probe else (None, False)
        action = silence_action(
            quiet, max(stall, self.doubt), probe_age, connected, self.connect_time(self.peer), answer
        )
        if action == "probe":
            self.probe = self.send_probe(self.peer, self.on_probe_answer)
        elif action == "pass" and not self.requests:
            self.request_next()
        elif action == "leave":
            self.fail_over(f"silent for {quiet:.1f} s")
        else:
            self.look_nearer(self.peer)

    def look_nearer(self, current: Predecessor) -> None:
        """Once a second, probe the nearest predecessor that was left for the ``current`` one."""
        now = self.relay.now
        if self.scout:
            if self.scout.age > self.relay.limits["answer"]:
                self.scout.cancel()
                self.scout.peer.back_off(now)
                self.scout = None
        elif current is not self.peers[0] and now - self.scouted > 1.0:
            self.scouted = now
            nearer = self.peers[: self.peers.index(current)]
            back = [peer for peer in nearer if peer.retry_at <= now]
            if back:
                self.scout = self.send_probe(back[0], self.on_scout_answer)

    def send_probe(
        self, peer: Predecessor, on_answer: Callable[[OutgoingRequest], object]
    ) -> OutgoingRequest | None:
        """Probe, on a second connection, whether a predecessor is alive and how much it has."""
        try:
            return OutgoingRequest(self.relay, peer, "HEAD", 0, on_answer)
        except NETWORK_ERRORS as error:
            if peer is self.peer:
                self.fail_over(error_text(error))
            else:
                peer.back_off(self.relay.now)
            return None

    def read_probe(self, request: OutgoingRequest) -> int | None:
        """How much a predecessor has, by its answer; None if that was none."""
        if not request.error:
            request.sock.close()
            if request.code != 200:
                request.error = f"it answers {request.code}"
        if request.error:
            return None
        request.peer.has_answered, self.last_sign = True, self.relay.now
        have = header_field(request.header, b"X-Have")
        return int(have) if have.isdigit() else self.relay.image.size

    def on_probe_answer(self, request: OutgoingRequest) -> None:
        """The predecessor that we take from has answered the probe, or has not."""
        self.probe = None
        have, quiet, silence = (
            self.read_probe(request),
            self.relay.now - self.arrivals.last,
            self.relay.limits["silence"],
        )
        if quiet <= self.arrivals.stall(silence):
            return
        if have is None:
            self.fail_over(request.error)
        elif have > self.relay.image.have and quiet > 2 * silence:
            self.fail_over(f"it is alive but has sent nothing for {quiet:.1f} s")
        else:  # it has no more data itself: only the successor of the lost host moves on
            self.doubt = min(1.5 * quiet, quiet + 1.0)
            self.clear_doubt()

    def on_scout_answer(self, request: OutgoingRequest) -> None:
        """A nearer predecessor is back, or is not.

        If it is not behind us, we take from it, so that each link is used once again.
        """
        self.scout = None
        have = self.read_probe(request)
        if have is None:
            request.peer.back_off(self.relay.now)
        elif have >= self.relay.image.have and self.stream is not None and not self.requests:
            self.close_stream()
            self.request_file(request.peer)

    def no_source_reason(self) -> str:
        """Why no predecessor gives us the file, by the nearest and the farthest of those before us."""
        if not self.peers:
            return "there is no host before this one and no source"
        reasons = {p.host: p.reason or "not tried" for p in (self.peers[0], self.peers[-1])}
        listed = "; ".join(f"{host}: {why}" for host, why in reasons.items())
        patience = f"{self.relay.limits['patience']:g} s"
        return f"none of the {len(self.peers)} before this host gave it within {patience} ({listed})"
