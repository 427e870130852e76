"""Run directories: ``<root>/<name>/`` with ``run.json`` (the request) and ``journal.jsonl`` (the events)."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from g5kvirt.errors import RunError
from g5kvirt.run.printable import short
from g5kvirt.spec.fields import show, suggest

__all__ = ["JOB_NAME", "Run", "create", "find", "job_name", "list_runs", "locate"]

JOB_NAME = 100  #: characters: the maximum length in OAR

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_DOCUMENT = "run.json"


@dataclass(frozen=True)
class Run:
    """A run's directory and its ``run.json``."""

    path: Path
    document: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def created(self) -> float:
        """When it was created, seconds since the epoch."""
        return float(self.document["created"])

    @property
    def spec(self) -> Mapping[str, Any]:
        """What was requested, as it was written; empty if that is no specification."""
        spec = self.document.get("spec")
        return spec if isinstance(spec, Mapping) else {}

    @property
    def vms(self) -> int:
        """How many VMs were requested, those of all groups; 0 if it does not say."""
        vms = self.spec.get("vms")
        groups = [group for group in vms if isinstance(group, Mapping)] if isinstance(vms, list) else []
        counts = [group.get("count") for group in groups] or [vms]
        return sum(count for count in counts if isinstance(count, int) and not isinstance(count, bool))

    @property
    def predicted(self) -> bool:
        """Whether it is a prediction by a model: no machine ran. Its testbed says so as well."""
        kind = str(self.document.get("testbed")).partition(":")[0]
        return bool(self.document.get("prediction")) or kind == "simulated"

    @property
    def testbed(self) -> str:
        """Where it ran, for a reader, in one short line: ``local:demo (managed switch)``,
        ``simulated:2013 (prediction by the calibration grid5000, assumed)``."""
        name, network = (str(self.document.get(key, "")) for key in ("testbed", "network"))
        about = network
        if self.predicted:
            name, about = _simulated_machines(name), f"prediction{self._calibration}"
        return short(f"{name or '–'} ({about})" if about else name or "–")

    @property
    def _calibration(self) -> str:
        """`` by the calibration mine, measured``; empty for a run of a version that did not record it."""
        about = self.document.get("calibration")
        if not isinstance(about, Mapping):
            return ""
        return f" by the calibration {about.get('name')}, {str(about.get('kind')).partition(',')[0]}"

    @property
    def journal(self) -> Path:
        """The path of its journal; of a recording, which may be compressed and is only read, that one."""
        path = self.path / "journal.jsonl"
        compressed = path.with_name(f"{path.name}.xz")
        return compressed if compressed.exists() and not path.exists() else path


def job_name(prefix: str, run: str, created: float = 0.0) -> str:
    """The name of the jobs of a run; its length does not depend on the time.

    A job whose number was lost is found again, and deleted, by its name. The name contains the time (in
    milliseconds, unique for a few hours), because runs in other directories, or at other sites, may have the
    same name.
    """
    return f"{prefix}-{run}-{int(created * 1000) % 16**6:06x}"


def create(root: Path, name: str | None, document: Mapping[str, Any]) -> Run:
    """Create the directory of a new run and write ``run.json``: ``document``, its name and the time.

    The default name is the date (UTC). Raises RunError if the name exists or is not
    made of letters, digits and ``- _ .``, or the directory cannot be written.
    """
    if name is not None:
        _check_name(name)
    now = time.time()
    try:
        root.mkdir(parents=True, exist_ok=True)
        path = _fresh(root, now) if name is None else _named(root, name)
        full = {"name": path.name, "created": now, **document}
        try:
            _write_atomically(path / _DOCUMENT, json.dumps(full, indent=2) + "\n")
        except BaseException:  # an interrupt too: a run that has no document never was
            path.rmdir()
            raise
    except OSError as error:
        raise RunError(
            f"cannot create a run in {root} ({error.strerror or error}): choose another directory"
        ) from error
    return Run(path, full)


def find(root: Path, name: str) -> Run:
    """The run in the directory ``root/name``.

    Raises RunError if there is none, it has a name that no run can have, or its ``run.json`` cannot be read.
    """
    path = root / name
    if name in ("", ".", ".."):  # the end of a path that has no name of its own
        path = path.resolve()
        root, name = path.parent, path.name
    if not _has_run(path):
        if inside := list_runs(path):
            names = ", ".join(sorted(run.name for run in inside))
            raise RunError(f"{path} is not a run but a folder of runs: choose one of {names}")
        known = suggest(name, (run.name for run in list_runs(root)))
        raise RunError(f"there is no run {name!r} in {root if root.name else root.resolve()}: {known}")
    _check_name(name)
    return _read(path)


def locate(runs: Path, given: str) -> Run:
    """The run that a user means: by its directory, by its name in ``runs``, or by a path below ``runs``.

    Raises RunError as `find` does.
    """
    is_path = "/" in given.rstrip("/") or given in (".", "..", "/")
    here, below = Path(given), runs / given
    for path in (here, below):  # a folder may have the same name as a run
        if _has_run(path):
            return find(path.parent, path.name)
    candidates = (here, below) if is_path else (below,)
    meant = next((path for path in candidates if path.parent.is_dir()), candidates[0])
    return find(meant.parent, meant.name)


def list_runs(root: Path) -> list[Run]:
    """All runs, oldest first. Directories without a readable ``run.json`` are ignored."""
    found = []
    for document in root.glob(f"*/{_DOCUMENT}"):
        try:
            found.append(_read(document.parent))
        except RunError:
            continue
    return sorted(found, key=lambda run: (run.created, run.name))


def _simulated_machines(testbed: str) -> str:
    """The machines alone: ``simulated:/home/me/runs/first//mine.yaml`` → ``simulated:first``."""
    kind, colon, name = testbed.partition(":")
    machines = Path(name.partition("//")[0])
    shown = machines.name if machines.is_absolute() else name.partition("/")[0]
    return f"{kind}{colon}{shown}"


def _has_run(path: Path) -> bool:
    try:
        return (path / _DOCUMENT).is_file()
    except OSError as error:  # not permitted, or a name that is too long
        shown = show(str(path))
        raise RunError(f"{shown} cannot be read ({error.strerror}): give the directory of a run") from error


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RunError(
            f"a run cannot be named {show(name)}: use at most 100 letters, digits and - _ ."
            "; it must not start with - or ."
        )


def _named(root: Path, name: str) -> Path:
    path = root / name
    try:
        path.mkdir()
    except FileExistsError:
        advice = f'continue it by Experiment.open("{path}"), or choose another name'
        if _has_run(path) and not Run(path, {}).journal.exists():  # it was created, and perhaps checked
            advice += "; nothing was done in it: delete it to begin anew, such as with another Spec"
        raise RunError(f"there is already a run {name!r} in {root}", advice=advice) from None
    return path


def _fresh(root: Path, now: float) -> Path:
    stem = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d-%H%M%S")
    for number in range(1, 1000):
        path = root / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir()
        except FileExistsError:  # another one was made within this second
            continue
        return path
    raise RunError(f"there are already a thousand runs {stem} in {root}: give this one a name")


def _write_atomically(path: Path, text: str) -> None:
    """Write the file completely or not at all, even if the machine crashes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> Run:
    try:
        document = json.loads((path / _DOCUMENT).read_text(encoding="utf-8"))
        run = Run(path, document)
        datetime.fromtimestamp(run.created, UTC)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise RunError(f"{path / _DOCUMENT} cannot be read ({error}): is {path.name!r} a run?") from error
    return run
