"""What talking to several frontends at once takes: side by side, and what they said in words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from g5kvirt.remote.result import classify_failure

__all__ = ["each", "frontend", "mask", "refusal", "said", "short"]

T = TypeVar("T")
U = TypeVar("U")


def each(do: Callable[[U], T], items: Sequence[U]) -> list[T]:
    """``do`` for all items side by side; waits for all, then raises the first error if there was one."""
    with ThreadPoolExecutor(max_workers=max(1, min(16, len(items)))) as pool:
        futures = [pool.submit(do, item) for item in items]
    return [future.result() for future in futures]


def frontend(site: str, command: str, timeout: float) -> Any:
    """Run a shell command on a frontend; execo's process, which has ended."""
    import execo
    from execo_g5k import default_frontend_connection_params
    from execo_g5k.utils import get_frontend_host

    process = execo.SshProcess(
        command,
        get_frontend_host(site),
        connection_params=default_frontend_connection_params,
        timeout=timeout,
        nolog_error=True,
        nolog_timeout=True,
        nolog_exit_code=True,
    )
    process.run()
    return process


def _lines(process: Any) -> list[str]:
    text = f"{process.stdout}\n{process.stderr}"
    # ssh's own good-bye is not what the program said.
    return [w for line in text.splitlines() if (w := line.strip()) and not w.startswith("Connection to ")]


def _unreachable(process: Any) -> str:
    """Why ssh did not get there; empty if it did, or if nobody can tell."""
    text = f"{process.stdout}\n{process.stderr}"
    kind, reason = classify_failure(text.encode())
    failed = process.exit_code in (255, 255 << 8)  # execo gives what wait() gave
    return reason if failed and kind != "other" else ""


def said(failed: Any) -> str:
    """The last words of the processes of an execo ProcessesFailed."""
    words = []
    for process in failed.processes:
        lines = _lines(process)
        last = lines[-1] if lines else f"exit code {process.exit_code}"
        words.append(_unreachable(process) or last)
    return "; ".join(words) or "no answer"


#: What oarsub prints whatever becomes of the job, or adds to what it has said already. Grid'5000's own begins
#: its lines about a request with "# ", where OAR 2.5.9 has "[ADMISSION RULE]" or nothing.
_CHATTER = re.compile(
    r"\[ADMISSION RULE\] (Modify|Automatically|Set)|OAR_JOB_ID=|(# )?(Reservation mode|Generate a job key)"
    r"|(\[ERROR\] )?Oarsub failed|LINE \d+:|[\s^)]*$|Pseudo-terminal"
    r"|# (Filtering|Set|Warning|Include|Advance reservation request)"
)


def refusal(failed: Any) -> str:
    """Why oarsub refused, from the processes of an execo ProcessesFailed: the line that says it.

    That is not the last one: after a request that PostgreSQL or the resources refuse comes only the advice to
    verify its syntax, and the reason of a database goes on for several lines. Where some lines are marked as
    remarks, "# ", and others not, it is the first of the others.
    """
    words = []
    for process in failed.processes:
        telling = [line for line in _lines(process) if not _CHATTER.match(line)]
        telling.sort(key=lambda line: line.startswith("# "))
        words.append(_unreachable(process) or (_cleared(telling[0]) if telling else said(failed)))
    return "; ".join(words) or "no answer"


def _cleared(line: str) -> str:
    line = line.removeprefix("# ")
    line = re.sub(r"^\[ADMISSION RULE\] ?(Error: ?)?|^Bad resource request \(ERROR: *|^ERROR *: *", "", line)
    line = re.sub(r"^Reservation not valid --> KO \((.*)\)$", r"not at that time: \1", line)
    return line.strip().rstrip(".")


def short(error: Exception) -> str:
    """An error in at most 200 characters."""
    cause = getattr(error, "exception", None) or error
    text = str(cause)
    return text if len(text) < 200 else text[:200] + "…"


def mask(text: str) -> str:
    """Without the password of a URL."""
    return re.sub(r"//[^/@\s]*@", "//", text)
