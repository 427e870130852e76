"""The host agent unpacked on this machine, as it is on a host; removed when this process ends."""

from __future__ import annotations

import atexit
import functools
import shutil
import sys
import tempfile
from pathlib import Path

from g5kvirt.hostagent import bundle


@functools.cache
def directory() -> Path:
    """The directory that Python runs."""
    folder = Path(tempfile.mkdtemp(prefix="g5kvirt-agent-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return bundle.unpack(folder)


def argv(*arguments: str) -> list[str]:
    """The command that runs the agent with this Python."""
    return [sys.executable, "-I", "-S", str(directory()), *arguments]
