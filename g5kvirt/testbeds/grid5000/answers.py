"""The output of a command on a frontend, separated from everything else on the same connection. Pure.

A login shell may be fish or tcsh; its start-up files, a motd or a background process may print whatever they
like, before, after and between the lines of the command; and a pseudo-terminal mixes standard error in and
ends lines with CRLF. So `marked` has the command run by ``sh``, and every line of its answer carries a mark;
`read_answer` takes those lines and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from g5kvirt.run.printable import short

__all__ = ["Answer", "marked", "quoted", "read_answer", "unreadable"]

#: The marks are put together on the frontend: a shell that echoes its commands must not seem to answer.
_NAME = "g5kvirt"
_MARK = re.compile(rf"{_NAME}-(out|err|begin|end):(.*)")
#: What a program prints for a terminal: colours, its title, modes. No part of any answer.
_TERMINAL = re.compile(
    r"\x1b(?:\[[0-?]{0,40}[ -/]{0,4}[@-~]|\][^\x07\x1b\n]{0,200}(?:\x07|\x1b\\)|[()][0-9A-Za-z]|[=>78])"
)
_QUOTED = 120  #: characters of an answer that an error shows

#: Standard output and standard error each pass a sed that marks their lines; 4 takes the exit code.
_EACH_LINE = (
    f"m={_NAME}; exec 5>&1; code=$({{ {{ {{ ( COMMAND ) 3>&- 4>&- 5>&-; echo $? >&4; echo; }} 2>&3"
    ' | sed -u "s/^/$m-out:/" >&5; } 3>&1 | sed -u "s/^/$m-err:/" >&5; } 4>&1); echo; echo "$m-end:$code"'
)
#: The command keeps its terminal, for one that takes minutes and would print into a pipe only at its end.
_AROUND = f'm={_NAME}; echo; echo "$m-begin:"; ( COMMAND ); code=$?; echo; echo "$m-end:$code"'


@dataclass(frozen=True)
class Answer:
    """What a command on a frontend answered."""

    lines: tuple[str, ...] = ()  #: of its standard output, without carriage returns
    errors: tuple[str, ...] = ()  #: of its standard error
    code: int | None = None  #: its exit code; None if it did not come to its end
    noise: tuple[str, ...] = ()  #: lines that others printed: a login shell, its start-up files
    failure: str = ""  #: why there is no (good) answer: ssh's reason, the command's own, or how it ended

    @property
    def ok(self) -> bool:
        """Whether the command came to its end, with exit code 0."""
        return self.code == 0

    @property
    def text(self) -> str:
        """The lines of standard output."""
        return "".join(f"{line}\n" for line in self.lines)

    @property
    def last(self) -> str:
        """The last line that is not empty, of standard error if there is one; printable and short."""
        lines = [line.strip() for line in (*self.lines, *self.errors) if line.strip()]
        return short(lines[-1]) if lines else ""


def marked(command: str, *, live: bool = False) -> str:
    """A command line that runs a shell ``command`` in sh and C locale, whatever the login shell is.

    ``live``: its output is not filtered, and so comes as soon as it would come on a terminal.
    """
    script = (_AROUND if live else _EACH_LINE).replace("COMMAND", command)
    # Within single quotes, csh still reads ! and ends at a newline, and fish reads \\ and \'.
    safe = re.sub(r"[\\!'\n]", lambda found: f"\\0{ord(found[0]):03o}", script)
    return f"""env LC_ALL=C sh -c 'eval "$(printf %b "$1")"' sh '{safe}'"""


def read_answer(printed: str) -> Answer:
    """The answer to a command of `marked` in all that was printed, without colours; never raises."""
    parts: dict[str, list[str]] = {"out": [], "err": [], "noise": []}
    code: int | None = None
    inside = False
    for line in _TERMINAL.sub("", printed).split("\n"):
        mark = _MARK.search(line)
        before = line if mark is None else line[: mark.start()]
        parts["out" if inside else "noise"].append(before.rstrip("\r"))
        if mark is None:
            continue
        if mark[1] in parts:
            parts[mark[1]].append(mark[2])
        elif mark[1] == "begin":
            inside = True
        elif re.fullmatch(r"\d{1,3}", mark[2].strip(), re.ASCII):
            code, inside = int(mark[2]), False
    noise = tuple(line for line in parts["noise"] if line.strip())
    return Answer(_trimmed(parts["out"]), _trimmed(parts["err"]), code, noise)


def _trimmed(lines: Sequence[str]) -> tuple[str, ...]:
    """Without carriage returns, and without empty lines at the end."""
    kept = [line.rstrip("\r") for line in lines]
    while kept and not kept[-1].strip():
        kept.pop()
    return tuple(kept)


def quoted(lines: Sequence[str]) -> str:
    """Lines of an answer as an error shows them: in quotes, printable, cut."""
    text = " / ".join(words for line in lines if (words := " ".join(line.split())))
    return f'"{short(text, _QUOTED)}"'


def unreadable(answer: Answer, what: str = "its answer") -> str:
    """The clause for an answer that came, and is none: it quotes what was printed."""
    shown = answer.lines or answer.errors or answer.noise
    return f"{what} cannot be read: {quoted(shown)}" if shown else f"{what} is empty"
