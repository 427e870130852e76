"""The agent's command line: read one JSON document, carry out its requests, answer in lines of JSON.

::

    python3 -I -S DIRECTORY < request.json        python3 -I -S DIRECTORY '{"requests": […]}'
    python3 -I -S DIRECTORY relay …               python3 -I -S DIRECTORY session

The document is ``{"home": DIRECTORY, "requests": [{"op": …, …}, …]}`` (``home`` is optional), or
``{"arguments": [WORD, …]}`` in the place of another command line. Every result is
one line ``{"op", "subject", "status": "ok"|"failed", "t", "detail"}``; no VM, service or setting that fails
hides another. The exit code is 0 unless the document cannot be read.
"""

from __future__ import annotations

from . import clock  # noqa: F401 - first of all: it notes when the call came in

# isort: split
import contextlib
import fcntl
import json
import os
import sys
import time

from .processes import EXPECTED_ERRORS, next_look

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, Any

    from .records import Record, Results

HOME = "/run/g5kvirt-host"
#: Operation → its module and function. A module is imported only when one of its operations is requested.
OPERATIONS = {
    "facts": ("facts", "facts"),
    "files": ("files", "files"),
    "packages": ("packages", "packages"),
    "prepare": ("prepare", "prepare"),
    "start": ("vms", "start"),
    "status": ("vms", "status"),
    "console": ("vms", "console"),
    "transfers": ("transfers", "transfers"),
    "links": ("links", "links"),
    "stop": ("vms", "stop"),
    "power": ("vms", "power"),
    "serve": ("services", "serve"),
    "services": ("services", "services"),
    "stop-service": ("services", "stop_service"),
    "ssh": ("guest_ssh", "ssh"),
    "load": ("load", "load"),
    "teardown": ("teardown", "teardown"),
}
#: Change nothing on the host: others may continue beside them.
UNLOCKED = {"ssh", "console", "transfers", "load"}


def operation(name: str) -> Callable[[Record, str], Results]:
    """The function that carries an operation out: ``(request, home)`` to results."""
    module, function = OPERATIONS[name]
    package = __import__(f"{__package__}.{module}", fromlist=[function])
    found: Callable[[Record, str], Results] = getattr(package, function)
    return found


def answer(op: str, subject: str, result: Any) -> None:
    """Write one result as the line of JSON that `hostagent.protocol` reads."""
    bad = isinstance(result, BaseException)
    reason = f"{result.args[0]!r} is missing" if isinstance(result, KeyError) else str(result)
    detail = (
        {"reason": reason} if bad else {k: v for k, v in result.items() if (k, v) != ("unchanged", False)}
    )
    line = {
        "op": op,
        "subject": subject,
        "status": "failed" if bad else "ok",
        "t": time.time(),
        "detail": detail,
    }
    try:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # the reader is gone; what was begun must still be brought to its end
        discard_output()


def discard_output() -> None:
    """From now on standard output goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def perform(request: Record, home: str) -> None:
    """One operation, one answer for each of its subjects."""
    op = str(request.get("op"))
    try:
        if op not in OPERATIONS:
            raise ValueError(f"unknown operation {op!r}: {', '.join(sorted(OPERATIONS))} or follow")
        for subject, result in operation(op)(request, home):
            answer(op, subject, result)
    except EXPECTED_ERRORS as error:
        answer(op, str(request.get("name", os.uname().nodename)), error)


def locked(home: str, limit: float = 60.0) -> IO[str]:
    """Hold the host's lock: two connections never change the same host at once. Returns the open file."""
    file = open(f"{home}/lock", "w", encoding="ascii")  # its closing releases the lock
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > began + limit:
                raise OSError(f"another agent has been running on this host for {limit:g} s") from None
            time.sleep(next_look(began, 0.01, 0.1))  # a newcomer must not always be first


def read_document(text: str) -> tuple[str, list[Record]]:
    """The home and the requests of a document. Raises one of `EXPECTED_ERRORS` or AttributeError."""
    document = json.loads(text)
    home, requests = str(document.get("home", HOME)), list(document["requests"])
    if not all(isinstance(r, dict) for r in requests) or not os.path.isabs(home):
        raise ValueError("requests must be objects and home an absolute path")
    return home, requests


def import_for(text: str) -> None:
    """Import what a document needs, before many children of a process need it."""
    with contextlib.suppress(*EXPECTED_ERRORS, AttributeError):
        for request in read_document(text)[1]:
            operation(str(request.get("op")))
            if request["op"] == "ssh":
                from .libssh import library

                library()
            if request["op"] == "serve":
                from .services import own_program

                own_program(request["command"])


def stream(requests: list[Record], input_is_open: bool) -> None:
    """Follow files until the reader is gone."""
    from .follow import follow

    try:
        for request in requests:
            follow(request, lambda line: sys.stdout.write(json.dumps(line) + "\n"), input_is_open)
    except BrokenPipeError:  # that is the end of it
        discard_output()


def main(arguments: list[str]) -> int:
    """Carry out what is requested; 0 unless the request cannot be read."""
    if arguments[:1] == ["relay"]:
        from .relay.command import main as relay

        return relay(arguments[1:])
    if arguments[:1] == ["session"]:
        from .session import serve

        serve(carry_out, import_for)
        return 0
    return carry_out(arguments[0] if arguments else sys.stdin.read(), input_is_open=bool(arguments))


def carry_out(text: str, input_is_open: bool = False) -> int:
    """Carry out a document, or the command line in it; 0 unless it cannot be read."""
    try:
        words = json.loads(text).get("arguments")
        if words is not None:
            return main([str(word) for word in words])
        home, requests = read_document(text)
    except (*EXPECTED_ERRORS, AttributeError) as error:
        sys.stderr.write(
            f"the request cannot be read ({error}): send one JSON document with a list of requests\n"
        )
        return 2
    if any(r.get("op") == "follow" for r in requests):
        stream(requests, input_is_open)
        return 0
    os.makedirs(home, mode=0o700, exist_ok=True)
    os.chmod(home, 0o700)
    lock = contextlib.nullcontext() if UNLOCKED.issuperset(r.get("op") for r in requests) else locked(home)
    with lock:
        for request in requests:
            perform(request, home)
    return 0
