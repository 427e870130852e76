"""Commands on a site's frontend, over execo's connections: what they answered, and why one failed."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from typing import Any

from g5kvirt.remote.result import Failure, classify_failure, retry_delay
from g5kvirt.run.printable import short
from g5kvirt.testbeds.grid5000.answers import Answer, marked, read_answer, unreadable

__all__ = ["answer_of", "exit_code", "run_on_frontend", "ssh_failure", "start_on_frontend"]

_ATTEMPTS = 4  #: connections to a frontend that refuses them: over 3.5 s


def run_on_frontend(site: str, command: str, timeout: float | None = None) -> Answer:
    """The answer to a shell command on a site's frontend, after at most ``timeout`` seconds.

    ``timeout``: None for that of all commands (``default_timeout`` of execo_g5k). Whatever goes wrong is in
    the answer, as its ``failure``. A frontend that refuses connections, as while its sshd is restarted, is
    tried again for some seconds.
    """
    from execo_g5k.config import g5k_configuration

    seconds = float(g5k_configuration["default_timeout"] if timeout is None else timeout)
    deadline = time.monotonic() + seconds
    for attempt in range(1, _ATTEMPTS + 1):
        process = start_on_frontend(site, command, max(0.1, deadline - time.monotonic()))
        process.wait()
        answer = answer_of(process)
        delay = retry_delay(_connection_failure(process)[0], attempt, _ATTEMPTS)
        if answer.code is not None or delay is None or time.monotonic() + delay > deadline:
            break
        time.sleep(delay)
    return answer


def start_on_frontend(site: str, command: str, timeout: float, *, live: bool = False) -> Any:
    """Start a command of `marked` on a site's frontend: execo's process, which `answer_of` reads."""
    import execo
    from execo_g5k import default_frontend_connection_params
    from execo_g5k.utils import get_frontend_host

    process = execo.SshProcess(
        marked(command, live=live),
        get_frontend_host(site),
        connection_params=default_frontend_connection_params,
        timeout=timeout,
        nolog_error=True,
        nolog_timeout=True,
        nolog_exit_code=True,
    )
    process.unmarked_command = command  # what a transcript shows
    process.start()
    return process


def answer_of(process: Any) -> Answer:
    """The answer in what a process of `start_on_frontend` has printed; ``failure`` says why it is none."""
    answer = read_answer(str(process.stdout))
    return answer if answer.ok else replace(answer, failure=_failure(process, answer))


def _failure(process: Any, answer: Answer) -> str:
    """Why a command failed: its own last line, ssh's reason, how it ended, or what came instead."""
    if answer.code is not None:
        return answer.last or f"it printed nothing, exit code {answer.code}"
    if why := ssh_failure(process):
        return why
    if getattr(process, "timeouted", False):
        return f"no answer within {process.timeout:g} s"
    errors = [line for word in str(process.stderr).splitlines() if (line := word.strip()) and not _own(line)]
    if answer.lines or answer.errors or answer.noise:
        return short(errors[-1]) if errors and _ssh_failed(process) else unreadable(answer)
    return short(errors[-1]) if errors else _end(process)


def _own(line: str) -> bool:
    """Whether a line is ssh's own and no failure."""
    return line.startswith(("Connection to ", "Warning: Permanently added", "Shared connection to "))


def ssh_failure(process: Any) -> str:
    """Why ssh could not connect; empty if it did, or if that is not known."""
    return _connection_failure(process)[1]


def _connection_failure(process: Any) -> tuple[Failure, str]:
    """The kind and the reason; ``other`` and "" if it connected, or if that is not known."""
    for printed in (process.stderr, process.stdout) if _ssh_failed(process) else ():
        kind, reason = classify_failure(str(printed).encode(errors="replace"))
        if kind != "other":
            return kind, reason
    return "other", ""


def _ssh_failed(process: Any) -> bool:
    return exit_code(process) == 255


def exit_code(process: Any) -> int | None:
    """The exit code of one of execo's processes, negative for a signal; None if it has not ended.

    execo gives what wait() gave, or the code itself.
    """
    status: int | None = process.exit_code
    try:
        return None if status is None else os.waitstatus_to_exitcode(status)
    except ValueError:
        return status


def _end(process: Any) -> str:
    """How a process ended that printed nothing."""
    code = exit_code(process)
    if code is None:
        return "no answer"
    if code < 0:
        return f"ended by {_signal(-code)} before it answered"
    if code == 255:
        return "ssh failed without a message"
    return f"exit code {code}" if code else "no answer"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of those without a name
        return f"signal {number}"
