"""An ssh agent of our own with one key: hosts may log in elsewhere as we do, and never have the key."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from g5kvirt.errors import MachineError
from g5kvirt.remote.processes import spawn, terminate

__all__ = ["KeyAgent"]

#: Seconds for the start of ssh-agent, and for ssh-add.
_LIMIT = 20.0
#: The agent ends with its command, which ends with us; it would take up to 10 s, so `close` ends it itself.
_COMMAND = ("sh", "-c", 'echo "$SSH_AGENT_PID"; exec cat')


class KeyAgent:
    """A running ssh-agent that holds ``key``; `close` it. Raises MachineError if there can be none."""

    def __init__(self, key: Path, env: Mapping[str, str]) -> None:
        self.owner = os.getpid()
        self._folder = tempfile.mkdtemp(prefix="g5kvirt-agent-")  # of mode 700
        self.socket = Path(self._folder) / "socket"
        self._pid = 0
        try:
            self._process = spawn(
                ["ssh-agent", "-a", str(self.socket), *_COMMAND], env=dict(env), stdin=subprocess.PIPE
            )
        except MachineError:
            shutil.rmtree(self._folder)
            raise
        try:
            self._pid = _first_number(self._process)
            _add(key, {**env, "SSH_AUTH_SOCK": str(self.socket)})
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it, unless it belongs to another process, of which this one is a fork."""
        if self.owner != os.getpid():
            return
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM)
        terminate([self._process])
        shutil.rmtree(self._folder, ignore_errors=True)


def _first_number(process: subprocess.Popen[bytes]) -> int:
    """What the agent prints, its process id."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], _LIMIT)[0]:
        raise MachineError(f"ssh-agent has not started within {_LIMIT:g} s")
    line = process.stdout.readline().strip()
    if not line.isdigit():
        raise MachineError("ssh-agent does not work: it has no process id")
    return int(line)


def _add(key: Path, env: Mapping[str, str]) -> None:
    try:
        done = subprocess.run(
            ["ssh-add", "-q", "--", str(key)],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LIMIT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"ssh-add does not work: {error}") from error
    if done.returncode:
        raise MachineError(f"ssh-add does not take {key}: {done.stderr.decode(errors='replace').strip()}")
