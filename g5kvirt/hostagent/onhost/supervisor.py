"""A process that keeps one service running, restarts it when it dies, and stamps its output with times."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time

from .processes import kill_group, start_time
from .records import load_record, write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .records import Record

LOG_LIMIT = 32 << 20  #: bytes of a service's log before it is put aside (one older piece is kept)


def supervise(place: str) -> None:
    """Keep one command running: start again when it dies, stamp its output with times, bounded log.

    SIGTERM ends both, and so does the time that is set; SIGHUP is handed on, SIGUSR1 restarts the command.
    """
    wake, waker = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    state: Record = {"pid": os.getpid(), "born": start_time(os.getpid()), "starts": 0, "last_exit": None}
    spec, pause, ending = load_record(f"{place}/spec.json"), 0.1, False
    command, until = spec["command"], spec.get("until") or float("inf")
    while not ending:
        began = time.monotonic()
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        state.update(child=child.pid, child_born=start_time(child.pid), starts=state["starts"] + 1)
        write_text(f"{place}/state.json", json.dumps(state))
        ending, restart = run_until_end(child, wake, f"{place}/log", until)
        kill_group(child.pid)
        state["last_exit"] = child.returncode
        pause = 0.1 if restart or time.monotonic() - began > 10 else min(5.0, pause * 2)
        if not ending and not restart:
            log_lines(f"{place}/log", [f"supervisor: ended with {child.returncode}, again in {pause:.1f} s"])
            write_text(f"{place}/state.json", json.dumps(state))
            select.select([wake], [], [], pause)
            ending = signal.SIGTERM in pending_signals(wake) or time.time() >= until


def run_until_end(child: subprocess.Popen[bytes], wake: int, log: str, until: float) -> tuple[bool, bool]:
    """Copy a child's lines into the log until it ends; at ``until`` it is as if SIGTERM had come.

    Returns whether it is to end for good, and whether a signal ended it.
    """
    output, rest, ending, restart, deadline = child.stdout, b"", False, False, 0.0
    assert output is not None
    pipe = output.fileno()
    while child.poll() is None:
        readable = select.select([wake] + ([pipe] if pipe >= 0 else []), [], [], 0.5)[0]
        signals = pending_signals(wake) if wake in readable else b""
        if time.time() >= until and not ending:
            log_lines(log, ["supervisor: its time is over"])
            signals += bytes([signal.SIGTERM])
        for number in signals:
            if number == signal.SIGHUP:
                child.send_signal(signal.SIGHUP)
            elif number in (signal.SIGTERM, signal.SIGUSR1):
                ending, restart = ending or number == signal.SIGTERM, True
                deadline = deadline or time.monotonic() + 5.0
                child.terminate()
        if pipe in readable:
            data = os.read(pipe, 1 << 16)
            pipe = pipe if data else -1
            *lines, rest = (rest + data).split(b"\n")
            log_lines(log, [line.decode("utf-8", "replace") for line in lines])
        if deadline and time.monotonic() > deadline:
            child.kill()
    os.set_blocking(output.fileno(), False)
    last = rest + (output.read() or b"")
    log_lines(log, [line.decode("utf-8", "replace") for line in last.split(b"\n") if line])
    output.close()
    return ending, restart


def pending_signals(wake: int) -> bytes:
    """The signal numbers that have come in since the last look."""
    try:
        return os.read(wake, 4096)
    except BlockingIOError:
        return b""


def log_lines(path: str, lines: Iterable[str]) -> None:
    """Append lines, each with its time in microseconds: dnsmasq's own log knows only seconds."""
    stamp = f"{time.time():.6f} "
    with open(path, "a", encoding="utf-8") as log:
        log.write("".join(stamp + line + "\n" for line in lines))
        full = log.tell() > LOG_LIMIT
    if full:
        os.replace(path, path + ".1")


def die_with_parent() -> None:
    """In a new child: SIGTERM when the supervisor dies (prctl PR_SET_PDEATHSIG)."""
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM, 0, 0, 0)
