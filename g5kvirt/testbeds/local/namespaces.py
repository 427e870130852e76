"""System calls for Linux namespaces and mounts that Python 3.11 lacks, and a few facts about processes.

Only the standard library, no threads, no state: safe between ``fork`` and ``exec``. Every failure is an
`OSError` that names the call and its target.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Collection, Iterable
from pathlib import Path

__all__ = [
    "ALL",
    "MNT_DETACH",
    "MS_BIND",
    "MS_NODEV",
    "MS_NOSUID",
    "MS_PRIVATE",
    "MS_RDONLY",
    "MS_REC",
    "MS_REMOUNT",
    "NEWIPC",
    "NEWNET",
    "NEWNS",
    "NEWPID",
    "NEWUSER",
    "NEWUTS",
    "bind",
    "die_with_parent",
    "is_listening",
    "keep_capabilities",
    "map_same_users",
    "mount",
    "pivot_root",
    "private_mounts",
    "process_name",
    "set_hostname",
    "setns",
    "start_time",
    "umount",
    "unshare",
]

NEWNS = 0x00020000
NEWUTS = 0x04000000
NEWIPC = 0x08000000
NEWUSER = 0x10000000
NEWPID = 0x20000000
NEWNET = 0x40000000
ALL = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_CAPBSET_DROP = 24
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}  # the C library has no function for it

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)


def _check(result: int, call: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Move into new namespaces as in ``flags`` (a new pid namespace applies from the next child on)."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, flags: int = 0) -> None:
    """Move the calling thread into the namespace of ``fd`` (an open ``/proc/PID/ns/…``)."""
    _check(_libc.setns(fd, flags), "setns")


def map_same_users(pid: int) -> None:
    """The user and group ids in the new user namespace of process ``pid`` are those out here, all of them."""
    for kind in ("uid_map", "gid_map"):
        ours = [line.split() for line in Path(f"/proc/self/{kind}").read_text().splitlines()]
        lines = [f"{first} {first} {count}\n" for first, _, count in ours]
        Path(f"/proc/{pid}/{kind}").write_text("".join(lines))


def mount(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    kind: str | None = None,
    flags: int = 0,
    data: str | None = None,
) -> None:
    """mount(2)."""
    _check(
        _libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            kind.encode() if kind else None,
            flags,
            data.encode() if data else None,
        ),
        f"mount of {source} on {target}",
    )


def bind(source: str | os.PathLike[str], target: str | os.PathLike[str], *, read_only: bool = False) -> None:
    """Bind mount ``source`` (a file, or a directory with its submounts) on ``target``."""
    mount(source, target, None, MS_BIND | MS_REC)
    if read_only:
        mount("none", target, None, MS_BIND | MS_REMOUNT | MS_RDONLY)


def private_mounts() -> None:
    """Stop the propagation of mounts to and from other mount namespaces."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)


def umount(target: str | os.PathLike[str], flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), flags), f"umount of {target}")


def pivot_root(new: str | os.PathLike[str]) -> None:
    """Make the mount ``new`` the root of this mount namespace and detach the old root."""
    machine = platform.machine()
    if machine not in _SYS_PIVOT_ROOT:
        raise OSError(f"pivot_root: unknown system call number on {machine}")
    os.chdir(new)
    # With the same directory twice, the old root is stacked on the new one, from where it is detached.
    _check(_libc.syscall(_SYS_PIVOT_ROOT[machine], b".", b"."), f"pivot_root to {new}")
    umount(".", MNT_DETACH)
    os.chdir("/")


def set_hostname(name: str) -> None:
    """Set the hostname of this UTS namespace."""
    encoded = name.encode()
    _check(_libc.sethostname(encoded, len(encoded)), f"sethostname {name}")


def die_with_parent(signal: int) -> None:
    """Send ``signal`` to this process when the thread that started it ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0), "prctl")


def keep_capabilities(numbers: Collection[int]) -> None:
    """Programs that this process executes from now on have at most these capabilities, as root too."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for number in range(last + 1):
        if number not in numbers:
            _check(_libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0), f"prctl of capability {number}")


def process_name(name: str) -> None:
    """Set the name that ``ps`` and ``top`` show for this process (15 characters)."""
    _check(_libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0), "prctl")


def start_time(pid: int) -> int | None:
    """When process ``pid`` started, in clock ticks since boot; None if it does not run (or is a zombie).

    Pids are reused; the pair of pid and start time identifies a process for ever.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the name in parentheses may contain anything
    return None if fields[0] in "ZX" else int(fields[19])


#: The state of a socket that waits for anybody, by the table in /proc/PID/net.
_WAITING = {"tcp": "0A", "tcp6": "0A", "udp": "07"}


def is_listening(port: int, pid: int | str = "self", tables: Iterable[str] = ("tcp", "tcp6")) -> bool:
    """Whether a socket listens on ``port`` in the network namespace of process ``pid``."""
    for table in tables:
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except (FileNotFoundError, ProcessLookupError):
            continue  # no IPv6 on this machine, or no such process
        for fields in map(str.split, lines):
            if fields[3] == _WAITING[table] and int(fields[1].rpartition(":")[2], 16) == port:
                return True
    return False
