"""The console of all commands."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import IO, Any

import rich.console

from g5kvirt.run.printable import printable

__all__ = ["Console", "discard_output"]


class Console(rich.console.Console):
    """rich's, but a reader that leaves does not end a run, and printed text cannot control the terminal."""

    def on_broken_pipe(self) -> None:
        """Nothing more is printed; what was begun continues."""
        self.quiet = True
        discard_output(self.file)

    def print(self, *objects: Any, **more: Any) -> None:
        """As rich does, with control characters written out."""
        super().print(*(printable(one, "\n\t") if isinstance(one, str) else one for one in objects), **more)


def discard_output(stream: IO[str] | None = None) -> None:
    """Nothing more can be printed to a stream (stdout): what it holds must not raise when Python ends."""
    with suppress(OSError, ValueError), open(os.devnull, "w", encoding="utf-8") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), (stream or sys.stdout).fileno())  # closed, or no file: nothing to do
