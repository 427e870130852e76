"""QEMU's monitor (QMP) on a unix socket: one command, one answer."""

from __future__ import annotations

import errno
import json
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def has_greeted(connection: socket.socket, path: str) -> bool:
    """Whether QEMU's monitor has sent its greeting, which it does once the whole machine has been built."""
    try:
        connection.connect(path)
    except OSError as error:
        if error.errno != errno.EISCONN:  # else connected before
            return False
    try:
        return b"QMP" in connection.recv(65536)
    except BlockingIOError:
        return False


def send(connection: socket.socket, command: str) -> None:
    """Send one QMP command."""
    connection.sendall(json.dumps({"execute": command}).encode() + b"\n")


def receive(connection: socket.socket) -> Any:
    """The answer to a QMP command, skipping events. Raises OSError if QEMU refuses."""
    data = b""
    while True:
        while b"\n" not in data:
            piece = connection.recv(65536)
            if not piece:
                raise OSError("QEMU closed its monitor")
            data += piece
        line, _, data = data.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise OSError(f"QEMU refuses: {answer['error'].get('desc')}")
        if "return" in answer:
            return answer["return"]


def execute(connection: socket.socket, command: str) -> Any:
    """One QMP command and its answer."""
    send(connection, command)
    return receive(connection)


def execute_on(path: str, command: str) -> Any:
    """Connect to the monitor of a running VM, by the path of its socket, and execute one command."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5.0)
        connection.connect(path)
        if b"QMP" not in connection.recv(65536):
            raise OSError("no QMP greeting")
        execute(connection, "qmp_capabilities")
        return execute(connection, command)
