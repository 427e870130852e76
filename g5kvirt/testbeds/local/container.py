"""A container: one process tree in its own namespaces, on an overlay of a layer over this machine's `/`.

`run` is called in a freshly forked child and never returns. It forks the container's init, which sets up
mounts, hostname and files, then serves its control socket. The init restarts its services when they exit,
reaps all other processes, and exits when the other end of the control socket is closed.

A container sees the operating system of this machine (`/usr`, `/etc`, `/var`, …) below the layer, which it
cannot change because writes go to its own tmpfs. Everything personal is hidden: `/root`, `/home`, `/opt`,
`/tmp`, `/run`, `/mnt`, unusual directories of `/`, backups, mails and logs in `/var`, disks in `/dev`, and
what only root may read in `/etc`: ssh host keys, passwords. The kernel's settings but those of the network
are read-only.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from g5kvirt.testbeds.local import namespaces as ns

__all__ = ["PATH", "ContainerSpec", "close_all_but", "run", "secrets_of_the_machine"]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_VISIBLE = {"bin", "boot", "etc", "lib", "lib32", "lib64", "libx32", "sbin", "srv", "usr", "var"}
_PRIVATE = ("var/backups", "var/log", "var/mail", "var/spool/cron")  #: of this machine
_FRESH = {"dev", "proc", "sys", "run", "tmp"}
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "net/tun", "kvm", "vhost-net", "fuse")
_RESTART_PAUSE = 0.5  # seconds between a service's end and its next start


@dataclass(frozen=True)
class ContainerSpec:
    """The configuration of a container: plain data, so that it can be sent as JSON."""

    name: str
    mount_point: str  #: an empty directory; only the container sees what it mounts there
    layer: str  #: mount point of the layer
    log: str  #: file for the output of the container and its services
    files: Mapping[str, tuple[int, str]] = field(default_factory=dict)  #: path → mode, text
    binds: Sequence[tuple[str, str]] = ()  #: outer path → inner path, read-only
    shares: Sequence[tuple[str, str]] = ()  #: outer path → inner path, writable
    proc: Mapping[str, str] = field(default_factory=dict)  #: name in /proc → text
    owners: Mapping[str, str] = field(default_factory=dict)  #: path → user
    services: Sequence[
        tuple[str, tuple[str, ...], str]
    ] = ()  #: name, command, user; started with the network
    ports: Sequence[int] = ()  #: TCP ports on which the services listen when they are ready
    commands: Sequence[tuple[str, ...]] = ()  #: run once before the services
    capabilities: Collection[int] = ()  #: that its root has

    def to_plain(self) -> dict[str, Any]:
        return {**asdict(self), "capabilities": sorted(self.capabilities)}


def run(plain: Mapping[str, Any], control: socket.socket) -> NoReturn:
    """Become a container; called in a forked child. Sends its pid, or an error, over ``control``."""
    try:
        spec = ContainerSpec(**plain)
        close_all_but(control.fileno())
        output = os.open(spec.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        ns.unshare(ns.ALL)
        parent_exit, parent_alive = os.pipe()
        child = os.fork()
        if child:
            _send(control, {"pid": child})
            os._exit(0)
        os.close(parent_alive)
        os.read(parent_exit, 1)  # returns when the parent has exited, so that the pid is the first message
        os.close(parent_exit)
        status = 0
        os.setsid()
        _Init(spec, control).main()
    except BaseException as error:  # noqa: BLE001 - the last handler: every error is reported
        status = 1
        traceback.print_exc()
        _send(control, {"error": f"{error}"})
    finally:
        sys.stderr.flush()
        os._exit(status)


def close_all_but(kept: int) -> None:
    """Close every open file but the standard ones and ``kept``."""
    for fd in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if fd > 2 and fd != kept:
            with contextlib.suppress(OSError):  # the descriptor of the listing itself
                os.close(fd)


def _send(control: socket.socket, message: Mapping[str, Any]) -> None:
    try:
        control.send(json.dumps(message).encode())
    except OSError:
        os._exit(1)  # the owner of the container has gone


class _Init:
    """Process 1 of a container."""

    def __init__(self, spec: ContainerSpec, control: socket.socket) -> None:
        self.spec = spec
        self.control = control
        self.services: dict[int, tuple[str, Sequence[str], str]] = {}  # pid → service
        self.restarts: list[tuple[float, tuple[str, Sequence[str], str]]] = []  # time of the restart, service
        self.wake, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_write)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def main(self) -> None:
        ns.process_name("init")
        _set_up_mounts(self.spec)
        ns.set_hostname(self.spec.name)
        ns.keep_capabilities(self.spec.capabilities)
        os.environ.clear()
        os.environ.update(PATH=PATH, LANG="C.UTF-8", HOME="/root")
        _send(self.control, {"mounted": True})
        handlers: dict[str, Callable[[Any], None]] = {
            "start": self._start_all,
            "service": self._service,
            "stop": self._stop,
        }
        while True:
            pause = max(0.0, min(at for at, _ in self.restarts) - time.monotonic()) if self.restarts else None
            ready, _, _ = select.select([self.control.fileno(), self.wake], [], [], pause)
            if self.wake in ready:
                os.read(self.wake, 4096)
                self._reap()
            self._restart()
            if self.control.fileno() in ready:
                message = self.control.recv(1 << 20)
                if not message:
                    return
                for name, value in json.loads(message).items():
                    handlers[name](value)
                _send(self.control, {"done": True})

    def _start_all(self, _: object) -> None:
        """The network is up: run the commands, start the services, wait for their ports."""
        for command in self.spec.commands:
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=60)
        for name, command, user in self.spec.services:
            self._service([name, command, user])
        deadline = time.monotonic() + 60
        for port in self.spec.ports:
            while not ns.is_listening(port):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self.spec.name}: nothing listens on port {port} after 60 s")
                time.sleep(0.005)

    def _service(self, service: Any) -> None:
        name, command, user = service
        self.services[_spawn(command, user)] = (name, command, user)

    def _stop(self, name: str) -> None:
        """End a service for good; one that does not run is left so."""
        self.restarts = [item for item in self.restarts if item[1][0] != name]
        for pid in [pid for pid, service in self.services.items() if service[0] == name]:
            del self.services[pid]
            _kill_session(pid)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if service := self.services.pop(pid, None):
                code = os.waitstatus_to_exitcode(status)
                print(f"init: {service[0]} exited with {code}, restarting it", file=sys.stderr, flush=True)
                _kill_session(pid)
                self.restarts.append((time.monotonic() + _RESTART_PAUSE, service))

    def _restart(self) -> None:
        now = time.monotonic()
        for item in [item for item in self.restarts if item[0] <= now]:
            self.restarts.remove(item)
            self._service(item[1])


def _spawn(command: Sequence[str], user: str) -> int:
    """Start a service in a new session; returns its pid."""
    entry = pwd.getpwnam(user)
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        if entry.pw_uid:
            os.initgroups(user, entry.pw_gid)
            os.setgid(entry.pw_gid)
            os.setuid(entry.pw_uid)
            os.environ.update(HOME=entry.pw_dir, USER=user, LOGNAME=user)
        os.execvp(command[0], list(command))  # noqa: S606
    except OSError as error:
        os.write(2, f"init: {command[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def _kill_session(session: int) -> None:
    """Kill the remaining processes of a service, which would block its port for the restart."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                pid = int(entry.name)
                if pid != 1 and os.getsid(pid) == session:
                    os.kill(pid, signal.SIGKILL)


def _set_up_mounts(spec: ContainerSpec) -> None:
    ns.private_mounts()
    mount_point = Path(spec.mount_point)
    ns.mount("tmpfs", mount_point, "tmpfs", data="mode=755")
    for name in ("upper", "work", "root", "proc", "settings"):
        (mount_point / name).mkdir()
    root = mount_point / "root"
    options = f"lowerdir={spec.layer}:/,upperdir={mount_point}/upper,workdir={mount_point}/work"
    ns.mount("overlay", root, "overlay", data=options)
    _hide(root, Path(spec.layer))
    _set_up_devices(root / "dev")
    ns.mount("proc", root / "proc", "proc", ns.MS_NOSUID | ns.MS_NODEV)
    ns.mount("proc", mount_point / "settings", "proc")
    ns.bind(mount_point / "settings/sys", root / "proc/sys", read_only=True)
    ns.bind(mount_point / "settings/sys/net", root / "proc/sys/net")
    for name in ("sysrq-trigger", "kcore", "keys"):
        if (root / "proc" / name).exists():
            ns.bind("/dev/null", root / "proc" / name, read_only=True)
    ns.mount("sysfs", root / "sys", "sysfs", ns.MS_NOSUID | ns.MS_NODEV)
    ns.mount("tmpfs", root / "run", "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=755")
    ns.mount("tmpfs", root / "tmp", "tmpfs", ns.MS_NODEV, "mode=1777")
    for name in ("lock", "sshd"):
        (root / "run" / name).mkdir()
    (root / "run/lock").chmod(0o1777)
    for name, (mode, text) in spec.files.items():
        file = root / name.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(text)
        file.chmod(mode)
    for source, target in spec.binds:
        _bind(Path(source), root / target.lstrip("/"), read_only=True)
    for source, target in spec.shares:
        _bind(Path(source), root / target.lstrip("/"), read_only=False)
    for name, text in spec.proc.items():
        (mount_point / "proc" / name).write_text(text)
        ns.bind(mount_point / "proc" / name, root / "proc" / name, read_only=True)
    ns.pivot_root(root)
    for name, user in spec.owners.items():
        entry = pwd.getpwnam(user)
        Path(name).mkdir(parents=True, exist_ok=True)
        for path in (Path(name), *Path(name).rglob("*")):
            os.chown(path, entry.pw_uid, entry.pw_gid)


def _bind(source: Path, target: Path, *, read_only: bool) -> None:
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_symlink() or not target.exists():
            target.unlink(missing_ok=True)
            target.touch()
    ns.bind(source, target, read_only=read_only)


def _hide(root: Path, layer: Path) -> None:
    """Hide everything but the operating system of this machine; what is in ``layer`` stays."""
    for entry in root.iterdir():
        name = entry.name
        if name in _VISIBLE or entry.is_symlink():
            continue
        if not entry.is_dir():
            entry.unlink()
        elif name not in _FRESH:
            ns.mount("tmpfs", entry, "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=755,size=25%")
    (root / "root").chmod(0o700)
    ns.mount("tmpfs", root / "var/tmp", "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=1777")
    for name in _PRIVATE:
        if (root / name).is_dir():
            ns.mount("tmpfs", root / name, "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=755")
            _copy_tree(layer / name, root / name)
    users = [line.partition(":")[0] for line in (root / "etc/shadow").read_text().splitlines() if ":" in line]
    for secret in secrets_of_the_machine():
        if not (layer / secret).exists():
            (root / secret).unlink(missing_ok=True)
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    shadow = root / "etc/shadow"
    shadow.unlink(missing_ok=True)
    shadow.touch(0o600)
    shadow.write_text(
        "".join(f"{user}:*:19000:0:99999:7:::\n" for user in users)
    )  # no password, but not locked


@cache
def secrets_of_the_machine() -> tuple[Path, ...]:
    """The files of /etc that not everybody may read, relative to ``/``.

    They are looked for once, before containers are forked.
    """
    found = []
    for folder, _, names in os.walk("/etc"):
        for path in (Path(folder, name) for name in names):
            if not path.is_symlink() and not path.stat().st_mode & stat.S_IROTH:
                found.append(path.relative_to("/"))
    return tuple(found)


def _copy_tree(source: Path, target: Path) -> None:
    """The content of a directory, with owners and modes; of one that does not exist, nothing."""
    for entry in source.iterdir() if source.is_dir() else ():
        copy = target / entry.name
        if entry.is_dir() and not entry.is_symlink():
            copy.mkdir()
            _copy_tree(entry, copy)
        else:
            shutil.copyfile(entry, copy, follow_symlinks=False)
        status = entry.lstat()
        os.chown(copy, status.st_uid, status.st_gid, follow_symlinks=False)
        if not entry.is_symlink():
            copy.chmod(stat.S_IMODE(status.st_mode))


def _set_up_devices(dev: Path) -> None:
    """A /dev with the harmless devices of this machine and a private devpts."""
    ns.mount("tmpfs", dev, "tmpfs", ns.MS_NOSUID, "mode=755")
    for name in _DEVICES:
        outer = Path("/dev") / name
        if not outer.exists():
            continue
        status = outer.stat()
        inner = dev / name
        inner.parent.mkdir(exist_ok=True)
        os.mknod(inner, stat.S_IFCHR | 0o666, status.st_rdev)
        inner.chmod(0o666)
    for name in ("pts", "shm"):
        (dev / name).mkdir()
    ns.mount("devpts", dev / "pts", "devpts", ns.MS_NOSUID, "newinstance,ptmxmode=0666,mode=620,gid=5")
    ns.mount("tmpfs", dev / "shm", "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=1777")
    for link, target in (
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
    ):
        (dev / link).symlink_to(target)
