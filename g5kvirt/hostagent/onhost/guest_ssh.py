"""The operation on guests from within: ssh. A command on many guests, from their own host."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .records import Record, Results

TRIES = 4  #: of a guest that refuses connections
FIRST_PAUSE = 0.5  #: seconds until the second one, doubled each time
MOST_OUTPUT = 64 << 20  #: bytes of one guest, after which its command is ended

#: Of every login. The user's and the host's own configuration and keys have no say in it.
_ARGUMENTS = ["ssh", "-n", "-T", "-F", "/dev/null", "-l", "root"]


def ssh(request: Record, _home: str) -> Results:
    """Run a command on guests, several at once; one answer for each, as it ends.

    Raises OSError where there is neither a key nor an agent.
    """
    words = list(_ARGUMENTS)
    for option in request["options"]:
        words += ["-o", option]
    key = -1
    if request["key"] is not None:
        key = memory_file(request["key"])
        # ssh closes what it inherits, so the file is that of this process
        words += [
            "-i",
            f"/proc/{os.getpid()}/fd/{key}",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "IdentityAgent=none",
        ]
    elif not os.path.exists(os.environ.get("SSH_AUTH_SOCK", "")):
        raise OSError("no ssh agent is forwarded to this host")
    else:
        words += ["-o", "IdentityFile=none"]
    waiting = deque((0.0, name, address, 1) for name, address in request["guests"].items())
    running: list[Login] = []
    poll = select.poll()
    try:
        while waiting or running:
            while waiting and len(running) < int(request["at_once"]) and waiting[0][0] <= time.monotonic():
                _, name, address, number = waiting.popleft()
                argv = [*words, "--", address, request["command"]]
                running.append(Login(name, address, argv, float(request["limit"]), poll, number))
            poll.poll(250 if running else 50)
            for login in list(running):
                if not login.has_ended():
                    continue
                running.remove(login)
                result = login.result()
                if login.number < TRIES and is_refused(result):
                    pause = FIRST_PAUSE * 2 ** (login.number - 1)
                    waiting.append((time.monotonic() + pause, login.name, login.address, login.number + 1))
                else:
                    yield login.name, result
    finally:
        for login in running:
            login.kill()
        if key >= 0:
            os.close(key)


def is_refused(result: Record) -> bool:
    """Whether the guest's kernel took no connection: its ssh server is not up yet, and nothing has begun."""
    return result["code"] == 255 and not result["out"] and "Connection refused" in result["err"]


def memory_file(text: str) -> int:
    """A file that only this process and its children see; ssh takes no key that others may read."""
    fd = os.memfd_create("key")
    os.fchmod(fd, 0o600)
    os.write(fd, text.encode())
    return fd


class Login:
    """One ssh that runs."""

    def __init__(
        self, name: str, address: str, argv: list[str], limit: float, poll: select.poll, number: int
    ) -> None:
        self.name, self.address, self.number = name, address, number
        self._poll = poll
        self._start = time.monotonic()
        self._limit = limit
        self._begun: float | None = None  # seconds until the first output
        self._late = False
        self._process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._data = {pipe.fileno(): bytearray() for pipe in (self._process.stdout, self._process.stderr)}
        self._out, self._err = self._data
        self._open = set(self._data)
        self._exit = os.pidfd_open(self._process.pid)
        for descriptor in (*self._data, self._exit):
            os.set_blocking(descriptor, False)
            poll.register(descriptor, select.POLLIN)

    def has_ended(self) -> bool:
        """Whether it has exited; what has come until then is read, a piece at a time while it runs."""
        exited = self._process.poll() is not None
        for pipe in list(self._open):
            while self._read(pipe) and exited:
                pass
        late = time.monotonic() - self._start > self._limit
        if not exited and not self._late and (late or max(map(len, self._data.values())) > MOST_OUTPUT):
            self._late = True
            self._process.kill()
        return exited

    def _read(self, pipe: int) -> bool:
        """Read a piece; False if there is none."""
        try:
            data = os.read(pipe, 1 << 16)
        except BlockingIOError:
            return False
        if data:
            self._data[pipe] += data
            self._begun = self._begun or time.monotonic() - self._start
        else:
            self._open.remove(pipe)
            self._poll.unregister(pipe)
        return bool(data)

    def result(self) -> Record:
        """How it ended."""
        self._close()
        return {
            "code": None if self._late else self._process.returncode,
            "out": self._data[self._out].decode("utf-8", "surrogateescape"),
            "err": self._data[self._err].decode("utf-8", "surrogateescape"),
            "begun": self._begun,
            "seconds": time.monotonic() - self._start,
        }

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        for descriptor in (*self._open, self._exit):
            self._poll.unregister(descriptor)
        os.close(self._exit)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
