"""What the parsers of all commands have in common."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g5kvirt.errors import SpecError
from g5kvirt.run.printable import printable

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

__all__ = ["command_parser", "confirmed", "need_terminal", "print_help", "runs_option"]


_PROSE = 98  #: columns that prose fills at most


class _Parser(argparse.ArgumentParser):
    """A parser whose messages escape control characters of the command line; so do those of its commands."""

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        self.register("type", int, whole_number)

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        super()._print_message(printable(message, "\n\t"), file)


def whole_number(text: str) -> int:
    """ASCII digits. Raises ValueError: Python itself also takes those of other scripts, and ``1_0``."""
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise ValueError(text)
    return int(text)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Prose fills the width; blocks with indented lines, such as examples, keep their line breaks."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        blocks = text.strip().split("\n\n")
        return "\n\n".join(
            block if re.search(r"^ ", block, re.MULTILINE) else textwrap.fill(block, min(width, _PROSE))
            for block in blocks
        )


def command_parser(
    sub: argparse._SubParsersAction[argparse.ArgumentParser] | None, name: str, summary: str, epilog: str
) -> argparse.ArgumentParser:
    """The parser of the whole program (without ``sub``) or of one of its commands."""
    if sub is None:
        return _Parser(prog=name, description=summary, epilog=epilog, formatter_class=_Help)
    described = summary[0].upper() + summary[1:] + "."
    return sub.add_parser(name, help=summary, description=described, epilog=epilog, formatter_class=_Help)


def print_help(parser: argparse.ArgumentParser, _: argparse.Namespace) -> int:
    """What a command does that only has subcommands."""
    parser.print_help()
    return 0


def need_terminal(what: str) -> None:
    """Raise SpecError if there is no terminal at which the user can confirm ``what``."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise SpecError(f"cannot {what} without confirmation, and there is no terminal", advice="add --yes")


def confirmed(question: str, what: str) -> bool:
    """Whether the user at the terminal confirms ``what``. Raises SpecError without a terminal."""
    need_terminal(what)
    return input(question).strip().lower() in ("y", "yes")


def runs_option(parser: argparse.ArgumentParser) -> None:
    """``--runs``."""
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="directory that holds the runs (default: runs)",
    )
