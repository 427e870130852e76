"""The beginning of a run: its directory, what was asked, with which versions, and its ssh key."""

from __future__ import annotations

import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import g5kvirt
from g5kvirt import runs
from g5kvirt.errors import MachineError
from g5kvirt.runs import Run
from g5kvirt.spec import Spec

__all__ = ["begin"]


def begin(root: Path, name: str | None, spec: Spec, testbed: str) -> Run:
    """Make the run ``name`` in ``root``. Raises RunError, and MachineError if there is no ssh-keygen."""
    document = {
        "spec": spec.to_dict(),
        "testbed": testbed,
        "versions": {"g5kvirt": g5kvirt.__version__, "execo": metadata.version("execo")},
    }
    run = runs.create(root, name, document)
    try:
        _make_key(run)
    except BaseException:  # an interrupt too: a run without a key never was
        shutil.rmtree(run.path)
        raise
    return run


def _make_key(run: Run) -> None:
    """The ssh key of the run, for root on its machines. Raises MachineError."""
    folder = run.path / "ssh"
    folder.mkdir(mode=0o700)
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"g5kvirt {run.name}"]
    try:
        made = subprocess.run(
            [*words, "-f", str(folder / "id_ed25519")], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"ssh-keygen does not work ({error}): install openssh-client") from error
    if made.returncode:
        raise MachineError(f"ssh-keygen made no key: {made.stderr.strip()}")
