"""``g5kvirt archive`` and ``g5kvirt open``: runs as one file for reviewers; redrawing its figures."""

from __future__ import annotations

import argparse
from pathlib import Path

from g5kvirt.cli.options import command_parser, runs_option

__all__ = ["add_archive", "add_open", "archive", "open_archive"]


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
        "and figures from the journals into redrawn/ and compares them with the archived ones.\n\n"
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
    from g5kvirt.artifact.archive import archive

    made = archive(
        *arguments.run,
        output=arguments.output,
        add=arguments.add,
        title=arguments.title,
        authors=arguments.author,
        license=arguments.license,
        folder=arguments.runs,
    )
    print(made)
    if not any(Path(added).suffix == ".whl" for added in arguments.add or ()):
        print("It does not contain g5kvirt, which is not on PyPI: --add its wheel for those who open it.")
    print(f"Look through it before you publish it, and try it: g5kvirt open {made.path}")
    return 0


def open_archive(arguments: argparse.Namespace) -> int:
    """Unpack an archive, check it, and draw its figures again."""
    from g5kvirt.artifact.archive import open_archive

    found = open_archive(arguments.archive, arguments.into)
    print(found)
    return 0 if found.same else 1
