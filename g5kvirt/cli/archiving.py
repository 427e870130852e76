"""``g5kvirt archive`` and ``g5kvirt open``: runs as one file for reviewers; redrawing its figures."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from g5kvirt.cli.options import command_parser, runs_option
from g5kvirt.errors import SpecError
from g5kvirt.views.formatting import count, size

if TYPE_CHECKING:
    from g5kvirt.artifact.crate import About
    from g5kvirt.run.directory import Run

__all__ = ["add_archive", "add_open", "archive", "open_archive"]

REDRAWN = "redrawn"  #: the folder of figures that were drawn anew


def add_archive(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``archive``."""
    parser = command_parser(
        sub,
        "archive",
        "archive runs in one file for reviewers, who can redraw all figures from it",
        "The archive contains the specification and journal of each run, its tables, figures and notebooks, "
        "figures that compare the runs, versions of the software, instructions for redrawing, checksums, and "
        "machine-readable metadata (RO-Crate). Logins, keys, tokens, passwords, e-mail addresses, home "
        "directories and this host's name are replaced; transcripts, consoles and ssh keys are left out.\n\n"
        "examples:\n"
        "  g5kvirt archive first -o artifact.zip\n"
        "  g5kvirt archive chain http --license CC-BY-4.0 --add paper.ipynb",
    )
    parser.add_argument(
        "run",
        nargs="+",
        metavar="RUN",
        help="name or directory of a run, or a folder of runs such as a sweep",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="the archive (default: RUN.zip, named after the first run)",
    )
    parser.add_argument(
        "--add",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="add a notebook, the wheel of g5kvirt, or another file; may be repeated",
    )
    parser.add_argument("--title", default="", metavar="TEXT", help="title of the archive")
    parser.add_argument(
        "--author",
        action="append",
        default=[],
        metavar="NAME",
        help="an author; may be repeated; omit it for a blind review",
    )
    parser.add_argument(
        "--license", default="", metavar="NAME", help="licence of the data, such as CC-BY-4.0, or its URL"
    )
    runs_option(parser)
    parser.set_defaults(do=archive)


def add_open(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``open``."""
    parser = command_parser(
        sub,
        "open",
        "unpack an archive of runs, verify it, and redraw its figures",
        "Requires neither root nor a testbed. Verifies the checksum of every file, then redraws all tables "
        f"and figures from the journals into {REDRAWN}/ and compares them with the archived ones.\n\n"
        "Exit code 0: all are byte-identical; 1: some differ, and the versions that differ are listed; 2: "
        "the archive is damaged.\n\n"
        "examples:\n"
        "  g5kvirt open artifact.zip\n"
        "  g5kvirt open .                    in a folder that is already unpacked",
    )
    parser.add_argument(
        "archive", type=Path, metavar="FILE", help="the archive, or the folder it was unpacked to"
    )
    parser.add_argument("--into", type=Path, metavar="DIR", help="where to unpack it (default: next to it)")
    parser.set_defaults(do=open_archive)


def archive(arguments: argparse.Namespace) -> int:
    """Write an archive of runs."""
    from g5kvirt.artifact.collect import check_names, check_presence, collect
    from g5kvirt.artifact.crate import About
    from g5kvirt.artifact.packing import pack
    from g5kvirt.cli.report import redaction_for

    runs = _runs(arguments.runs, arguments.run)
    check_names(runs, arguments.add)
    for run in runs:
        check_presence(run)
    path = arguments.output or Path(f"{runs[0].name}.zip")
    if path.suffix != ".zip":
        raise SpecError(f"{path} is not the name of a zip file", advice="give one that ends in .zip")
    if not path.parent.is_dir():
        raise SpecError(f"there is no directory {path.parent}", advice="make it first")
    redaction = redaction_for(runs[0])
    with tempfile.TemporaryDirectory(prefix="g5kvirt-archive-") as name:
        folder = Path(name)
        collect(runs, arguments.add, folder, redaction)
        names = _complete(folder, About(arguments.title, arguments.author, arguments.license))
        pack(folder, path)
    figures = sum(name.endswith(".pdf") for name in names)
    print(
        f"written: {path}: {count(len(runs), 'run')}, {count(figures, 'figure')}, {size(path.stat().st_size)}"
    )
    replaced = ", ".join(f"{kind} {number:,} times" for kind, number in sorted(redaction.count.items()))
    print(f"replaced: {replaced or 'nothing'}")
    print(f"Look through it before you publish it, and try it: g5kvirt open {path}")
    return 0


def _runs(root: Path, given: Sequence[str]) -> list[Run]:
    """The runs that are named, those of folders one by one. Raises RunError."""
    from g5kvirt.run.directory import list_runs, locate

    found: list[Run] = []
    for word in given:
        folders = (path for path in (Path(word), root / word) if not (path / "run.json").exists())
        inside = next((runs for path in folders if (runs := list_runs(path))), None)
        found += inside or [locate(root, word)]
    return found


def _complete(folder: Path, about: About) -> list[str]:
    """Draw the figures of what was collected, and describe it all; returns the names of all files."""
    from g5kvirt.artifact.crate import describe
    from g5kvirt.artifact.draw import draw
    from g5kvirt.artifact.packing import VERSIONS, write_manifest
    from g5kvirt.artifact.readme import readme
    from g5kvirt.artifact.versions import requirements, versions
    from g5kvirt.run.directory import list_runs

    draw(folder / "runs", folder)
    used = versions()
    (folder / VERSIONS).write_text(json.dumps(used, indent=2) + "\n", encoding="utf-8")
    (folder / "requirements.txt").write_text(requirements(used), encoding="utf-8")
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    page = readme(list_runs(folder / "runs"), about, used, files)
    (folder / "README.md").write_text(page, encoding="utf-8")
    describe(folder, about, used, sorted([*files, "README.md"]))
    return write_manifest(folder)


def open_archive(arguments: argparse.Namespace) -> int:
    """Unpack an archive, check it, and draw its figures again."""
    from g5kvirt.artifact.draw import draw, same
    from g5kvirt.artifact.packing import check_manifest, read_versions, unpack
    from g5kvirt.artifact.versions import differences, versions
    from g5kvirt.run.directory import list_runs

    file: Path = arguments.archive
    if file.is_dir():
        folder = file
        check_manifest(folder)
    else:
        folder = arguments.into or file.with_suffix("")
        unpack(file, folder)
        print(f"unpacked: {folder}")
    for run in list_runs(folder / "runs"):
        print(f"  run {run.name} on {run.testbed}")
    if (folder / REDRAWN).is_dir():
        shutil.rmtree(folder / REDRAWN)  # of an earlier call, perhaps by other versions
    draw(folder / "runs", folder / REDRAWN)
    outcome = same(folder, folder / REDRAWN)
    unlike = [name for name, is_same in outcome.items() if not is_same]
    if not unlike:
        print(f"drawn anew: {count(len(outcome), 'file')}, all the same to the byte ({folder / REDRAWN})")
        return 0
    numbers = [name for name in unlike if name.endswith(".csv")]
    print(
        f"drawn anew: {len(unlike):,} of {count(len(outcome), 'file')} differ, {len(numbers):,} are numbers"
    )
    for name in unlike:
        print(f"  {name}")
    others = differences(read_versions(folder), versions())
    print(f"versions: {'; '.join(others) if others else 'the same as in the archive'}")
    return 1
