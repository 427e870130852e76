"""Running programs to their end, and recognising and ending processes that were started before.

A process is recorded by its id *and* its start time, so that a recycled id is never mistaken for ours. The
keys of such a record, ``pid`` and ``born``, are those of agents of other versions on the same host.
"""

from __future__ import annotations

import os
import signal
import subprocess
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


def terminate(records: Iterable[Record], limit: float = 3.0) -> None:
    """End processes: SIGTERM to all, ``limit`` seconds to obey together, then SIGKILL."""
    left = [r for r in records if is_alive(r)]
    for number, patience in ((signal.SIGTERM, limit), (signal.SIGKILL, 5.0)):
        for record in left:
            try:
                os.kill(record["pid"], number)
            except ProcessLookupError:
                pass
        deadline = time.monotonic() + patience
        while left and time.monotonic() < deadline:
            left = [r for r in left if is_alive(r)]
            if left:
                time.sleep(0.01)
    if left:
        raise OSError(f"processes {[r['pid'] for r in left]} do not end")


def kill_group(pid: int) -> None:
    """Kill what is left of a process group (nginx's workers outlive a killed master and keep its port)."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
