"""The command line as on another system: ``python other_system.py macos|windows ARGUMENT…``.

What that system does not have is taken away from g5kvirt and execo: modules, functions of `os`, signals. It
stays for other packages, which have their own ways there. Files and paths remain those of this machine.
"""

from __future__ import annotations

import builtins
import os
import platform
import signal
import socket
import sys
import types
from typing import Any

# What other packages need of this system, they take before it is changed.
import matplotlib.pyplot  # noqa: F401
import pandas  # noqa: F401
import platformdirs.unix  # noqa: F401
import requests  # noqa: F401
import rich.console  # noqa: F401

#: System → what `platform.system` calls it, modules and attributes that it does not have.
SYSTEMS: dict[str, tuple[str, str, dict[Any, str]]] = {
    "macos": (
        "Darwin",
        "",
        {os: "sched_getaffinity pipe2 pidfd_open", signal: "pidfd_send_signal"},
    ),
    "windows": (
        "Windows",
        "fcntl resource pwd grp termios pty tty",
        {
            os: "fork geteuid getuid getgid killpg getpgid setsid setpgid sched_getaffinity pipe2 pidfd_open"
            " chown mkfifo openpty fchmod statvfs uname getloadavg sysconf",
            signal: "SIGHUP SIGKILL SIGUSR1 SIGUSR2 SIGCHLD SIGALRM SIGPIPE pidfd_send_signal",
            socket: "AF_UNIX",
        },
    ),
}


def become(system: str) -> None:
    """Take away what ``system`` does not have."""
    name, modules, attributes = SYSTEMS[system]
    if system == "windows":
        _lock_as_windows()
    importer = builtins.__import__
    missing = modules.split()

    def imported(name: str, globals: Any = None, *rest: Any, **more: Any) -> Any:
        importing = str((globals or {}).get("__name__"))
        if name in missing and importing.startswith(("g5kvirt", "execo")):
            raise ImportError(f"no module named {name} on {system}", name=name)
        return importer(name, globals, *rest, **more)

    builtins.__import__ = imported
    for module, names in attributes.items():
        for one in names.split():
            if hasattr(module, one):
                delattr(module, one)
    platform.system = lambda: name


def _lock_as_windows() -> None:
    """Give `g5kvirt.run.file_lock` a msvcrt."""
    import fcntl

    def locking(descriptor: int, mode: int, number: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PermissionError(13, "Permission denied") from error

    msvcrt: Any = types.ModuleType("msvcrt")
    msvcrt.LK_NBLCK, msvcrt.locking = 2, locking
    sys.modules["msvcrt"] = msvcrt
    real, sys.platform = sys.platform, "win32"
    import g5kvirt.run.file_lock  # noqa: F401

    sys.platform = real


if __name__ == "__main__":
    become(sys.argv[1])
    from g5kvirt.cli import main

    sys.exit(main(["--debug", *sys.argv[2:]]))
