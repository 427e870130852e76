"""When a silent predecessor is doubted and when it is left: pure decisions on what is usual here."""

from __future__ import annotations

from .image import CHUNK

#: Seconds' worth of bytes that must have come before we are woken: each hop of a chain adds them.
WAKE_INTERVAL = 0.001
MIN_WAKE = 16 << 10  #: bytes for which we are woken at the least: a wake-up costs more than a copy
MIN_STALL = (
    0.02  #: seconds without a byte before a predecessor is doubted, at the least; a probe costs little
)
HALF_LIFE = 0.25  #: seconds after which half of an unusual pause is forgotten


class ArrivalStats:
    """How bytes come: when the last ones did, how fast, and how long the pauses between them usually are."""

    def __init__(self, now: float, pause: float) -> None:
        self.last = now  #: when bytes came last, or a connection for them began
        self.first: float | None = None  #: when the very first ones came
        self.count = 0
        self.pause = pause  #: the longest usual one, of which half is forgotten every `HALF_LIFE` seconds
        self.new_connection = True  # a new connection: the time before its first byte is no pause
        self.last_bytes = now  # when bytes came last
        self.outage = 0.0  #: the longest time from the last byte of one connection to the first of the next

    def begin_connection(self, now: float) -> None:
        """The bytes come by a new connection from now on."""
        self.last, self.new_connection = now, True

    def add_arrival(self, now: float, count: int) -> None:
        """Bytes are here."""
        if self.first is None:
            self.first = now
        elif self.new_connection:
            self.outage = max(self.outage, now - self.last_bytes)
        gap = 0.0 if self.new_connection else now - self.last
        self.pause = max(gap, self.pause * 0.5 ** (gap / HALF_LIFE))
        self.last, self.last_bytes, self.new_connection = now, now, False
        self.count += count

    def add_backlog(self, count: int) -> None:
        """Bytes were lying here for an unknown time: no sign of life, and no pause."""
        self.count += count

    def stall(self, silence: float) -> float:
        """Seconds without a byte that are not usual here."""
        return min(silence, max(MIN_STALL, 2 * self.pause))

    def wake_bytes(self, left: int) -> int:
        """Bytes to be woken for: a millisecond's worth of them, as they come, or the last ones."""
        rate = self.count / max(self.last - self.first, 0.01) if self.first is not None else 0.0
        return min(left, CHUNK, max(MIN_WAKE, int(rate * WAKE_INTERVAL)))


def silence_action(
    quiet: float, stall: float, probe_age: float | None, connected: bool, connect_time: float, answer: float
) -> str:
    """What to do about a predecessor from which nothing has come for ``quiet`` seconds.

    ``stall``: how long that is usual; ``probe_age``: seconds since the probe was sent, None if
    none was; ``connected``: its kernel took the connection for that; ``connect_time`` and ``answer``:
    seconds that its kernel and its relay have. Gives "wait", "probe", "pass" (request the file from the next
    one, too, and take it from whoever is first) or "leave".
    """
    if quiet <= stall:
        return "wait"
    if probe_age is None:
        return "probe"
    if probe_age > answer:
        return "leave"
    return "pass" if probe_age > connect_time and not connected else "wait"
