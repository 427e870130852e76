"""What a link between two VMs does, measured by these VMs: round-trip time, rate and loss.

With programs that busybox has: nothing is installed.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from g5kvirt.guests.commands import GuestCommands
from g5kvirt.inventory import VM
from g5kvirt.spec.links import Link

__all__ = ["NOBODY", "Measured", "measure", "read_ping", "read_transfer"]

#: Where the sending VM listens meanwhile.
PORT = 5199
#: Echo requests and the seconds between two: five for the time, more where some of them are to be lost.
PINGS, PINGS_WITH_LOSS = (5, 0.2), (200, 0.05)
#: Seconds of traffic of a transfer, and its bytes at least and at most.
SECONDS = 2.0
BYTES = (256 << 10, 256 << 20)
BLOCK = 65536
#: Seconds until a transfer is given up: the slowest rate takes four minutes for the least bytes.
LIMIT = 300

#: Debian's busybox has these programs, but not under their names; its netcat comes before others, of which
#: each ends a connection in its own way.
_PROGRAMS = (
    "export nc=nc ping=ping\n"
    "busybox --list 2>/dev/null | grep -qx nc && nc='busybox nc'\n"
    "command -v ping >/dev/null || ping='busybox ping'\n"
)

#: The sender listens in the background, for as long as the transfer may take, and says when it does.
_SEND = (
    _PROGRAMS + "setsid timeout {limit} sh -c"
    " 'dd if=/dev/zero bs={block} count={blocks} 2>/dev/null | $nc -l -p {port}'"
    " </dev/null >/dev/null 2>/tmp/g5kvirt-link &\n"
    "for i in 1 2 3 4 5 6 7 8 9 10; do\n"
    "  grep -qs ':{hexport} 0*:0000 0A' /proc/net/tcp /proc/net/tcp6 && exit 0\n"
    "  sleep 0.3\n"
    "done\n"
    "cat /tmp/g5kvirt-link >&2; echo 'nc does not listen' >&2; exit 1\n"
)

#: The receiver times what comes after the first byte. Its netcat reads from a pipe without an end: one that
#: sees the end of its input closes the connection.
_RECEIVE = (
    _PROGRAMS + "f=/tmp/g5kvirt-link; rm -f $f; mkfifo $f && exec 3<>$f || exit 1\n"
    "timeout {limit} $nc {address} {port} <&3 | {{\n"
    "  dd bs=1 count=1 of=/dev/null 2>/dev/null; cut -d' ' -f1 /proc/uptime\n"
    "  wc -c; cut -d' ' -f1 /proc/uptime\n"
    "}}\n"
    "rm -f $f\n"
)


@dataclass(frozen=True)
class Measured:
    """What was found; None: not measured, for the ``reason``."""

    rtt: float | None = None  #: seconds, the mean of the answers that came
    rate: float | None = None  #: bits per second of payload
    loss: float | None = None  #: the part of the echo requests without an answer: lost there or back
    reason: str = ""

    def to_plain(self) -> dict[str, Any]:
        """For the journal."""
        return asdict(self)


#: Of a link without deployed VMs at both ends.
NOBODY = Measured(reason="no two VMs are deployed there")


def measure(guests: GuestCommands, link: Link, source: VM, target: VM) -> Measured:
    """Measure what ``target`` receives from ``source``. Takes some seconds, and never raises for a VM."""
    count = PINGS if link.loss is None else PINGS_WITH_LOSS
    rtt, loss, reason = _ping(guests, source, target, *count)
    rate = None
    if link.rate is not None and not reason:
        rate, reason = _transfer(guests, float(link.rate), source, target)
    return Measured(rtt, rate, loss, reason)


def _ping(
    guests: GuestCommands, source: VM, target: VM, count: int, interval: float
) -> tuple[float | None, float | None, str]:
    command = f"{_PROGRAMS}$ping -c {count} -i {interval} -W 2 {source.ip}"
    result = guests.run([target.name], ["sh", "-c", command], timeout=120)[target.name]
    found = read_ping(result.text)
    if found is None:
        return None, None, result.reason or "ping printed no statistics"
    return found[0], found[1], ""


def _transfer(guests: GuestCommands, rate: float, source: VM, target: VM) -> tuple[float | None, str]:
    least, most = BYTES
    blocks = int(min(max(rate / 8 * SECONDS, least), most)) // BLOCK
    values = {"limit": LIMIT, "block": BLOCK, "blocks": blocks, "port": PORT, "hexport": f"{PORT:04X}"}
    send = _SEND.format(**values)
    sent = guests.run([source.name], ["sh", "-c", send], timeout=20)[source.name]
    if not sent.ok:
        return None, f"{source.name} cannot send: {sent.reason}"
    receive = _RECEIVE.format(**values, address=source.ip)
    received = guests.run([target.name], ["sh", "-c", receive], timeout=LIMIT + 20)[target.name]
    found = read_transfer(received.text, blocks * BLOCK)
    if isinstance(found, str):
        return None, f"{target.name}: {received.reason or found}"
    return found, ""


def read_ping(text: str) -> tuple[float | None, float] | None:
    """(mean seconds of a round trip, part of the requests that was lost); None if it is no output of ping.

    Of iputils' ping (``rtt min/avg/max/mdev``) and of busybox's (``round-trip min/avg/max``).
    """
    lost = re.search(r"([0-9.]+)% packet loss", text)
    if lost is None:
        return None
    times = re.search(r"min/avg/max\S* = [0-9.]+/([0-9.]+)/", text)
    return (float(times[1]) / 1e3 if times else None), float(lost[1]) / 100


def read_transfer(text: str, size: int) -> float | str:
    """Bits per second, of what the receiver printed (begin, bytes after the first, end), or what is wrong."""
    words = text.split()
    if len(words) != 3 or not words[1].isdigit():
        return "nothing was received"
    begin, count, end = float(words[0]), int(words[1]), float(words[2])
    if count < size - 1:
        return f"only {count + 1:,} of {size:,} bytes were received"
    if end - begin < 0.05:  # the clock has hundredths of a second
        return f"{size:,} bytes came too fast to be timed"
    return count * 8 / (end - begin)
