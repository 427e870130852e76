"""``g5kvirt archive`` and ``g5kvirt open``: runs as one file for a reviewer; its figures anew."""

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
        "write runs as one file for reviewers and readers, from which all figures can be drawn again",
        "It has the request and the journal of each run, its tables, figures and notebooks, the figures\n"
        "that compare them, versions of the software, a page that tells how to draw again, checksums, and a\n"
        "description for machines (RO-Crate). Logins, keys, tokens, passwords, e-mail addresses, home\n"
        "directories and this host's name are replaced; transcripts, consoles and ssh keys are left out.\n\n"
        "examples:\n"
        "  g5kvirt archive first -o artifact.zip\n"
        "  g5kvirt archive chain http --title 'Chain and http' --license CC-BY-4.0 --add paper.ipynb",
    )
    parser.add_argument(
        "run",
        nargs="+",
        metavar="RUN",
        help="name or directory of a run, or a folder of runs such as a sweep",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the archive (default: RUN.zip, of the first run)"
    )
    parser.add_argument(
        "--add",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a notebook, the wheel of g5kvirt, or another file of yours; may be repeated",
    )
    parser.add_argument("--title", default="", metavar="TEXT", help="what the archive is called")
    parser.add_argument(
        "--author",
        action="append",
        default=[],
        metavar="NAME",
        help="may be repeated; none for a blind review",
    )
    parser.add_argument(
        "--license", default="", metavar="NAME", help="of the data, such as CC-BY-4.0, or its URL"
    )
    runs_option(parser)
    parser.set_defaults(do=archive)


def add_open(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``open``."""
    parser = command_parser(
        sub,
        "open",
        "unpack an archive of runs, check it, and draw its figures again",
        "Needs neither root nor a testbed. Every file is compared with its checksum; then all tables and\n"
        "figures are made anew from the journals, below redrawn/, and compared with the archived ones.\n\n"
        "exit code 0: all are the same to the byte; 1: some differ, and the versions that may be why are\n"
        "listed; 2: the archive is damaged.\n\n"
        "examples:\n"
        "  g5kvirt open artifact.zip\n"
        "  g5kvirt open .                         in a folder that was unpacked already",
    )
    parser.add_argument("archive", type=Path, metavar="FILE", help="the archive, or the folder it is in")
    parser.add_argument(
        "--into", type=Path, metavar="DIR", help="where to unpack it (default: beside it, by its name)"
    )
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
    print(f"Look through it before you publish it, and try it: g5kvirt open {made.path}")
    return 0


def open_archive(arguments: argparse.Namespace) -> int:
    """Unpack an archive, check it, and draw its figures again."""
    from g5kvirt.artifact.archive import open_archive

    found = open_archive(arguments.archive, arguments.into)
    print(found)
    return 0 if found.same else 1
