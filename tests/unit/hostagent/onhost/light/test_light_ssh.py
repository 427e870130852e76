"""A guest goes on answering whatever its image's ssh server, or the lack of processes, does to it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from g5kvirt.hostagent.onhost.light import guest
from g5kvirt.hostagent.onhost.light.guest import Guest
from g5kvirt.hostagent.onhost.light.loop import Loop


class Root:
    """Each connection is greeted and then held by a process; the host has none left for the first ones."""

    server = ("/usr/sbin/dropbear", ["dropbear"])

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.processes: list[subprocess.Popen[bytes]] = []

    def serve(self, connection: socket.socket, _: int) -> int:
        if self.refusals:
            self.refusals -= 1
            raise BlockingIOError("Resource temporarily unavailable")
        self.processes.append(subprocess.Popen(["sleep", "60"]))
        connection.sendall(b"SSH-2.0-x\r\n")
        return self.processes[-1].pid


@pytest.fixture
def root() -> Iterator[Root]:
    made = Root(0)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


def greeting(port: int) -> bytes:
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), 10) as link:
        return link.recv(100)
    return b""


def test_a_guest_answers_again_when_there_are_processes(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(guest, "SSH_PORT", port)
    monkeypatch.setattr(guest, "MOST_SESSIONS", 2)
    home: Any = SimpleNamespace(inside=lambda _: contextlib.nullcontext())
    loop, running = Loop(), [True]
    vm = {"name": "vm-1", "mac": "52:54:00:00:00:01"}
    one = Guest(vm, 0, "br0", "/none", "/none/x", home=home, loop=loop, images=home, announcements=home)
    loop.spawn(one._answer_ssh(root))  # type: ignore[arg-type]
    thread = threading.Thread(target=loop.run, args=(lambda: running[0],))
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while not greeting(port):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        root.refusals = 3
        assert [greeting(port) for _ in range(3)] == [b""] * 3
        assert greeting(port) == b"SSH-2.0-x\r\n"
        assert greeting(port) == b"", "one more than it may have at once"
        for process in root.processes:
            process.kill()
        time.sleep(0.3)
        assert greeting(port) == b"SSH-2.0-x\r\n"
    finally:
        running[0] = False
        socket.create_connection(("127.0.0.1", port), 10).close()  # it wakes up
        thread.join(30)
