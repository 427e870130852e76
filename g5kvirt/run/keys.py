"""The ssh keys of a run."""

from __future__ import annotations

import subprocess
from pathlib import Path

from g5kvirt.errors import MachineError

__all__ = ["make_key"]


def make_key(path: Path, comment: str, *kind: str) -> None:
    """Make a private key at ``path`` and a public one beside it; ``kind``: ssh-keygen's options.

    Raises MachineError.
    """
    path.parent.mkdir(mode=0o700, exist_ok=True)
    words = ["ssh-keygen", "-q", *kind, "-N", "", "-C", comment, "-f", str(path)]
    try:
        made = subprocess.run(words, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"ssh-keygen does not work ({error}): install openssh-client") from error
    if made.returncode:
        raise MachineError(f"ssh-keygen created no key: {made.stderr.strip()}")
