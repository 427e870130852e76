"""Running programs to their end, and recognising and ending processes that were started before.

A process is recorded by its id *and* its start time, so that a recycled id is never mistaken for ours. The
keys of such a record, ``pid`` and ``born``, are those of agents of other versions on the same host.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time

from .records import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from .records import Record

#: What an operation may raise on its way; anything else is a bug and shows as a traceback.
EXPECTED_ERRORS = (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError)


def run(argv: Sequence[str], text: str = "", limit: float = 20.0) -> tuple[int, str]:
    """Run a program to its end within ``limit`` seconds; returns (exit code, its output and errors)."""
    done = subprocess.run(
        argv,
        input=text,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=limit,
        check=False,
    )
    return done.returncode, done.stdout.strip()


def run_checked(argv: Sequence[str], text: str = "", limit: float = 20.0) -> str:
    """`run`, but an exit code other than 0 is an OSError with the end of its output."""
    code, out = run(argv, text, limit)
    if code:
        raise OSError(f"{' '.join(argv[:4])} failed ({code}): {out[-800:]}")
    return out


def attempt(subject: str, function: Callable[..., Any], *arguments: Any) -> tuple[str, Any]:
    """One piece of an operation: its failure is its own."""
    try:
        return subject, function(*arguments)
    except EXPECTED_ERRORS as error:
        return subject, error


def start_time(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None if it is gone or a zombie."""
    try:
        fields = read_text(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def is_alive(record: Record) -> bool:
    """Whether the process of a record {"pid", "born"} is still the one that was started."""
    began = record.get("born")
    return bool(record.get("pid")) and began is not None and start_time(record["pid"]) == began


def next_look(began: float, shortest: float, longest: float = 1.0) -> float:
    """Seconds until the next look at what has been awaited since ``began``, by the monotonic clock.

    A tenth of that time: hundreds of hosts that wait for each other may share one machine.
    """
    return min(longest, max(shortest, (time.monotonic() - began) / 10))


def terminate(records: Iterable[Record], limit: float = 3.0) -> None:
    """End processes: SIGTERM to all, ``limit`` seconds to obey together, then SIGKILL."""
    left = [r for r in records if is_alive(r)]
    for number, patience in ((signal.SIGTERM, limit), (signal.SIGKILL, 5.0)):
        for record in left:
            try:
                os.kill(record["pid"], number)
            except ProcessLookupError:
                pass
        began = time.monotonic()
        while left and time.monotonic() < began + patience:
            left = [r for r in left if is_alive(r)]
            if left:
                time.sleep(next_look(began, 0.01))
        left = [r for r in left if is_alive(r)]
    if left:
        raise OSError(f"processes {[r['pid'] for r in left]} did not end")


def kill_group(pid: int, number: int = 0) -> None:
    """Signal what is left of a process group (nginx's workers outlive a killed master and keep its port).

    ``number``: 0 for SIGKILL, which Windows, where this module is only imported, has not.
    """
    try:
        os.killpg(pid, number or signal.SIGKILL)
    except ProcessLookupError:
        pass


def become(descriptors: Sequence[int], name: str) -> None:
    """In a new child: a session of its own, these (from 3 on) as descriptors 0, 1, … and nothing else open.

    ``name`` is what ps shows for it, at most 15 characters.
    """
    os.setsid()
    os.chdir("/")
    for target, source in enumerate(descriptors):
        os.dup2(source, target)
    os.closerange(len(descriptors), 1024)
    with open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(name)


def detach(work: Callable[[], object], log: str, name: str) -> int:
    """Do ``work`` in a process of its own that outlives this one; returns its id.

    A fork, with all modules that are here: a new Python would cost a host 50 ms of a core. What it prints
    goes to the end of the file ``log``.
    """
    gc.freeze()  # a collection in the child would copy all that it shares with us
    pid = os.fork()
    if pid:
        return pid
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        become((os.open(os.devnull, os.O_RDONLY), output, output), name)
        work()
    except BaseException:  # noqa: BLE001  nothing may continue as if it were the operation
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
