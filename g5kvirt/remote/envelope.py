"""The envelope around a remote command, which tells for certain that it began and how it ended.

ssh's own exit code 255 may mean that the connection failed, that it broke, or that the command exited with
255. So a command is sent in a small POSIX shell script that writes a random word on standard error before it
and again, with the exit code, after it. No first word: the command has not begun, and may be tried again. No
last word: the connection broke while it ran. The exit code is the host's own word, not ssh's.

The same script bounds the command's time on the host with ``timeout``: a command that we give up does not go
on there for ever.
"""

from __future__ import annotations

import base64
import re
import secrets
import shlex
from collections.abc import Callable, Sequence

__all__ = ["KILL_AFTER", "Capture", "OnLine", "new_token", "one_line", "script"]

#: Called as (host, line without its newline, seconds since the epoch) for each line of standard output.
OnLine = Callable[[str, str, float], None]

#: Seconds between SIGTERM and SIGKILL for a command whose time is over.
KILL_AFTER = 3.0


def new_token() -> str:
    """A word that no output holds by chance."""
    return secrets.token_hex(12)


def script(token: str, argv: Sequence[str], timeout: float, stdin: str = "") -> str:
    """The script for a host's POSIX shell. ``stdin`` is shell text put before the command (a pipe's left end)
    or empty to leave standard input as it is."""
    command = shlex.join(argv)
    return (
        f"printf '%s\\n' {token} >&2\n"
        f"{stdin}timeout -k {KILL_AFTER:g} {timeout:.3f} {command}\n"
        "code=$?\n"
        f"printf '\\n%s %s\\n' {token} $code >&2\n"
        "exit $code\n"
    )


def one_line(text: str) -> str:
    """``text`` as one line for a POSIX shell, free of newlines and brackets, with single blanks between
    words.

    TakTuk's own parser splits and joins commands at blanks and gives brackets and separators a meaning.
    """
    packed = base64.b64encode(text.encode()).decode()
    return f'eval "$(echo {packed} | base64 -d)"'


#: Bytes of standard error that are kept of a command without end.
_END = 16 << 10


class Capture:
    """Collects what one host says, finds the two words in it and hands out whole lines as they come."""

    def __init__(self, host: str, token: str, on_line: OnLine | None = None, *, keep: bool = True) -> None:
        self.host = host
        self._keep = keep  # False: lines are only handed out, and standard error is kept by its end
        self.stdout = bytearray()
        self.started: float | None = None
        self.ended: float | None = None  #: when the host told the exit code
        self.returncode: int | None = None
        self.last = 0.0  #: when anything came last
        self._first = f"{token}\n".encode()
        self._final = re.compile(rb"\n" + token.encode() + rb" (\d{1,3})\n")
        self._stderr = bytearray()
        self._noise = b""
        self._searched = 0
        self._on_line = on_line
        self._line = bytearray()

    @property
    def noise(self) -> bytes:
        """What came on standard error before the command began: ssh's own words."""
        return self._noise if self.started is not None else bytes(self._stderr)

    @property
    def stderr(self) -> bytes:
        """The command's own standard error; ssh's words if the command never began."""
        return bytes(self._stderr)

    def feed_stdout(self, data: bytes, t: float) -> None:
        """Take a piece of standard output, of any length."""
        self.last = t
        if self._keep:
            self.stdout += data
        if self._on_line is None:
            return
        self._line += data
        if b"\n" in data:
            *lines, rest = self._line.split(b"\n")
            self._line = bytearray(rest)
            for line in lines:
                self._on_line(self.host, line.decode(errors="replace"), t)

    def feed_stderr(self, data: bytes, t: float) -> None:
        """Take a piece of standard error, of any length."""
        self.last = t
        self._stderr += data
        if self.started is None:
            at = self._stderr.find(self._first)
            if at < 0:
                return
            self.started = t
            self._noise = bytes(self._stderr[:at])
            del self._stderr[: at + len(self._first)]
        if self.ended is None:
            found = self._final.search(self._stderr, self._searched)
            if found:
                self.ended = t
                self.returncode = int(found[1])
                del self._stderr[found.start() : found.end()]
            else:  # the word may lie across two pieces
                self._searched = max(0, len(self._stderr) - len(self._first) - 8)
                if not self._keep and len(self._stderr) > 2 * _END:
                    del self._stderr[:-_END]
                    self._searched = 0

    def close(self, t: float) -> None:
        """No more will come: hand out a last line that has no newline."""
        if self._line and self._on_line is not None:
            self._on_line(self.host, self._line.decode(errors="replace"), t)
        self._line.clear()
