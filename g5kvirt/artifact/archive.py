"""`archive` writes runs as one file for a reviewer, `open_archive` checks it and draws its figures again."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from g5kvirt.artifact.collect import check_names, check_presence, collect
from g5kvirt.artifact.crate import About, describe
from g5kvirt.artifact.draw import draw, same
from g5kvirt.artifact.packing import VERSIONS, check_manifest, pack, read_versions, unpack, write_manifest
from g5kvirt.artifact.person import redaction_of_this_person
from g5kvirt.artifact.readme import readme
from g5kvirt.artifact.versions import differences, requirements, versions
from g5kvirt.errors import SpecError
from g5kvirt.run.directory import Run, list_runs, locate
from g5kvirt.views.formatting import count, size

__all__ = ["REDRAWN", "Archive", "Redrawn", "archive", "open_archive"]

REDRAWN = "redrawn"  #: the folder of figures that were drawn anew


@dataclass(frozen=True)
class Archive:
    """What `archive` has written."""

    path: Path
    runs: Sequence[str]  #: names
    files: Sequence[str]  #: in the archive
    replaced: Mapping[str, int]  #: what concerns a person, and how often it was replaced

    def __repr__(self) -> str:
        figures = sum(name.endswith(".pdf") for name in self.files)
        what = f"{count(len(self.runs), 'run')}, {count(figures, 'figure')}"
        replaced = ", ".join(f"{kind} {number:,} times" for kind, number in sorted(self.replaced.items()))
        return (
            f"written: {self.path}: {what}, {size(self.path.stat().st_size)}\n"
            f"replaced: {replaced or 'nothing'}"
        )


@dataclass(frozen=True)
class Redrawn:
    """What `open_archive` has drawn anew."""

    folder: Path  #: where the archive is unpacked; the new figures are in ``redrawn`` there
    runs: Sequence[str]  #: each with its testbed
    files: Mapping[str, bool]  #: table or figure → whether it is the same to the byte
    versions: Sequence[str]  #: software that differs between the archive and here

    @property
    def same(self) -> bool:
        """Whether all are the same to the byte."""
        return all(self.files.values())

    def __repr__(self) -> str:
        where = "\n".join([f"unpacked: {self.folder}", *(f"  run {run}" for run in self.runs)])
        if self.same:
            drawn = f"{count(len(self.files), 'file')}, all the same to the byte ({self.folder / REDRAWN})"
            return f"{where}\ndrawn anew: {drawn}"
        unlike = [name for name, is_same in self.files.items() if not is_same]
        numbers = sum(name.endswith(".csv") for name in unlike)
        drawn = f"{len(unlike):,} of {count(len(self.files), 'file')} differ, {numbers:,} are numbers"
        others = "; ".join(self.versions) or "the same as in the archive"
        return "\n".join(
            [where, f"drawn anew: {drawn}", *(f"  {name}" for name in unlike), f"versions: {others}"]
        )


def archive(
    *runs: str | Path,
    output: str | Path | None = None,
    add: Sequence[str | Path] = (),
    title: str = "",
    authors: Sequence[str] = (),
    license: str = "",
    folder: str | Path = "runs",
) -> Archive:
    """Write runs as one zip file, from which anyone can draw all figures again (`open_archive`).

    ``runs``: directories, names in ``folder``, or folders of runs such as a sweep's. ``output``: by default
    ``RUN.zip``, of the first run. ``add``: notebooks, the wheel of g5kvirt, other files. ``license``: of the
    data, a name such as ``CC-BY-4.0`` or a URL. Logins, keys, tokens, passwords, e-mail addresses, home
    directories and this machine's name are replaced; transcripts, consoles and ssh keys are left out.

    Raises RunError for a run that is not there or cannot be read, SpecError for files that cannot be in it.
    """
    chosen = _runs(Path(folder), [str(run) for run in runs])
    more = [Path(path) for path in add]
    check_names(chosen, more)
    for run in chosen:
        check_presence(run)
    path = Path(output or f"{chosen[0].name}.zip")
    if path.suffix != ".zip":
        raise SpecError(f"{path} is not the name of a zip file", advice="give one that ends in .zip")
    if not path.parent.is_dir():
        raise SpecError(f"there is no directory {path.parent}", advice="make it first")
    redaction = redaction_of_this_person()
    with tempfile.TemporaryDirectory(prefix="g5kvirt-archive-") as name:
        collect(chosen, more, Path(name), redaction)
        names = _complete(Path(name), About(title, authors, license))
        pack(Path(name), path)
    return Archive(path, [run.name for run in chosen], names, dict(redaction.count))


def _runs(root: Path, given: Sequence[str]) -> list[Run]:
    """The runs that are named, those of folders one by one. Raises RunError, SpecError."""
    if not given:
        raise SpecError("an archive needs a run", advice="name one or more, or a folder of runs")
    found: list[Run] = []
    for word in given:
        folders = (path for path in (Path(word), root / word) if not (path / "run.json").exists())
        inside = next((runs for path in folders if (runs := list_runs(path))), None)
        found += inside or [locate(root, word)]
    return found


def _complete(folder: Path, about: About) -> list[str]:
    """Draw the figures of what was collected, and describe it all; returns the names of all files."""
    draw(folder / "runs", folder)
    used = versions()
    (folder / VERSIONS).write_text(json.dumps(used, indent=2) + "\n", encoding="utf-8")
    (folder / "requirements.txt").write_text(requirements(used), encoding="utf-8")
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    page = readme(list_runs(folder / "runs"), about, used, files)
    (folder / "README.md").write_text(page, encoding="utf-8")
    describe(folder, about, used, sorted([*files, "README.md"]))
    return write_manifest(folder)


def open_archive(file: str | Path, into: str | Path | None = None) -> Redrawn:
    """Unpack an archive, compare each file with its checksum, and draw all tables and figures again.

    Needs neither root nor a testbed. ``file`` may be a folder that was unpacked already; ``into``: where to
    unpack it, by default beside it, by its name. Raises RunError for an archive that is damaged.
    """
    path = Path(file)
    folder = path if path.is_dir() else Path(into or path.with_suffix(""))
    if folder == path:
        check_manifest(folder)
    else:
        unpack(path, folder)
    again = folder / REDRAWN
    if again.is_dir():
        shutil.rmtree(again)  # of an earlier call, perhaps by other versions
    draw(folder / "runs", again)
    runs = [f"{run.name} on {run.testbed}" for run in list_runs(folder / "runs")]
    others = differences(read_versions(folder), versions())
    return Redrawn(folder, runs, same(folder, again), others)
