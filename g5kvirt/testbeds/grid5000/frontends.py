"""Commands on a site's frontend, by execo, and why one failed."""

from __future__ import annotations

from typing import Any

from g5kvirt.remote.result import classify_failure

__all__ = ["failure_reason", "output_lines", "run_on_frontend", "ssh_failure"]


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
    """Why the processes of an execo ProcessesFailed failed: the last line of each."""
    reasons = []
    for process in failed.processes:
        lines = output_lines(process)
        last = lines[-1] if lines else f"exit code {process.exit_code}"
        reasons.append(ssh_failure(process) or last)
    return "; ".join(reasons) or "no answer"
