"""A process that keeps one service running, restarts it when it dies, and stamps its output with times."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time

from . import pieces
from .child import HANDLED, Child
from .processes import kill_group, start_time
from .records import load_record, write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .records import Record

LOG_LIMIT = 16 << 20  #: bytes of a service's log before it is put aside (see `pieces`)
OWN_LOG_LIMIT = 64 << 20  #: the same for a log that the service writes itself
OWN_LOG_PAUSE = 10.0  #: seconds between two looks at it
END_LIMIT = 5.0  #: seconds between SIGTERM and SIGKILL


def supervise(place: str, program: Callable[[list[str]], Callable[[], int] | None]) -> None:
    """Keep one command running: start again when it dies, stamp its output with times, bounded log.

    ``program``: what a fork does instead of the command, if it is the agent's own. SIGTERM ends both, and so
    does the time that is set; SIGHUP is handed on, SIGUSR1 restarts the command.
    """
    wake, waker = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    for number in HANDLED:
        signal.signal(number, lambda *_: None)
    state: Record = {"pid": os.getpid(), "born": start_time(os.getpid()), "starts": 0, "last_exit": None}
    spec, pause, ending = load_record(f"{place}/spec.json"), 0.1, False
    command, until = spec["command"], Deadline(f"{place}/spec.json")
    work = program(command)
    while not ending:
        began = time.monotonic()
        child = Child([f"g5kvirt-{os.path.basename(place)}"[:15]], work) if work else Child(command)
        state.update(child=child.pid, child_born=start_time(child.pid), starts=state["starts"] + 1)
        save_state(place, state)
        ending, restart = run_until_end(child, wake, f"{place}/log", until, spec.get("rotated", []))
        kill_group(child.pid)
        state["last_exit"] = child.returncode
        pause = 0.1 if restart or time.monotonic() - began > 10 else min(5.0, pause * 2)
        if not ending and not restart:
            log_lines(f"{place}/log", [f"supervisor: ended with {child.returncode}, again in {pause:.1f} s"])
            save_state(place, state)
            ending = wait_for_restart(wake, pause, until)


def save_state(place: str, state: Record) -> None:
    """What others read of the service."""
    with contextlib.suppress(OSError):  # a full disk; what was written before stays
        write_text(f"{place}/state.json", json.dumps(state))


class Deadline:
    """When a service ends for good: as its record says at that time, since it may be put off meanwhile."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._until = self._read()

    def _read(self) -> float:
        return float(load_record(self._path).get("until") or "inf")

    def left(self) -> float:
        """Seconds until then, as far as known."""
        return self._until - time.time()

    def over(self) -> bool:
        """Whether it has come."""
        if self.left() <= 0:
            self._until = self._read()
        return self.left() <= 0


def wait_for_restart(wake: int, pause: float, until: Deadline) -> bool:
    """Wait ``pause`` seconds, less if a restart is requested; whether it is to end for good."""
    end = time.monotonic() + pause
    while (left := min(end - time.monotonic(), until.left())) > 0:
        select.select([wake], [], [], left)
        signals = pending_signals(wake)  # SIGCHLD of what has just ended is one of them
        if signal.SIGTERM in signals:
            return True
        if signal.SIGUSR1 in signals:
            return False
    return until.over()


def run_until_end(
    child: Child, wake: int, log: str, until: Deadline, rotated: Sequence[str]
) -> tuple[bool, bool]:
    """Copy a child's lines into the log until it ends; at ``until`` it is as if SIGTERM had come.

    ``rotated``: logs that it writes itself. Returns whether it is to end for good, and whether a signal
    ended it.
    """
    output = LoggedOutput(child.output, log)
    ending, restart, kill_at = False, False, float("inf")
    while child.poll() is None:
        over = float("inf") if ending else until.left()
        longest = OWN_LOG_PAUSE if rotated else 60.0  # SIGCHLD ends it, too
        pause = min(over, kill_at - time.monotonic(), longest)
        readable = select.select([wake, *output.pipes], [], [], max(0.0, pause))[0]
        signals = pending_signals(wake) if wake in readable else b""
        if not ending and until.over():
            log_lines(log, ["supervisor: its time limit is over"])
            signals += bytes([signal.SIGTERM])
        for number in signals:
            if number == signal.SIGHUP:
                child.send(signal.SIGHUP)
            elif number in (signal.SIGTERM, signal.SIGUSR1):
                ending, restart = ending or number == signal.SIGTERM, True
                kill_at = min(kill_at, time.monotonic() + END_LIMIT)
                child.send(signal.SIGTERM)
        if child.output in readable:
            output.copy()
        if put_aside(rotated):
            child.send(signal.SIGUSR1)
        if time.monotonic() > kill_at:
            child.send(signal.SIGKILL)
    output.drain()
    child.close()
    return ending, restart


def put_aside(logs: Iterable[str]) -> bool:
    """Rename the logs that are long; whether there was one."""
    long = [path for path in logs if os.path.exists(path) and os.path.getsize(path) > OWN_LOG_LIMIT]
    for path in long:
        with contextlib.suppress(OSError):
            pieces.put_aside(path)
    return bool(long)


class LoggedOutput:
    """What comes out of a pipe, line by line into a log."""

    def __init__(self, pipe: int, log: str) -> None:
        os.set_blocking(pipe, False)
        self.pipes = [pipe]  #: empty after its end
        self._pipe = pipe
        self._log = log
        self._rest = b""

    def copy(self) -> bool:
        """What is in it now; False if there is nothing more for the time being."""
        try:
            data = os.read(self._pipe, 1 << 16)
        except BlockingIOError:
            return False
        if not data:
            self.pipes = []
        *lines, self._rest = (self._rest + data).split(b"\n")
        log_lines(self._log, [line.decode("utf-8", "replace") for line in lines])
        return bool(data)

    def drain(self) -> None:
        """All that is in it, and the last line even if it is not whole."""
        while self.pipes and self.copy():
            pass
        if self._rest:
            log_lines(self._log, [self._rest.decode("utf-8", "replace")])


def pending_signals(wake: int) -> bytes:
    """The signal numbers that have come in since the last look."""
    try:
        return os.read(wake, 4096)
    except BlockingIOError:
        return b""


def log_lines(path: str, lines: Iterable[str]) -> None:
    """Append lines, each with its time in microseconds: dnsmasq's own log knows only seconds."""
    stamp = f"{time.time():.6f} "
    with contextlib.suppress(OSError):  # a full disk costs lines, and not the service
        with open(path, "a", encoding="utf-8") as log:
            log.write("".join(stamp + line + "\n" for line in lines))
            full = log.tell() > LOG_LIMIT
        if full:
            pieces.put_aside(path)
