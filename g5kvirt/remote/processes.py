"""Child processes that are always ended and reaped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from g5kvirt.errors import MachineError

__all__ = ["end", "end_session", "memory_file", "reopen", "spawn"]


def spawn(
    argv: Sequence[str], *, env: dict[str, str], stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Start ``argv`` in a session of its own with pipes for its output.

    Of its own, so that Ctrl-C reaches us alone and we can end the whole of it, and so that no other part of
    this process (execo waits for its own process group) takes its exit status. Raises MachineError if the
    program is missing or no process can be started.
    """
    try:
        return subprocess.Popen(
            list(argv),
            bufsize=0,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise MachineError(f"{argv[0]} was not found: install it (openssh-client, taktuk)") from None
    except OSError as error:
        raise MachineError(f"{argv[0]} could not be started: {error.strerror}") from error


def memory_file(data: bytes) -> int:
    """A descriptor of a file in memory that holds ``data``; the caller closes it."""
    fd = os.memfd_create("g5kvirt", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    except BaseException:
        os.close(fd)
        raise
    return fd


def reopen(fd: int) -> int:
    """Open the file behind ``fd`` again for reading, from its start and with a position of its own."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def end(processes: Iterable[subprocess.Popen[bytes]], patience: float = 0.5) -> None:
    """End these processes and their groups: SIGTERM, after ``patience`` seconds SIGKILL; reap them."""
    every = list(processes)
    alive = [process for process in every if not _exited(process)]
    for process in alive:
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while (alive := [process for process in alive if not _exited(process)]) and time.monotonic() < deadline:
        time.sleep(0.005)
    for process in every:
        # Also where the leader has ended: another of its group may not have listened. Before it is reaped, so
        # that the number of the group cannot have become somebody else's.
        if process.returncode is None:
            _signal_group(process, signal.SIGKILL)
            process.wait(5)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _exited(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended, without reaping it."""
    if process.returncode is not None:
        return True
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # somebody else has reaped it
        return True


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def end_session(leader: subprocess.Popen[bytes], patience: float = 2.0) -> None:
    """End every process of the session that ``leader`` leads, whatever its group, and reap the leader.

    TakTuk puts each connector into a group of its own, but leaves it in the session.
    """
    deadline = time.monotonic() + patience
    while (members := session_members(leader.pid)) and time.monotonic() < deadline:
        for pid in members:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    end([leader])


def session_members(session: int) -> list[int]:
    """Living processes (not zombies) of a session."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # the name may hold blanks and brackets: count from the last one
            state, _parent, _group, own = stat.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):  # it ended while we looked
            continue
        if int(own) == session and state != "Z":
            members.append(int(stat.parent.name))
    return members
