"""The command line: parses arguments, calls the library, prints the result, returns an exit code."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Sequence

from g5kvirt.errors import G5kvirtError
from g5kvirt.run.printable import printable
from g5kvirt.termination import EXIT_CODE, orderly_end

__all__ = ["main"]

INTERRUPTED = 130  #: what a shell reports after Ctrl-C
SYSTEM = 74  #: EX_IOERR
BUG = 70  #: EX_SOFTWARE of sysexits.h


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    An error raised on purpose is printed as one sentence, with the error's own code; anything else is a bug
    and reported as one. ``--debug`` shows the traceback of either.
    """
    _tolerate_surroundings()
    from g5kvirt.cli.console import discard_output
    from g5kvirt.cli.parser import build_parser

    arguments = build_parser().parse_args(argv)
    debug = bool(arguments.debug)
    try:
        # What is ignored stays ignored: `nohup` makes a command live on when its terminal is closed.
        with orderly_end():
            code = int(arguments.do(arguments))
            sys.stdout.flush()
            return code
    except G5kvirtError as error:
        return _leave(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        return _leave("interrupted", INTERRUPTED, debug)
    except BrokenPipeError:  # `g5kvirt runs | head`: the reader has left, which is no error
        discard_output()
        return 0
    except OSError as error:  # of this machine and its files, whatever we were about to do with them
        try:
            sys.stdout.flush()
        except OSError:
            discard_output()
        if (ended := _ended_by(error)) is not None:
            return ended
        where = f"{error.filename}: " if error.filename else ""
        return _leave(f"{where}{error.strerror or error}", SYSTEM, debug)
    except Exception as error:  # noqa: BLE001 - the outermost handler reports anything, in one line
        message = (
            f"this is a bug in g5kvirt ({type(error).__name__}: {error}); `g5kvirt --debug …` shows where"
        )
        return _leave(message, BUG, debug)


def _tolerate_surroundings() -> None:
    """What this process was started with must not end a command."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a character that its encoding lacks is a question mark
    # No window is opened, and with a wrong one matplotlib refuses to be imported.
    os.environ["MPLBACKEND"] = "agg"


def _ended_by(error: BaseException) -> int | None:
    """The exit code if a signal had ended the command before ``error``, as when its terminal is closed."""
    before = error.__context__
    while before is not None:
        if isinstance(before, KeyboardInterrupt):
            return INTERRUPTED
        if isinstance(before, SystemExit) and before.code == EXIT_CODE:
            return EXIT_CODE
        before = before.__context__
    return None


def _leave(sentence: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    with contextlib.suppress(OSError):  # a full disk behind it
        print(f"g5kvirt: {printable(sentence)}", file=sys.stderr)
    return code
