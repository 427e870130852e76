"""What became of one host, and what its ssh's words mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Failure", "Result", "failure", "last_line", "retry_delay"]

#: Why a command was not seen to start: the connection was turned away or cut before the login (a booting
#: host, MaxStartups), nobody answered, our key was refused, the name is unknown, something else.
Failure = Literal["refused", "silent", "key", "name", "other"]


@dataclass(frozen=True)
class Result:
    """What one host made of a command or of files.

    ``ok``: it ran there and exited with 0. ``returncode`` is None unless the host itself told it. ``start``
    and ``end``: seconds since the epoch; ``start`` is when the command began there (as seen here), or when
    the last attempt began if it never did. ``attempt`` counts connections. ``reason`` says in words what went
    wrong and is empty if ``ok``. ``via``: "ssh" or "taktuk".
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
    started: bool = False  #: the command began there, whatever came of it
    via: str = "ssh"

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are not UTF-8 are replaced."""
        return self.stdout.decode(errors="replace")

    @property
    def duration(self) -> float:
        """Seconds from start to end."""
        return self.end - self.start


# In the order of looking: the first that is found names the kind. The first four are said of a connection
# that was already logged in: the command may have begun although its first word did not reach us.
_WORDS: tuple[tuple[str, Failure], ...] = (
    ("client_loop", "other"),
    ("read from remote host", "other"),
    ("packet_write_wait", "other"),
    ("dispatch_run_fatal", "other"),
    # said by the local testbed's proxy
    ("is not a name of", "name"),
    ("is not up", "other"),
    ("belongs to another user", "other"),
    ("permission denied", "key"),
    ("too many authentication failures", "key"),
    ("no supported authentication methods", "key"),
    ("could not resolve hostname", "name"),
    ("name or service not known", "name"),
    ("connection timed out", "silent"),
    ("operation timed out", "silent"),
    ("timed out during banner", "silent"),
    (": timed out", "silent"),
    ("no route to host", "silent"),
    ("network is unreachable", "silent"),
    ("timeouted", "silent"),  # TakTuk's own word
    ("connection refused", "refused"),
    ("connection reset", "refused"),
    ("connection closed", "refused"),
    ("kex_exchange_identification", "refused"),
    ("exceeded maxstartups", "refused"),
    ("not allowed at this time", "refused"),
)

_SAID: dict[Failure, str] = {
    "refused": "unreachable: it turns connections away",
    "silent": "unreachable: no answer",
    "key": "it refuses our key",
    "name": "unreachable: its name is unknown",
    "other": "unreachable",
}


def failure(noise: bytes) -> tuple[Failure, str]:
    """Read what ssh said before any command began: the kind of failure, and a sentence for people."""
    lines = noise.decode(errors="replace").splitlines()
    for words, kind in _WORDS:
        for line in lines:
            if words in line.lower():
                return kind, f"{_SAID[kind]} ({line.strip()[:200]})"
    said = last_line(noise)
    return "other", f"{_SAID['other']} ({said})" if said else _SAID["other"]


def last_line(data: bytes) -> str:
    """The last line that says something, at most 200 characters."""
    lines = [line.strip() for line in data.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def retry_delay(kind: Failure, attempt: int, attempts: int, idempotent: bool = False) -> float | None:
    """Seconds to wait after the ``attempt``-th failure (from 1) before the next one, None to give up.

    Only what may pass is tried again: a connection that was turned away before the login. A host that says
    nothing has already had its whole connection time; a refused key or an unknown name stays so. A failure
    that cannot be told from a connection that broke after the login ("other") is tried again only if the
    command may run twice. The wait doubles from 0.5 s to at most 8 s.
    """
    if attempt >= attempts or not (kind == "refused" or (kind == "other" and idempotent)):
        return None
    return float(min(8.0, 0.5 * 2 ** (attempt - 1)))
