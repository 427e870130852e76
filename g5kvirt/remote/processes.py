"""Child processes that are always terminated and reaped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from g5kvirt.errors import MachineError

__all__ = ["kill_session", "memory_file", "reopen", "spawn", "terminate"]


def spawn(
    argv: Sequence[str], *, env: dict[str, str], stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Start ``argv`` in a new session, with pipes for its output.

    In a new session Ctrl-C reaches only us, we can terminate all of it, and no other part of this process
    (execo waits for its process group) collects its exit status. Raises MachineError if the program is
    missing or no process can be started.
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
        raise MachineError(
            f"{argv[0]} not found", advice="install it (packages openssh-client, taktuk)"
        ) from None
    except OSError as error:
        raise MachineError(f"{argv[0]} could not be started: {error.strerror}") from error


def memory_file(data: bytes) -> int:
    """A file descriptor of an in-memory file with ``data``; the caller closes it."""
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
    """Open the file of ``fd`` again for reading, with an independent position at its start."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def terminate(processes: Iterable[subprocess.Popen[bytes]], grace: float = 0.5) -> None:
    """Terminate these processes and their groups: SIGTERM, after ``grace`` seconds SIGKILL; reap them."""
    every = list(processes)
    alive = [process for process in every if not _exited(process)]
    for process in alive:
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while (alive := [process for process in alive if not _exited(process)]) and time.monotonic() < deadline:
        time.sleep(0.005)
    for process in every:
        # Even if the leader has exited: others of its group may have ignored SIGTERM. Before reaping it, so
        # that the id of the group cannot have been reused.
        if process.returncode is None:
            _signal_group(process, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # it waits for a disk: nothing helps now
                process.wait(5)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _exited(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process has exited, without reaping it."""
    if process.returncode is not None:
        return True
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # already reaped elsewhere
        return True


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def kill_session(leader: subprocess.Popen[bytes], grace: float = 2.0) -> None:
    """Kill every process in the session of ``leader``, in any process group, and reap the leader.

    TakTuk puts each connector into its own process group but leaves it in the session.
    """
    deadline = time.monotonic() + grace
    while (members := session_members(leader.pid)) and time.monotonic() < deadline:
        for pid in members:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    terminate([leader])


def session_members(session: int) -> list[int]:
    """Running processes (not zombies) of a session."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # the name may contain spaces and parentheses: parse from the last parenthesis
            state, _parent, _group, own = stat.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):  # it exited meanwhile
            continue
        if int(own) == session and state != "Z":
            members.append(int(stat.parent.name))
    return members
