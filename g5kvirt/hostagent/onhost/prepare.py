"""The ``prepare`` operation: bridge, addresses, kernel settings and RAM disks of a host."""

from __future__ import annotations

import os

from . import libc
from .bridge import add_addresses, create_bridge
from .processes import attempt
from .records import read_text, write_setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .records import Record, Results

#: Part of the request → where it is mounted. Consoles have a place of their own, so that a VM that writes
#: without end takes no room from the disks.
MOUNTS = {"ramdisk": "ram", "consoles": "consoles"}


def prepare(request: Record, home: str) -> Results:
    """Bridge, extra addresses, kernel settings, RAM disks: one answer for each, in this order."""
    if "bridge" in request:
        yield attempt("bridge", create_bridge, home, request["bridge"], request.get("nic"))
    if request.get("addresses"):
        yield attempt("addresses", add_addresses, request.get("bridge", "br0"), request["addresses"])
    if request.get("sysctls"):
        yield attempt("sysctls", set_sysctls, request["sysctls"])
    for name in ("ramdisk", "consoles"):
        if request.get(name):
            yield attempt(name, mount_tmpfs, home, MOUNTS[name], int(request[name]))


def set_sysctls(wanted: Record) -> Record:
    """Kernel settings, best effort; for each key: set, unchanged, absent or the reason of a failure.

    The sizes of the ARP table, for example, exist only in the machine's first network namespace.
    """
    results = {}
    for key, value in wanted.items():
        path = "/proc/sys/" + (key if "/" in key else key.replace(".", "/"))
        try:
            if ".." in key:
                raise ValueError("no such key")
            if not os.path.exists(path):
                results[key] = "absent"
            elif read_text(path).split() == str(value).split():
                results[key] = "unchanged"
            else:
                write_setting(path, str(value))
                results[key] = "set"
        except (OSError, ValueError) as error:
            results[key] = f"refused: {error}"
    return {"unchanged": "set" not in results.values(), "keys": results}


def mount_tmpfs(home: str, name: str, size: int) -> Record:
    """A tmpfs of ``size`` bytes below ``home``; an existing one is resized if need be."""
    path = f"{home}/{name}"
    os.makedirs(path, mode=0o700, exist_ok=True)
    mounted = os.path.ismount(path)
    if mounted:
        figures = os.statvfs(path)
        if abs(figures.f_blocks * figures.f_frsize - size) < 1 << 20:
            return {"unchanged": True, "path": path, "size": size}
    flags = libc.MS_NOSUID | libc.MS_NODEV | libc.MS_REMOUNT * mounted
    libc.mount("g5kvirt", path, "tmpfs", flags, f"size={size},mode=700")
    return {"path": path, "size": size, "resized": mounted}
