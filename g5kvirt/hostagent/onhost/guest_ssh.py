"""The operation on guests from within: ssh. A command on many guests, from their own host."""

from __future__ import annotations

import base64
import os
import select
import subprocess
import time
from collections import deque

from .records import check_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .records import Record, Results

TRIES = 4  #: of a guest that refuses connections
FIRST_PAUSE = 0.5  #: seconds until the second one, doubled each time
MOST_OUTPUT = 16 << 20  #: bytes of one guest, after which its command is ended
LEAST_ROOM = 64 << 20  #: bytes that are left free where outputs become files

_SHORT = 4096  #: bytes of output that are text in any case
#: What JSON writes as it is, or nearly.
_PLAIN = bytes(range(32, 127)) + b"\t\n\r"
#: Of every login. The user's and the host's own configuration and keys have no say in it.
_ARGUMENTS = ["ssh", "-T", "-F", "/dev/null", "-l", "root"]


def ssh(request: Record, _home: str) -> Results:
    """Run a command on guests, several at once; one answer for each, as it ends.

    ``input``: a file of this host that each guest's command reads; without one, its input is empty.
    ``output``: a directory of this host, made if needed, in which each guest's standard output becomes a file
    with the guest's name. ``most``: bytes of output and of errors that a guest may send; one that sends more,
    or is late, is cut off (``stopped`` says so). Raises OSError where there is neither a key nor an agent.
    """
    words = list(_ARGUMENTS)
    files = Files(request.get("input"), request.get("output"))
    most = int(request.get("most", MOST_OUTPUT))
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
                limit = float(request["limit"])
                running.append(Login(name, address, argv, limit, poll, number, files, most))
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


class Files:
    """Where logins read their input, and where their output goes if it is not to be an answer."""

    def __init__(self, source: str | None, folder: str | None) -> None:
        self._source, self.folder = source, folder
        if folder is not None:
            os.makedirs(folder, mode=0o700, exist_ok=True)

    def input(self) -> int:
        """A descriptor to read from, each time from the beginning. Raises OSError."""
        return os.open(self._source or os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def output(self, name: str) -> int:
        """A descriptor of the empty file of one guest, or what `subprocess` takes for a pipe."""
        if self.folder is None:
            return subprocess.PIPE
        path = f"{self.folder}/{check_name(name)}"
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def are_full(self) -> bool:
        """Whether outputs have filled their disk, which others need, too."""
        if self.folder is None:
            return False
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize < LEAST_ROOM

    def size(self, name: str) -> int:
        """Bytes of one guest's file."""
        return os.path.getsize(f"{self.folder}/{name}") if self.folder is not None else 0


def encoded(key: str, data: bytes) -> Record:
    """Output for an answer: text under ``key``, or in base64 under ``key`` and 64, where that is shorter.

    JSON writes each control character with six, and twice as many backslashes in a session.
    """
    if len(data) < _SHORT or 4 * len(data.translate(None, _PLAIN)) <= len(data):
        return {key: data.decode("utf-8", "surrogateescape")}
    return {key: "", f"{key}64": base64.b64encode(data).decode()}


class Login:
    """One ssh that runs."""

    def __init__(
        self,
        name: str,
        address: str,
        argv: list[str],
        limit: float,
        poll: select.poll,
        number: int,
        files: Files,
        most: int,
    ) -> None:
        self.name, self.address, self.number = name, address, number
        self._most = most
        self._poll = poll
        self._start = time.monotonic()
        self._limit = limit
        self._begun: float | None = None  # seconds until the first output
        self._stopped = ""  # why it was ended
        self._files = files
        source, target = files.input(), files.output(name)
        try:
            self._process = subprocess.Popen(argv, stdin=source, stdout=target, stderr=subprocess.PIPE)
        finally:
            for descriptor in (source, target):
                if descriptor >= 0:
                    os.close(descriptor)
        pipes = [pipe for pipe in (self._process.stdout, self._process.stderr) if pipe is not None]
        self._data = {pipe.fileno(): bytearray() for pipe in pipes}
        self._err = pipes[-1].fileno()
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
        if not exited and not self._stopped and (reason := self._reason_to_stop()):
            self._stopped = reason
            self._process.kill()
        return exited

    def _reason_to_stop(self) -> str:
        """Empty if it may go on."""
        if time.monotonic() - self._start > self._limit:
            return f"timed out: no end within {self._limit:.0f} s"
        if max(map(len, self._data.values())) > self._most:
            mebibytes = f"{self._most / (1 << 20):.3g} MiB"
            return f"cut off: more than {mebibytes} of output; get() fetches files of any size"
        if self._files.are_full():
            return "cut off: the disk of its host is full"
        return ""

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
        err = self._data.pop(self._err)
        return {
            "code": None if self._stopped else self._process.returncode,
            "stopped": self._stopped,
            **encoded("out", b"".join(self._data.values())[: self._most]),
            **encoded("err", bytes(err[: self._most])),
            "begun": self._begun,
            "seconds": time.monotonic() - self._start,
            "bytes": self._files.size(self.name),
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
