"""A container: one process tree in its own namespaces, on an overlay of a layer over this machine's `/`.

`run` is called in a freshly forked child and never returns. It forks the container's init, which sets up
mounts, hostname and files, then serves its control socket. The init restarts its services when they exit,
reaps all other processes, and exits when the other end of the control socket is closed.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import resource
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from g5kvirt.testbeds.local import namespaces as ns
from g5kvirt.testbeds.local import root_file_system
from g5kvirt.testbeds.local.capabilities import NAMESPACES
from g5kvirt.testbeds.local.container_spec import ContainerSpec

__all__ = ["PATH", "close_all_but", "run"]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_EVERY_PRIORITY = 99  #: at least: of 40 nice values, and of 99 real-time priorities
_RESTART_PAUSE = 0.5  # seconds between a service's end and its next start


def run(plain: Mapping[str, Any], control: socket.socket, output: int) -> NoReturn:
    """Become a container; called in a forked child. Sends its pid, or an error, over ``control``.

    ``output``: a pipe for its log, whose root must not hold a file of the machine.
    """
    try:
        spec = ContainerSpec(**plain)
        os.dup2(output, 1)
        os.dup2(output, 2)
        close_all_but(control.fileno())
        if NAMESPACES.issubset(spec.capabilities):
            _allow_priorities()
        ns.unshare(ns.NEWNS | ns.NEWPID)
        theirs, ours = socket.socketpair()
        child = os.fork()
        if child:
            theirs.close()
            if ours.recv(1):  # it is in a user namespace, and waits for its map
                ns.map_same_users(child)
            _send(control, {"pid": child})
            os._exit(0)
        ours.close()
        mounting = _enter_namespaces(spec, control, theirs)
        status = 0
        os.setsid()
        _Init(spec, control, mounting).main()
    except BaseException as error:  # noqa: BLE001 - the last handler: every error is reported
        status = 1
        traceback.print_exc()
        _send(control, {"error": f"{error}"})
    finally:
        sys.stderr.flush()
        os._exit(status)


def _allow_priorities() -> None:
    """Root of the container may prefer a process, as root of a machine may, in a user namespace too."""
    for limit in (resource.RLIMIT_NICE, resource.RLIMIT_RTPRIO):
        with contextlib.suppress(OSError, ValueError):  # this machine's own root may not either
            resource.setrlimit(limit, (_EVERY_PRIORITY, _EVERY_PRIORITY))


def _enter_namespaces(spec: ContainerSpec, control: socket.socket, parent: socket.socket) -> int:
    """Enter all namespaces but that of mounts, and let ``parent`` exit, which sends the pid.

    With a user namespace, where the kernel has them: what root of the container may do ends at the namespaces
    that belong to it. User ids are the same inside, since the files of this machine and of layers keep their
    owners. Devices and the overlay can only be mounted by root of the machine: a process that stays outside
    does that; its pid is returned.
    """
    go, gone = os.pipe()
    mounting = os.fork()
    if mounting == 0:
        try:
            os.close(gone)
            parent.close()
            os.read(go, 1)  # until the other one has no more use for the machine's files
            root_file_system.set_up(spec)
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - the last handler: every error is reported
            traceback.print_exc()
            _send(control, {"error": f"{error}"})
        finally:
            sys.stderr.flush()
            os._exit(1)
    os.close(go)
    os.chdir("/")
    spaces = ns.NEWNET | ns.NEWIPC | ns.NEWUTS
    try:
        ns.unshare(spaces | ns.NEWUSER)
    except OSError as error:
        print(f"init: no user namespace: {error}", file=sys.stderr, flush=True)
        ns.unshare(spaces)
        confined = False
    else:
        parent.send(b"u")
        confined = True
    parent.shutdown(socket.SHUT_WR)
    parent.recv(1)  # returns when the parent has exited, so that the pid is the first message
    parent.close()
    if confined:  # control groups go by user ids alone, which are the machine's
        Path("/proc/sys/user/max_cgroup_namespaces").write_text("0")
    os.close(gone)
    return mounting


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

    def __init__(self, spec: ContainerSpec, control: socket.socket, mounting: int) -> None:
        self.spec = spec
        self.control = control
        self.mounting = mounting
        self.services: dict[int, tuple[str, Sequence[str], str]] = {}  # pid → service
        self.restarts: list[tuple[float, tuple[str, Sequence[str], str]]] = []  # time of the restart, service
        self.wake, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_write)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def main(self) -> None:
        ns.process_name("init")
        if os.waitpid(self.mounting, 0)[1]:
            os._exit(1)  # it has sent the reason
        ns.unshare(ns.NEWNS)
        ns.mount("sysfs", "/sys", "sysfs", ns.MS_NOSUID | ns.MS_NODEV | ns.MS_RDONLY)  # of this network
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
