"""The result of a command on one host, and the meaning of ssh's error messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from g5kvirt.run.printable import short

__all__ = ["Failure", "Result", "classify_failure", "exit_reason", "last_line", "retry_delay"]

#: Why a command did not start: the connection was refused or closed before the login (a booting host,
#: MaxStartups), the host did not respond, it rejected our key, its name is unknown, or another reason.
Failure = Literal["refused", "timeout", "key", "name", "other"]


@dataclass(frozen=True)
class Result:
    """The result of a command or a file transfer on one host.

    ``ok``: the command ran and exited with 0. ``returncode`` is None unless the host itself reported it.
    ``start`` and ``end``: seconds since the epoch; ``start`` is when the command started (as seen here), or
    the start of the last attempt if it never did. ``attempt`` counts connections. ``reason`` describes what
    went wrong and is empty if ``ok``. ``via``: "ssh", "taktuk", "session" (`Fanout.call`) or
    "host" (`g5kvirt.guests.commands`).
    """

    host: str
    ok: bool
    returncode: int | None
    stdout: bytes
    stderr: bytes
    start: float
    end: float
    attempt: int = 1
    reason: str = ""
    started: bool = False  #: the command started on the host, whatever its outcome
    via: str = "ssh"

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are not UTF-8 are replaced."""
        return self.stdout.decode(errors="replace")

    @property
    def duration(self) -> float:
        """Seconds from start to end."""
        return self.end - self.start


# The first pattern that matches decides. The first five concern a connection that was already logged in:
# the command may have started although its first token did not reach us.
_PATTERNS: tuple[tuple[str, Failure], ...] = (
    ("client_loop", "other"),
    ("read from remote host", "other"),
    ("packet_write_wait", "other"),
    ("dispatch_run_fatal", "other"),
    ("connection lost", "other"),  # of a host to its guest
    # messages of the proxy of the local testbed
    ("is not a name of", "name"),
    ("is not up", "other"),
    ("is no longer up", "other"),
    ("belongs to another user", "other"),
    ("permission denied", "key"),
    ("too many authentication failures", "key"),
    ("no supported authentication methods", "key"),
    ("could not resolve hostname", "name"),
    ("name or service not known", "name"),
    ("connection timed out", "timeout"),
    ("operation timed out", "timeout"),
    ("timed out during banner", "timeout"),
    (": timed out", "timeout"),
    ("no route to host", "timeout"),
    ("network is unreachable", "timeout"),
    ("timeouted", "timeout"),  # a message of TakTuk
    ("timeout connecting", "timeout"),  # this and the next one are libssh's, on hosts
    ("socket error: disconnected", "refused"),
    ("connection refused", "refused"),
    ("connection reset", "refused"),
    ("connection closed", "refused"),
    ("kex_exchange_identification", "refused"),
    ("exceeded maxstartups", "refused"),
    ("proxy dialer did not pass back", "refused"),  # nobody listens behind a proxy with ProxyUseFdpass
    ("not allowed at this time", "refused"),
)

_MESSAGES: dict[Failure, str] = {
    "refused": "unreachable: the host refuses connections",
    "timeout": "unreachable: no response",
    "key": "the host rejects our SSH key",
    "name": "unreachable: unknown host name",
    "other": "unreachable",
}


def classify_failure(messages: bytes) -> tuple[Failure, str]:
    """The kind of failure and a readable reason, from the messages of ssh before any command started."""
    lines = messages.decode(errors="replace").splitlines()
    for pattern, kind in _PATTERNS:
        for line in lines:
            if pattern in line.lower():
                return kind, f"{_MESSAGES[kind]} ({short(line)})"
    last = last_line(messages)
    return "other", f"{_MESSAGES['other']} ({last})" if last else _MESSAGES["other"]


def last_line(data: bytes) -> str:
    """The last line that is not blank, at most 200 characters, without control characters."""
    lines = [line.strip() for line in data.decode(errors="replace").splitlines() if line.strip()]
    return short(lines[-1]) if lines else ""


def exit_reason(code: int | None, stderr: bytes) -> str:
    """Why a command failed that has ended with ``code``: that, and the last line of its standard error."""
    last = last_line(stderr)
    return f"exit code {code}" + (f" ({last})" if last else "")


def retry_delay(kind: Failure, attempt: int, attempts: int, idempotent: bool = False) -> float | None:
    """Seconds to wait after failure number ``attempt`` (from 1) before the next attempt, None to give up.

    Only temporary failures are retried: a connection refused before the login. A host that does not respond
    has already had the full connection time-out; a rejected key or an unknown name is permanent. A failure
    that may be a connection broken after the login ("other") is retried only if the command is idempotent.
    The delay doubles from 0.5 s to at most 8 s.
    """
    if attempt >= attempts or not (kind == "refused" or (kind == "other" and idempotent)):
        return None
    return float(min(8.0, 0.5 * 2 ** (attempt - 1)))
