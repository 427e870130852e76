"""Creation of a run: its directory, the specification, the versions of software, and its ssh key."""

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

#: ssh expands some of these in paths of keys and configurations; others reach a shell unquoted, because
#: ProxyJump calls ssh again without quoting the path of the configuration.
_NOT_FOR_SSH = re.compile(r"[^\w@+=:,./~-]")
_LONGEST_DATE = "2026-12-01-190000-999"  #: the longest default name


def create_run(root: Path, name: str | None, spec: Spec, testbed: str) -> Run:
    """Create the run ``name`` in ``root``.

    Raises RunError, SpecError for a start in the past, and MachineError if there is no ssh-keygen.
    """
    check_start(spec.start_seconds)
    if found := _NOT_FOR_SSH.search(str(root.absolute())):
        raise RunError(
            f"runs cannot be kept in {root.absolute()}: the path must not contain {found[0]!r}"
            " (a limitation of ssh); choose another directory"
        )
    jobs = job_name(spec.job_name, _LONGEST_DATE if name is None else str(name))
    if len(jobs) > JOB_NAME:
        raise RunError(
            f"the jobs of this run would be named {jobs[:40]}…, {len(jobs)} characters; OAR accepts"
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
        raise MachineError(f"ssh-keygen created no key: {made.stderr.strip()}")
