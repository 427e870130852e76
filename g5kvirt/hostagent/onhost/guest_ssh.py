"""The operation on guests from within: ssh. A command on many guests, from their own host."""

from __future__ import annotations

import base64
import os
import queue
import threading
import time
from collections import deque

from . import libssh
from .login import FAILED, Limits, Login
from .records import check_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .records import Record, Results

TRIES = 4  #: of a guest that refuses connections
FIRST_PAUSE = 0.5  #: seconds until the second one, doubled each time
MOST_OUTPUT = 16 << 20  #: bytes of one guest, after which its command is ended
LEAST_ROOM = 64 << 20  #: bytes that are left free where outputs become files
#: Seconds after its limit until a login that does not end, since the ssh agent hangs, is left alone.
_GRACE = 5.0

_SHORT = 4096  #: bytes of output that are text in any case
#: What JSON writes as it is, or nearly.
_PLAIN = bytes(range(32, 127)) + b"\t\n\r"


def ssh(request: Record, _home: str) -> Results:
    """Run a command on guests, several at once; one answer for each, as it ends.

    ``input``: a file of this host that each guest's command reads; without one, its input is empty.
    ``output``: a directory of this host, made if needed, in which each guest's standard output becomes a file
    with the guest's name. ``most``: bytes of output and of errors that a guest may send; one that sends more,
    or is late, is cut off (``stopped`` says so). Raises OSError where there is neither a key nor an agent, or
    no libssh.
    """
    libssh.library()
    limits = Limits(
        float(request["connect_limit"]),
        float(request["login_limit"]),
        float(request["limit"]),
        int(request.get("most", MOST_OUTPUT)),
    )
    files = Files(request.get("input"), request.get("output"))
    key = None
    if request["key"] is not None:
        key = libssh.import_private_key(request["key"])
    elif not os.path.exists(os.environ.get("SSH_AUTH_SOCK", "")):
        raise OSError("no ssh agent is forwarded to this host")
    waiting = deque((0.0, name, address, 1) for name, address in request["guests"].items())
    running: dict[Login, tuple[str, str, int]] = {}
    ended: queue.SimpleQueue[Login] = queue.SimpleQueue()
    try:
        while waiting or running:
            while waiting and len(running) < int(request["at_once"]) and waiting[0][0] <= time.monotonic():
                _, name, address, number = waiting.popleft()
                place = (address, int(request.get("port", 22)))
                login = Login(place, request["command"], key, files.input(), files.output(name), limits)
                running[login] = (name, address, number)
                _start(login, ended)
            for login in _next(ended, running, limits, files):
                name, address, number = running.pop(login)
                result = _result(login, limits, files.size(name))
                if number < TRIES and is_refused(result):
                    pause = FIRST_PAUSE * 2 ** (number - 1)
                    waiting.append((time.monotonic() + pause, name, address, number + 1))
                else:
                    yield name, result
    finally:
        for login in running:
            login.stop("nobody waits for it any more")


def _start(login: Login, ended: queue.SimpleQueue[Login]) -> None:
    """In a thread. Without one the login has failed, and says so."""
    try:
        threading.Thread(target=_run, args=(login, ended), daemon=True).start()
    except RuntimeError as error:
        login.fail(f"its host has no thread left: {error}")
        ended.put(login)


def _run(login: Login, ended: queue.SimpleQueue[Login]) -> None:
    try:
        login.run()
    finally:
        ended.put(login)


def _next(
    ended: queue.SimpleQueue[Login], running: dict[Login, tuple[str, str, int]], limits: Limits, files: Files
) -> list[Login]:
    """A login that has ended, if one does within a moment, and those that should have ended long ago."""
    try:
        login = ended.get(timeout=0.25 if running else 0.05)
        found = [login] if login in running else []  # one that was given up may end later
    except queue.Empty:
        found = []
    if files.are_full():
        for login in running:
            login.stop("cut off: the disk of its host is full")
    last = time.monotonic() - limits.seconds - _GRACE
    late = [login for login in running if login.begin < last and login not in found]
    for login in late:
        login.stop(f"timed out: no end within {limits.seconds:.0f} s")
    return found + late


def _result(login: Login, limits: Limits, size: int) -> Record:
    """How a login has ended; ``size``: bytes of its file."""
    return {
        "code": None if login.stopped else login.code,
        "stopped": login.stopped,
        **encoded("out", bytes(login.output[: limits.output])),
        **encoded("err", bytes(login.errors[: limits.output])),
        "begun": login.begun,
        "seconds": login.seconds or time.monotonic() - login.begin,
        "bytes": size,
    }


def is_refused(result: Record) -> bool:
    """Whether the guest's kernel took no connection: its ssh server is not up yet, and nothing has begun."""
    return result["code"] == FAILED and not result["out"] and "Connection refused" in result["err"]


class Files:
    """Where logins read their input, and where their output goes if it is not to be an answer."""

    def __init__(self, source: str | None, folder: str | None) -> None:
        self._source, self.folder = source, folder
        if folder is not None:
            os.makedirs(folder, mode=0o700, exist_ok=True)

    def input(self) -> int:
        """A descriptor to read from, each time from the beginning. Raises OSError."""
        return os.open(self._source or os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def output(self, name: str) -> int | None:
        """A descriptor of the empty file of one guest; None if outputs are kept in memory."""
        if self.folder is None:
            return None
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
