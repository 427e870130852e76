"""A tunnel to a server that listens on its own machine only: an ssh that forwards a local port there."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import tempfile
import time
from dataclasses import replace
from types import TracebackType
from typing import IO

from g5kvirt.errors import TestbedError
from g5kvirt.remote.access import Access, check_host

__all__ = ["SSHTunnel"]

log = logging.getLogger(__name__)


class SSHTunnel:
    """``with SSHTunnel(access, host, port) as url``: a local address behind which ``host``'s ``port``
    answers.

    Raises TestbedError if it does not stand within ``limit`` seconds. The ssh ends with the block.
    """

    def __init__(self, access: Access, host: str, port: int, *, limit: float = 30.0) -> None:
        self._access, self._host, self._port, self._limit = access, host, port, limit
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._local = 0

    def argv(self, local: int) -> list[str]:
        """The command that forwards the local port ``local``."""
        forward = f"127.0.0.1:{local}:localhost:{self._port}"
        words = ["-N", "-o", "ExitOnForwardFailure=yes", "-L", forward, "--", check_host(self._host)]
        # ssh takes the first value of an option; all other logins clear their forwardings
        access = replace(self._access, options=("ClearAllForwardings=no", *self._access.options))
        return [*access.prefix(), *words]

    def __enter__(self) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._local = int(probe.getsockname()[1])
        try:
            self._start(self._local)
        except BaseException:
            self._stack.close()
            raise
        return f"http://127.0.0.1:{self._local}"

    def reconnect(self) -> None:
        """Start the ssh again if it has ended, at the same address. A failure is logged: the user of the
        tunnel decides how long to bear that."""
        if self._process is None or self._process.poll() is None:
            return
        self._stack.close()
        try:
            self._start(self._local)
        except TestbedError as error:
            log.warning("%s", error)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self, local: int) -> None:
        errors = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  closed by the stack
        try:
            process = subprocess.Popen(
                self.argv(local),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=self._access.environment(),
            )
        except OSError as error:
            raise TestbedError(f"ssh cannot be started ({error})", advice="install openssh-client") from error
        self._process = process
        self._stack.callback(_terminate, process)
        deadline = time.monotonic() + self._limit
        while time.monotonic() < deadline:
            if process.poll() is not None:
                why = _last_line(errors) or "ssh ended without a message"
                raise TestbedError(f"port {self._port} of {self._host} cannot be reached by ssh: {why}")
            try:
                socket.create_connection(("127.0.0.1", local), timeout=1.0).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise TestbedError(
            f"port {self._port} of {self._host} cannot be reached by ssh within {self._limit:.0f} s",
            advice="check that the machine is up",
        )


def _terminate(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read(65536).decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""
