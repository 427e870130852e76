"""Process 1 of a testbed, and the client with which the daemon requests containers from it.

All processes of a testbed are in one pid namespace. Its init, the function `init`, forks the daemon and, at
its request, containers. It has one thread and few modules, so a fork is cheap and safe, unlike in the daemon.
When the daemon exits, so does the init, and the kernel ends everything else.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from g5kvirt.errors import TestbedError
from g5kvirt.testbeds.local import container, root_file_system
from g5kvirt.testbeds.local.container_logs import ContainerLogs, append
from g5kvirt.testbeds.local.container_spec import ContainerSpec

__all__ = ["Container", "Spawner", "init"]

_MESSAGE = 1 << 20  # bytes; the configuration of a node is a few kilobytes


class Container:
    """A running container, as seen by the daemon."""

    def __init__(self, name: str, control: socket.socket) -> None:
        self.name = name
        self.pid = 0  #: of its init, in the testbed's pid namespace
        self._handle = -1  # the same process, whatever becomes of its pid and of its socket
        self._control = control
        self._lock = threading.Lock()
        self._killed = False

    def started(self, pid: int) -> None:
        """Its init has this pid. Raises TestbedError if that has exited already."""
        try:
            self._handle = os.pidfd_open(pid)
        except ProcessLookupError as error:
            raise TestbedError(f"{self.name} has exited") from error
        self.pid = pid

    def expect(self, key: str, timeout: float = 120.0) -> Any:
        """Wait for a response with ``key``; returns its value. Raises TestbedError if the container fails."""
        self._control.settimeout(timeout)
        try:
            data = self._control.recv(_MESSAGE)
        except TimeoutError as error:
            raise TestbedError(f"{self.name} did not respond within {timeout:.0f} s") from error
        except OSError as error:
            raise TestbedError(f"{self.name} has exited") from error
        message = json.loads(data) if data else {"error": "the container has exited"}
        if key not in message:
            raise TestbedError(f"{self.name}: {message.get('error', message)}")
        return message[key]

    def send(self, **message: Any) -> None:
        """Send a request without waiting for the response."""
        try:
            self._control.send(json.dumps(message).encode())
        except OSError as error:
            raise TestbedError(f"{self.name} has exited") from error

    def call(self, timeout: float = 120.0, **message: Any) -> None:
        """Send a request and wait until it is done."""
        with self._lock:
            self.send(**message)
            self.expect("done", timeout)

    @property
    def alive(self) -> bool:
        """False after its init has exited, or been killed: another thread may do that at any moment."""
        if self._killed:
            return False
        poll = select.poll()
        try:
            poll.register(self._control, 0)
        except ValueError:  # the socket was closed just now
            return False
        return not poll.poll(0)

    def kill(self, timeout: float = 10.0) -> None:
        """Kill all processes of the container and wait until they are gone."""
        if self._handle >= 0:
            handle, self._handle = self._handle, -1
            try:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                poll = select.poll()  # select(2) takes no descriptor above 1023
                poll.register(handle, select.POLLIN)
                if not poll.poll(timeout * 1e3):
                    raise TestbedError(f"{self.name} did not exit within {timeout:.0f} s")
            finally:
                os.close(handle)
        self._killed = True
        self._control.close()


class Spawner:
    """The daemon's end of the socket to process 1. Thread-safe."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._logs = ContainerLogs()

    def start(self, spec: ContainerSpec) -> Container:
        """Create a container; on return `Container.pid` and its namespaces exist, its mounts perhaps not yet.

        The next steps are `Container.expect` ``"mounted"``, the network, and ``call(start=True)``.
        """
        try:
            append(Path(spec.log), b"")
        except OSError as error:  # before anything is there that would have to be closed
            raise TestbedError(f"{spec.name}: {error}") from error
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        container = Container(spec.name, ours)
        output, end = os.pipe2(os.O_CLOEXEC)
        self._logs.add(output, Path(spec.log))
        with theirs:
            rights = array.array("i", [theirs.fileno(), end])
            with self._lock:
                self._link.sendmsg(
                    [json.dumps(spec.to_plain()).encode()],
                    [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)],
                )
        os.close(end)
        container.started(container.expect("pid"))
        return container


def init(daemon: Callable[[Spawner], int]) -> NoReturn:
    """Run as process 1 of a testbed: fork ``daemon`` and the containers that it requests; exit with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    main = os.fork()
    if main == 0:
        ours.close()
        code = 1
        try:
            code = daemon(Spawner(theirs))
        finally:
            os._exit(code)
    theirs.close()
    root_file_system.secrets_of_the_machine()
    container.close_all_but(ours.fileno())  # sockets and pipes that only the daemon needs
    wake, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        ready, _, _ = select.select([ours.fileno(), wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
            _reap(main)
        if ours.fileno() in ready:
            _serve(ours)


def _reap(main: int) -> None:
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid == main:
            os._exit(0)


def _serve(link: socket.socket) -> None:
    data, ancillary, _, _ = link.recvmsg(_MESSAGE, socket.CMSG_SPACE(8))
    if not data:
        os._exit(0)
    fds = array.array("i")
    for _, _, payload in ancillary:
        fds.frombytes(payload)
    control, output = socket.socket(fileno=fds[0]), fds[1]
    control.set_inheritable(False)
    if os.fork() == 0:
        link.close()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        container.run(json.loads(data), control, output)
    control.close()
    os.close(output)
