"""The command line: parses arguments, calls the library, prints the result, returns an exit code."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from g5kvirt.errors import G5kvirtError

__all__ = ["main"]

INTERRUPTED = 130  #: what a shell reports after Ctrl-C
TERMINATED = 143
BUG = 70  #: EX_SOFTWARE of sysexits.h


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    An error raised on purpose is printed as one sentence, with the error's own code; anything else is a bug
    and reported as one. ``--debug`` shows the traceback of either.
    """
    from g5kvirt.cli.parser import build_parser

    arguments = build_parser().parse_args(argv)
    debug = bool(arguments.debug)
    # A closed terminal ends a command as SIGTERM does: machines must not be kept.
    before = {number: signal.signal(number, _terminate) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        return int(arguments.do(arguments))
    except G5kvirtError as error:
        return _leave(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        return _leave("interrupted", INTERRUPTED, debug)
    except BrokenPipeError:  # `g5kvirt runs | head`: the reader has left, which is no error
        sys.stderr.close()
        return 0
    except Exception as error:  # noqa: BLE001 - the outermost handler reports anything, in one line
        message = (
            f"this is a bug in g5kvirt ({type(error).__name__}: {error}); `g5kvirt --debug …` shows where"
        )
        return _leave(message, BUG, debug)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(signum: int, frame: object) -> NoReturn:
    """Raise an exception, so that every ``finally`` runs."""
    raise SystemExit(TERMINATED)


def _leave(sentence: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"g5kvirt: {sentence}", file=sys.stderr)
    return code
