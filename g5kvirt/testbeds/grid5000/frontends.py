"""Commands on a site's frontend, by execo, and why one failed."""

from __future__ import annotations

import os
import signal
from typing import Any

from g5kvirt.remote.result import classify_failure
from g5kvirt.run.printable import printable

__all__ = ["failure_reason", "output_lines", "process_failure", "run_on_frontend", "ssh_failure"]


def run_on_frontend(site: str, command: str, timeout: float) -> Any:
    """Run a shell command on a site's frontend, at most ``timeout`` seconds; execo's finished process."""
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


def output_lines(process: Any) -> list[str]:
    """The lines that execo's finished process printed, stripped, without empty ones."""
    text = f"{process.stdout}\n{process.stderr}"
    # "Connection to … closed" is ssh's own and not the program's.
    return [w for line in text.splitlines() if (w := line.strip()) and not w.startswith("Connection to ")]


def ssh_failure(process: Any) -> str:
    """Why ssh could not connect; empty if it did, or if that is not known."""
    kind, reason = classify_failure(f"{process.stdout}\n{process.stderr}".encode())
    failed = process.exit_code in (255, 255 << 8)  # execo gives what wait() gave
    return reason if failed and kind != "other" else ""


def failure_reason(failed: Any) -> str:
    """Why the processes of an execo ProcessesFailed failed; each reason once."""
    return "; ".join(dict.fromkeys(map(process_failure, failed.processes))) or "no answer"


def process_failure(process: Any) -> str:
    """Why execo's finished process failed: ssh's reason, its own last line, or how it ended."""
    lines = output_lines(process)
    return ssh_failure(process) or (printable(lines[-1]) if lines else _end(process))


def _end(process: Any) -> str:
    """How a process ended that printed nothing."""
    if getattr(process, "timeouted", False):
        return f"no answer within {process.timeout:g} s"
    status = process.exit_code
    if status is None:
        return "no answer"
    try:
        code = os.waitstatus_to_exitcode(status)  # execo gives what wait() gave
    except ValueError:
        code = status
    if code < 0:
        return f"ended by {_signal(-code)} before it answered"
    return "ssh failed and did not say why" if code == 255 else f"exit code {code}"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of those without a name
        return f"signal {number}"
