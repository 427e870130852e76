"""The system that a guest was deployed with: its root file system, and ssh into it.

The unpacked image is shared by the host's guests; what a guest writes goes into a directory of its own
(overlayfs). Mount and host name namespaces keep that apart, and the processes of a guest are recognised by
its network namespace. Power is a file: ``reboot`` writes into it, since a guest must not reboot its host.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat

from ..libc import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUTS,
    MS_BIND,
    MS_PRIVATE,
    MS_REC,
    mount,
    setns,
    unshare,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .netns import Home

_POWER = "/.g5kvirt-power"  #: not in a directory, which in an image may be a link that leads out of it
_REBOOT = f"#!/bin/sh\necho reboot > {_POWER}\n"

_SSHD = "mkdir -p /run/sshd; ssh-keygen -A >/dev/null 2>&1; exec /usr/sbin/sshd -i -e"
#: ssh servers that an image may have, with the program and its arguments for one connection on standard input
#: and output.
_SERVERS = (
    ("usr/sbin/dropbear", "/usr/sbin/dropbear", ["dropbear", "-i", "-s", "-R"]),
    ("usr/sbin/sshd", "/bin/sh", ["sh", "-c", _SSHD]),
)
#: Files that every user of the guest may read.
_PUBLIC = ("etc/hostname", "etc/resolv.conf")
#: Of what is started in a guest.
ENVIRONMENT = {"PATH": "/bin:/sbin:/usr/bin:/usr/sbin", "HOME": "/root", "LANG": "C"}


class Root:
    """One guest's root file system: ``image`` (a directory) with changes in ``own``."""

    def __init__(
        self,
        home: Home,
        image: str,
        own: str,
        name: str,
        files: Mapping[str, str],
        identity: Mapping[str, str],
    ) -> None:
        """``files`` (path → text) are written over those of the image at first."""
        self._home = home
        self.image = image
        self.identity = dict(identity)  #: deployment, server, …: of the task
        self.name = name
        self._own = own
        self._files = {**files, "etc/hostname": f"{name}\n", "sbin/reboot": _REBOOT, "bin/reboot": _REBOOT}
        self._written = False
        self._spaces: list[int] = []
        #: the program that starts the image's ssh server, and its arguments; None if it has none
        self.server = _server(image)
        self.used = False  #: whether a process may have been started in it
        shutil.rmtree(own, ignore_errors=True)
        for part in ("upper", "work", "root"):
            os.makedirs(f"{own}/{part}", mode=0o755)

    def open(self) -> int:
        """Mount it, in namespaces of its own; returns the descriptor from which power commands are read.

        Raises OSError.
        """
        try:
            with self._home.away():
                unshare(CLONE_NEWNS | CLONE_NEWUTS)
                for kind in ("mnt", "uts"):
                    self._spaces.append(os.open(f"/proc/self/ns/{kind}", os.O_RDONLY))
                self._mount()
                self._write()
                return os.open(_POWER, os.O_RDWR | os.O_NONBLOCK)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise OSError(f"the root file system cannot be mounted: {error}") from None
            raise

    def _mount(self) -> None:
        """Its root becomes that of this process: the image's links are followed within it, where /proc is the
        host's."""
        options = f"lowerdir={self.image},upperdir={self._own}/upper,workdir={self._own}/work"
        root = f"{self._own}/root"
        mount("none", "/", None, MS_REC | MS_PRIVATE)
        mount("overlay", root, "overlay", 0, options)
        for path in ("dev", "proc", "sys"):
            if os.path.islink(f"{root}/{path}"):
                raise OSError(f"the image's /{path} is a link")
            os.makedirs(f"{root}/{path}", exist_ok=True)
            mount(f"/{path}", f"{root}/{path}", None, MS_BIND | MS_REC)
        # As in any container. It lists the timers of the whole machine, 0.15 s of a core where thousands of
        # guests are on it, and dropbear reads it for each connection.
        with contextlib.suppress(FileNotFoundError):
            mount("/dev/null", f"{root}/proc/timer_list", None, MS_BIND)
        os.chroot(root)
        os.chdir("/")

    def _write(self) -> None:
        """What this guest has of its own."""
        if not self._written:
            for path, text in self._files.items():
                _replace(path, text, 0o755 if text.startswith("#!") else 0o644 if path in _PUBLIC else 0o600)
        with contextlib.suppress(FileNotFoundError):
            os.remove(_POWER)
        os.mkfifo(_POWER, 0o600)
        socket.sethostname(self.name)
        self._written = True

    def serve(self, connection: socket.socket, ns: int) -> int:
        """Start the image's ssh server for one connection, inside the guest; returns its process.

        Raises OSError.
        """
        assert self.server is not None
        connection.setblocking(True)
        actions = [
            (os.POSIX_SPAWN_DUP2, connection.fileno(), 0),
            (os.POSIX_SPAWN_DUP2, connection.fileno(), 1),
            (os.POSIX_SPAWN_DUP2, self._home.null, 2),  # a guest's own may be anything, by now
        ]
        with self.inside(ns):
            # A fork would copy the page tables of all guests' process, and then each page that it writes.
            return os.posix_spawn(
                *self.server,
                ENVIRONMENT,
                file_actions=actions,
                setsid=True,
                setsigdef=[signal.SIGPIPE],
            )

    @contextlib.contextmanager
    def inside(self, ns: int) -> Iterator[None]:
        """Within the guest of this network namespace: what is started here belongs to it. Raises OSError."""
        self.used = True
        with self._home.away():
            for fd, kind in zip([ns, *self._spaces], (CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUTS)):  # noqa: B905
                setns(fd, kind)
            os.chroot(f"{self._own}/root")
            os.chdir("/")
            yield

    def close(self) -> None:
        """Without its processes (`kill_processes`) nothing holds the mounts any more."""
        for fd in self._spaces:
            os.close(fd)
        self._spaces = []

    def remove(self) -> None:
        """Everything that the guest has written."""
        self.close()
        shutil.rmtree(self._own, ignore_errors=True)


def _server(image: str) -> tuple[str, list[str]] | None:
    for path, program, arguments in _SERVERS:
        if os.path.exists(f"{image}/{path}"):
            return program, arguments
    return None


def read_regular(path: str, most: int = 1 << 20) -> str:
    """The text of a regular file of a guest, within it; empty if it is something else.

    A guest may have put anything there: a fifo, a terminal, a device without end.
    """
    try:
        place = os.open(path, os.O_PATH)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            return ""
        file = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return ""
    finally:
        os.close(place)
    try:
        return os.read(file, most).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(file)


def _replace(path: str, text: str, mode: int) -> None:
    """Replace a file: the existing one may be a link to busybox."""
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        os.makedirs(parent, mode=0o700 if parent.startswith("root") else 0o755)
    if os.path.lexists(path):
        os.remove(path)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)


def kill_processes(ns: int) -> None:
    """Kill every process in a guest's network namespace, also one that forks meanwhile."""
    wanted = os.fstat(ns).st_ino
    for _ in range(100):
        found = False
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                with contextlib.suppress(OSError):
                    if os.stat(f"/proc/{entry}/ns/net").st_ino == wanted:
                        os.kill(int(entry), signal.SIGKILL)
                        found = True
        if not found:
            return
