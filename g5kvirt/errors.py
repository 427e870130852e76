"""Every error that g5kvirt raises on purpose.

One sentence each: what is wrong and what to do about it. The command line prints that sentence and
leaves with the error's ``exit_code``; a traceback means a bug in g5kvirt, never bad input.

::

    G5kvirtError              1
    ├── SpecError             2   what was asked cannot be read or makes no sense
    │   └── CapacityError     2   more was asked than exists or fits
    ├── RunError              2   a run's name, directory or journal cannot be used
    ├── PhaseOrderError       2   a step was called before the one it stands on
    ├── MachineError          3   this machine cannot do it (root, packages, memory, kernel)
    ├── TestbedError          3   the testbed does not answer or refuses
    └── PhaseError            1   a step was tried and failed; carries phase and step

`Stopped` is none of them: it is an interrupt with a reason.

A notebook shows each as its sentence and the lines of the cell that met it; ``%debug`` and
``traceback.print_last()`` still show the way through g5kvirt.
"""

from __future__ import annotations

import linecache
import traceback

__all__ = [
    "CapacityError",
    "G5kvirtError",
    "MachineError",
    "PhaseError",
    "PhaseOrderError",
    "RunError",
    "SpecError",
    "Stopped",
    "TestbedError",
    "for_a_notebook",
    "reason_of",
]


class G5kvirtError(Exception):
    """Root of all errors raised on purpose."""

    exit_code = 1

    def _render_traceback_(self) -> list[str]:
        """Called by IPython, instead of its own traceback."""
        return for_a_notebook(self)


class SpecError(G5kvirtError):
    """What was asked cannot be read or makes no sense; nothing has been touched."""

    exit_code = 2


class CapacityError(SpecError):
    """More was asked than exists or fits.

    ``asked`` and ``available`` carry the two numbers, in the unit the sentence names.
    """

    def __init__(self, message: str, *, asked: int, available: int) -> None:
        super().__init__(message)
        self.asked = asked
        self.available = available


class RunError(G5kvirtError):
    """A run's name, directory or journal cannot be used."""

    exit_code = 2


class PhaseOrderError(G5kvirtError):
    """A step was called before the one it stands on."""

    exit_code = 2


class MachineError(G5kvirtError):
    """This machine cannot do it: no root, a missing package, too little memory, an old kernel."""

    exit_code = 3


class TestbedError(G5kvirtError):
    """The testbed does not answer, or refuses what was asked."""

    __test__ = False  # not a test class, whatever pytest makes of the name
    exit_code = 3


class PhaseError(G5kvirtError):
    """A step was tried and failed; ``phase`` and ``step`` say where."""

    def __init__(self, message: str, *, phase: str, step: str = "") -> None:
        super().__init__(message)
        self.phase = phase
        self.step = step


class Stopped(KeyboardInterrupt):
    """A step is ended from outside, and this is why; whoever cleans up after Ctrl-C does so after this."""


def for_a_notebook(error: BaseException) -> list[str]:
    """What a cell shows of an error, a line each: its sentence, then the caller's own lines, innermost last.

    The frames of g5kvirt and of IPython are left out: they say nothing about what to do.
    """
    lines = [f"\x1b[31m{type(error).__name__}\x1b[39m: {error}"]
    for frame, number in traceback.walk_tb(error.__traceback__):
        module, file = str(frame.f_globals.get("__name__")), frame.f_code.co_filename
        package = module.partition(".")[0]
        if package == __name__.partition(".")[0]:
            break
        if package != "IPython":
            where = "" if module == "__main__" else f" of {file}"
            lines.append(
                f"  line {number}{where}: {linecache.getline(file, number, frame.f_globals).strip()}"
            )
    return lines


def reason_of(error: BaseException) -> str:
    """What the journal says of what ended a step."""
    if isinstance(error, (KeyboardInterrupt, SystemExit)) and not isinstance(error, Stopped):
        return "interrupted"  # SystemExit: SIGTERM
    return str(error) or repr(error)
