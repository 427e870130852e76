"""The shell script around a remote command that reports reliably whether it started and how it ended.

ssh's exit code 255 can mean that the connection failed, that it broke, or that the command exited with 255.
Therefore a command is sent inside a small POSIX shell script that writes a random token to standard error
before the command, and the token with the exit code after it. Without the first token the command has not
started and can be retried. Without the last one the connection broke while the command ran. The exit code
comes from the host, not from ssh.

The script also limits the run time on the host with ``timeout``, so a command that we give up does not run
there for ever, and reports the host's uptime before and after the command: whether it has used up its time is
decided by the host's clock, since a busy notebook sees the first token late.
"""

from __future__ import annotations

import base64
import re
import secrets
import shlex
from collections.abc import Callable, Sequence

__all__ = ["KILL_AFTER", "MOST_OUTPUT", "Capture", "OnLine", "new_token", "one_line", "script"]

#: Called as (host, line without its newline, seconds since the epoch) for each line of standard output.
OnLine = Callable[[str, str, float], None]

#: Seconds between SIGTERM and SIGKILL for a command that has timed out.
KILL_AFTER = 3.0


def new_token() -> str:
    """A random token that cannot occur in output by chance."""
    return secrets.token_hex(12)


def script(token: str, argv: Sequence[str], timeout: float, stdin: str = "") -> str:
    """The script for a host's POSIX shell.

    ``stdin`` is shell text placed before the command, such as the left side of a pipe; empty leaves standard
    input unchanged.
    """
    command = shlex.join(argv)
    return (
        f"printf '%s\\n' {token} >&2\n"
        "read since _ </proc/uptime\n"
        f"{stdin}timeout -k {KILL_AFTER:g} {timeout:.3f} {command}\n"
        "code=$?\n"
        "read now _ </proc/uptime\n"
        f"printf '\\n%s %s %s %s\\n' {token} $code $since $now >&2\n"
        "exit $code\n"
    )


def one_line(text: str) -> str:
    """Encode ``text`` as one line for a POSIX shell, without newlines or brackets, with single spaces.

    TakTuk's parser splits commands at spaces and rejoins them, and treats brackets and separators as syntax.
    """
    packed = base64.b64encode(text.encode()).decode()
    return f'eval "$(echo {packed} | base64 -d)"'


#: Bytes that follow the second token, at most.
_REPORT = 64
#: Bytes at the end of standard error that are kept for a command that runs indefinitely.
_STDERR_TAIL = 16 << 10
#: Bytes of standard output and of standard error of other commands that are kept: who sends more is up to
#: something. Of a line that is passed on.
MOST_OUTPUT = 1 << 30
_MOST_ERRORS = 16 << 20
_LONGEST_LINE = 4 << 20


class Capture:
    """Collects the output of one host, finds the two tokens in it and passes complete lines on."""

    def __init__(self, host: str, token: str, on_line: OnLine | None = None, *, keep: bool = True) -> None:
        self.host = host
        self._keep = keep  # False: lines are only passed on, and only the end of standard error is kept
        self.stdout = bytearray()
        self.started: float | None = None
        self.ended: float | None = None  #: when the host reported the exit code
        self.returncode: int | None = None
        self.cut = False  #: whether there was more output than is kept
        self.seconds = 0.0  #: that the command took by the host's clock, 0 if the host did not report it
        self.last = 0.0  #: when the latest output arrived
        self._first = f"{token}\n".encode()
        self._final = re.compile(
            rb"\n" + token.encode() + rb" (\d{1,3})(?: ([0-9]+(?:\.[0-9]+)?) ([0-9]+(?:\.[0-9]+)?))? *\n"
        )
        self._stderr = bytearray()
        self._ssh_stderr = b""
        self._searched = 0
        self._on_line = on_line
        self._line = bytearray()

    @property
    def ssh_stderr(self) -> bytes:
        """Standard error before the command started: messages of ssh itself."""
        return self._ssh_stderr if self.started is not None else bytes(self._stderr)

    @property
    def stderr(self) -> bytes:
        """Standard error of the command; messages of ssh if the command never started."""
        return bytes(self._stderr)

    def feed_stdout(self, data: bytes, t: float) -> None:
        """Add a chunk of standard output, of any length."""
        self.last = t
        if self._keep:
            room = MOST_OUTPUT - len(self.stdout)
            self.stdout += data[:room]
            self.cut = self.cut or len(data) > room
        if self._on_line is None:
            return
        if len(self._line) < _LONGEST_LINE:  # of a longer one the beginning is passed on
            self._line += data
        elif b"\n" in data:
            self._line += data[data.index(b"\n") :]
        if b"\n" in data:
            *lines, rest = self._line.split(b"\n")
            self._line = bytearray(rest)
            for line in lines:
                self._on_line(self.host, line.decode(errors="replace"), t)

    def feed_stderr(self, data: bytes, t: float) -> None:
        """Add a chunk of standard error, of any length."""
        self.last = t
        self._stderr += data
        if self.started is None:
            at = self._stderr.find(self._first, self._searched)
            if at < 0:
                self._searched = max(0, len(self._stderr) - len(self._first))
                self._shorten()
                return
            self._searched = 0
            self.started = t
            self._ssh_stderr = bytes(self._stderr[:at])
            del self._stderr[: at + len(self._first)]
        if self.ended is None:
            found = self._final.search(self._stderr, self._searched)
            if found:
                self.ended = t
                self.returncode = int(found[1])
                if found[2]:
                    self.seconds = float(found[3]) - float(found[2])
                del self._stderr[found.start() : found.end()]
            else:  # the token may span two chunks
                self._searched = max(0, len(self._stderr) - len(self._first) - _REPORT)
                self._shorten()

    def _shorten(self) -> None:
        """Keep the end of standard error: the token and the last message are there."""
        most = _MOST_ERRORS if self._keep else 2 * _STDERR_TAIL
        if len(self._stderr) > most:
            del self._stderr[: -most // 2]
            self._searched = 0

    def close(self, t: float) -> None:
        """End of output: pass on a last line without a newline."""
        if self._line and self._on_line is not None:
            self._on_line(self.host, self._line.decode(errors="replace"), t)
        self._line.clear()
