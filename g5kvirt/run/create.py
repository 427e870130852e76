"""Creation of a run: its directory, the specification, the versions of software, and its ssh key."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import g5kvirt
from g5kvirt.errors import RunError
from g5kvirt.run import directory
from g5kvirt.run.directory import JOB_NAME, Run, job_name
from g5kvirt.run.keys import make_key
from g5kvirt.spec.clock import check_start
from g5kvirt.spec.spec import Spec

__all__ = ["create_run"]

#: ssh expands some of these in paths of keys and configurations; others reach a shell unquoted, because
#: ProxyJump calls ssh again without quoting the path of the configuration.
_NOT_FOR_SSH = re.compile(r"[^\w@+=:,./~-]")
_LONGEST_DATE = "2026-12-01-190000-999"  #: the longest default name


def create_run(
    root: Path, name: str | None, spec: Spec, testbed: str, about: Mapping[str, Any] | None = None
) -> Run:
    """Create the run ``name`` in ``root``; ``testbed`` opens it again.

    ``about``: more for its ``run.json``, such as what is special about the testbed. With ``prediction`` in
    it, the run gets no key: there is nobody to let in.
    Raises RunError, SpecError for a start in the past, and MachineError if there is no ssh-keygen.
    """
    check_start(spec.start_seconds)
    predicted = bool((about or {}).get("prediction"))
    if not predicted and (found := _NOT_FOR_SSH.search(str(root.absolute()))):
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
        **(about or {}),
        "versions": {"g5kvirt": g5kvirt.__version__, "execo": metadata.version("execo")},
    }
    run = directory.create(root, name, document)
    if run.predicted:
        return run
    try:
        make_key(run.path / "ssh" / "id_ed25519", f"g5kvirt {run.name}", "-t", "ed25519")
    except BaseException:  # an interrupt too: a run without a key never was
        shutil.rmtree(run.path)
        raise
    return run
