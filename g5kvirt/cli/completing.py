"""``g5kvirt completion``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from g5kvirt.cli.options import command_parser
from g5kvirt.errors import MachineError

__all__ = ["SHELLS", "add_completion", "completion"]

SHELLS = ("bash", "zsh", "tcsh")


def add_completion(
    sub: argparse._SubParsersAction[argparse.ArgumentParser], whole: argparse.ArgumentParser
) -> None:
    """``completion`` of all commands of the parser ``whole``."""
    parser = command_parser(
        sub,
        "completion",
        "print a script that makes a shell complete commands, options and files",
        "For zsh, put fpath+=~/.zfunc into ~/.zshrc; for tcsh, put source ~/.g5kvirt.csh into ~/.tcshrc.\n\n"
        "examples:\n"
        "  D=~/.local/share/bash-completion/completions\n"
        "  g5kvirt completion bash > $D/g5kvirt\n"
        "  g5kvirt completion zsh > ~/.zfunc/_g5kvirt\n"
        "  g5kvirt completion tcsh > ~/.g5kvirt.csh",
    )
    parser.add_argument("shell", choices=SHELLS, help="your shell")
    parser.set_defaults(do=partial(completion, whole))


def completion(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    """Print the completion of a shell."""
    try:
        import shtab
    except ImportError:
        raise MachineError("the Python package shtab is missing", advice="pip install shtab") from None
    for action in _actions(parser):
        if action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    sys.stdout.write(shtab.complete(parser, shell=arguments.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The options and arguments of a parser and of all of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
