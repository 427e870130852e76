"""Nice values of processes, and of their sessions among each other."""

from __future__ import annotations

import os
import time

from .processes import EXPECTED_ERRORS, is_alive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .records import Record

#: Seconds for which a session's turn is awaited (`set_session`).
PATIENCE = 30.0


def set_threads(pid: int, nice: int) -> None:
    """The nice value of a process, for all of its threads."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.setpriority(os.PRIO_PROCESS, int(thread), nice)


def set_session(pid: int, nice: int) -> bool:
    """The nice value of a process's session, by which sessions share a processor on kernels with autogroups.

    False if it has to be tried again: in a user namespace, the kernel takes ten of these a second, from all
    namespaces together.
    """
    path = f"/proc/{pid}/autogroup"
    try:
        if os.path.exists(path):
            with open(path, "w", encoding="ascii") as group:
                group.write(str(nice))
    except BlockingIOError:
        return False
    return True


def set_sessions(processes: Iterable[Record], nice: int, patience: float = PATIENCE) -> None:
    """Those of processes {"pid", "born"}, within ``patience`` seconds as far as possible."""
    deadline = time.monotonic() + patience
    for process in processes:
        while is_alive(process) and time.monotonic() < deadline:
            try:
                if set_session(process["pid"], nice):
                    break
            except EXPECTED_ERRORS:  # it has just ended
                break
            time.sleep(0.05)
