"""The beginning of a run: its directory, what was requested, with which versions, and its ssh key."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import g5kvirt
from g5kvirt.errors import MachineError, RunError
from g5kvirt.run import directory
from g5kvirt.run.directory import JOB_NAME, Run, job_name
from g5kvirt.spec.clock import check_start
from g5kvirt.spec.spec import Spec

__all__ = ["create_run"]

#: In paths of keys and configurations ssh replaces some of these; others reach a shell as they are, since its
#: ProxyJump calls ssh once more without quoting the configuration's path.
_NOT_FOR_SSH = re.compile(r"[^\w@+=:,./~-]")
_LONGEST_DATE = "2026-12-01-190000-999"  #: a run without a name is called so


def create_run(root: Path, name: str | None, spec: Spec, testbed: str) -> Run:
    """Make the run ``name`` in ``root``.

    Raises RunError, SpecError for a start in the past, and MachineError if there is no ssh-keygen.
    """
    check_start(spec.start_seconds)
    if found := _NOT_FOR_SSH.search(str(root.absolute())):
        raise RunError(
            f"runs cannot be kept in {root.absolute()}: ssh does not get on with {found[0]!r} in the path of"
            " its files; choose another directory"
        )
    jobs = job_name(spec.job_name, _LONGEST_DATE if name is None else str(name))
    if len(jobs) > JOB_NAME:
        raise RunError(
            f"the jobs of this run would be called {jobs[:40]}…, {len(jobs)} characters, of which OAR takes"
            f" {JOB_NAME}: give a shorter name or job_name"
        )
    document = {
        "spec": spec.to_dict(),
        "testbed": testbed,
        "versions": {"g5kvirt": g5kvirt.__version__, "execo": metadata.version("execo")},
    }
    run = directory.create(root, name, document)
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
