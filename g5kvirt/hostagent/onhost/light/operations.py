"""The host agent's operations on light guests: calls of the process that holds them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import time

from ..processes import detach, is_alive, next_look, start_time, terminate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from ..records import Record, Results

KIND = "light"
#: What ps shows for the process of a host's light guests.
COMMAND_NAME = "g5kvirt-light"
#: Seconds until a new process answers.
START_LIMIT = 20.0
#: Seconds for an answer: the guests of a host are started one after another.
ANSWER_LIMIT = 120.0
#: Seconds for the process to end after its last guest.
END_LIMIT = 10.0


def is_light(record: Record) -> bool:
    """Whether a VM's record is that of a light guest."""
    return bool(record) and record["vm"].get("kind") == KIND


def start(home: str, vms: list[Record], bridge: str) -> Results:
    """Start guests, in parallel; yields one answer per guest."""
    for directory in (f"{home}/vms", f"{home}/ram", f"{home}/consoles", f"{home}/light"):
        os.makedirs(directory, mode=0o700, exist_ok=True)
    _ensure_daemon(home)
    yield from call(home, {"op": "start", "vms": vms, "bridge": bridge})


def stop(home: str, names: Iterable[str]) -> dict[str, Any]:
    """End guests; name → result. With the last of them their process ends, too, which is awaited."""
    with _connection(home) as link:
        (pid,) = struct.unpack_from("i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        daemon = {"pid": pid, "born": start_time(pid)}
        results = dict(_exchange(link, {"op": "stop", "names": list(names)}))
        link.settimeout(END_LIMIT)
        with contextlib.suppress(OSError):
            link.recv(1)  # at once if guests are left, else when it is about to end
    if not _answers(home):
        terminate([daemon], END_LIMIT)
    return results


def end(home: str) -> None:
    """End the process of the guests if it has none: it would wait a while for new ones."""
    if _answers(home):
        stop(home, [])


def power(home: str, action: str, names: Iterable[str]) -> Results:
    """Reset guests, or switch them off or on."""
    yield from call(home, {"op": action, "names": list(names)})


def status(record: Record) -> Record:
    """The state of one guest."""
    if record.get("off"):
        return {"state": "off"}
    if not is_alive(record):
        return {"state": "dead"}
    return {"state": "running", "pid": record["pid"], "since": record["t"]}


def call(home: str, request: Record) -> Results:
    """One request to the daemon. Raises OSError if it does not answer."""
    with _connection(home) as link:
        yield from _exchange(link, request)


@contextlib.contextmanager
def _connection(home: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(ANSWER_LIMIT)
        link.connect(f"{home}/light/socket")
        yield link


def _exchange(link: socket.socket, request: Record) -> Results:
    link.sendall(json.dumps(request).encode() + b"\n")
    data = b""
    while not data.endswith(b"\n"):
        piece = link.recv(1 << 20)
        if not piece:
            raise OSError("the process of the light guests has ended")
        data += piece
    for subject, result in json.loads(data):
        yield subject, result if isinstance(result, dict) else OSError(result)


def _ensure_daemon(home: str) -> None:
    """Start the process of the light guests unless it runs."""
    if _answers(home):
        return
    from .daemon import Daemon  # only here: hosts of VMs do without

    pid = detach(lambda: Daemon(home).run(), f"{home}/light/log", COMMAND_NAME)
    began = time.monotonic()
    while not _answers(home):
        if os.waitpid(pid, os.WNOHANG)[0]:
            raise OSError(f"the process of the light guests ended at once: see {home}/light/log")
        if time.monotonic() > began + START_LIMIT:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise OSError(f"the process of the light guests does not answer within {START_LIMIT:g} s")
        time.sleep(next_look(began, 0.005))


def _answers(home: str) -> bool:
    with socket.socket(socket.AF_UNIX) as link:
        try:
            link.connect(f"{home}/light/socket")
        except OSError:
            return False
        return True
