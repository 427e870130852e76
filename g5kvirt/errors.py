"""Every error that g5kvirt raises deliberately.

Each is one sentence: what is wrong (``message``) and what to do about it (``advice``). The command line
prints that sentence and exits with the error's ``exit_code``; a traceback means a bug in g5kvirt, never bad
input.

::

    G5kvirtError              1
    ├── SpecError             2   the specification is invalid
    │   └── CapacityError     2   the specification needs more than exists or fits
    ├── RunError              2   a run's name, directory or journal cannot be used
    ├── PhaseOrderError       2   a step was called before the one it requires
    ├── MachineError          3   this machine cannot do it (root, packages, memory, kernel)
    ├── TestbedError          3   the testbed does not answer or refuses
    └── PhaseError            1   a step failed; has the attributes phase and step

`Stopped` is not a G5kvirtError: it is an interrupt with a reason.

A notebook shows the message of an error and the lines of the cell that caused it; ``%debug`` and
``traceback.print_last()`` show the full traceback. If an error ends a script, the traceback shows only the
lines of the script; ``G5KVIRT_DEBUG=1`` in its environment shows the full traceback.
"""

from __future__ import annotations

import copyreg
import linecache
import os
import sys
import traceback
from types import TracebackType
from typing import Any

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
    "show_briefly",
]


class G5kvirtError(Exception):
    """Base class of all errors that g5kvirt raises deliberately.

    ``message`` says what is wrong, ``advice`` what to do about it (may be empty); ``str()`` combines both,
    "message: advice".
    """

    exit_code = 1
    message: str = ""
    advice: str = ""

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(f"{message}: {advice}" if advice else message)
        self.message = message
        self.advice = advice

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without calling ``__init__``: its keyword arguments are in the instance's dictionary."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]

    def _render_traceback_(self) -> list[str]:
        """Called by IPython, instead of its own traceback."""
        return for_a_notebook(self)


class SpecError(G5kvirtError):
    """The specification is invalid; nothing has been touched."""

    exit_code = 2


class CapacityError(SpecError):
    """The specification needs more than exists or fits.

    ``requested`` and ``available`` are the two numbers, in the unit that the message names.
    """

    def __init__(self, message: str, *, requested: int, available: int, advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.requested = requested
        self.available = available


class RunError(G5kvirtError):
    """A run's name, directory or journal cannot be used."""

    exit_code = 2


class PhaseOrderError(G5kvirtError):
    """A step was called before the one it requires."""

    exit_code = 2


class MachineError(G5kvirtError):
    """This machine cannot do it: no root, a missing package, too little memory, an old kernel."""

    exit_code = 3


class TestbedError(G5kvirtError):
    """The testbed does not answer, or refuses a request."""

    __test__ = False  # not a test class, whatever pytest makes of the name
    exit_code = 3


class TestbedDownError(TestbedError):
    """The local testbed is not up; nothing is reserved on it any more."""


class PhaseError(G5kvirtError):
    """A step failed; ``phase`` and ``step`` name it."""

    def __init__(self, message: str, *, phase: str, step: str = "", advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.phase = phase
        self.step = step


class Stopped(KeyboardInterrupt):
    """A step was interrupted for the given reason; cleanup is the same as after Ctrl-C."""


def for_a_notebook(error: BaseException) -> list[str]:
    """What a notebook cell shows of an error, as lines: its sentence, then the caller's own, innermost last.

    The frames of g5kvirt and of IPython are left out: they do not help to correct the input.
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


def show_briefly() -> None:
    """From now on an error of ours that ends a script is shown by the script's own lines and its sentence.

    Any other goes to the hook that was there before, so do all where ``G5KVIRT_DEBUG`` is set.
    """
    if sys.excepthook is not _excepthook:
        _hooks.append(sys.excepthook)
        sys.excepthook = _excepthook


#: Those that `show_briefly` has replaced, the latest last.
_hooks: list[Any] = []


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, G5kvirtError) or os.environ.get("G5KVIRT_DEBUG"):
        _hooks[-1](kind, error, trace)
        return
    own = []
    for frame, number in traceback.walk_tb(trace):
        if str(frame.f_globals.get("__name__")).partition(".")[0] == __name__.partition(".")[0]:
            break
        own.append((frame, number))
    lines = traceback.StackSummary.extract(iter(own)).format()
    head = ["Traceback (most recent call last):\n"] * bool(lines)
    print("".join([*head, *lines, f"{kind.__name__}: {error}"]), file=sys.stderr)


def reason_of(error: BaseException) -> str:
    """The reason that the journal records for an exception that ended a step."""
    if isinstance(error, (KeyboardInterrupt, SystemExit)) and not isinstance(error, Stopped):
        return "interrupted"  # SystemExit: SIGTERM
    return str(error) or repr(error)
