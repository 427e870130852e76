"""Keys that a guest lets in, as sshd(8) writes them in authorized_keys."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Grant(NamedTuple):
        """What a key may do: the command that is run whatever the client requests, and a terminal."""

        command: str | None
        terminal: bool

else:
    from collections import namedtuple

    Grant = namedtuple("Grant", "command terminal")

_OPTION = re.compile(r'([A-Za-z0-9-]+)(?:="((?:[^"\\]|\\.)*)")?(,|$)')
_TYPE = re.compile(r"(?:ssh|ecdsa|sk)-[a-z0-9@.-]+")
#: Options that forbid or allow what this server does not have in any case.
_WITHOUT_EFFECT = frozenset(
    f"{no}{what}"
    for no in ("", "no-")
    for what in ("agent-forwarding", "port-forwarding", "x11-forwarding", "user-rc")
)


def grant(text: str, key: str) -> Grant | None:
    """What the file ``text`` grants to ``key`` (base64); None if it does not let that in.

    A key with an option that is not known here (``from=``, ``expiry-time=``, …) is not let in.
    """
    for line in text.split("\n"):
        options, found = _split(line.strip())
        if found == key:
            granted = _read(options)
            if granted is not None:
                return granted
    return None


def _split(line: str) -> tuple[str, str]:
    """The options of a line, and its key."""
    if line.startswith("#"):
        return "", ""
    head, rest = "", line
    if not _TYPE.match(line):
        end = _end_of_options(line)
        head, rest = line[:end], line[end:].lstrip()
    words = rest.split(None, 2)
    return head, words[1] if len(words) > 1 and _TYPE.fullmatch(words[0]) else ""


def _end_of_options(line: str) -> int:
    """Where the first blank outside quotes is."""
    quoted = False
    for place, character in enumerate(line):
        if character == '"' and line[place - 1 : place] != "\\":
            quoted = not quoted
        elif character in " \t" and not quoted:
            return place
    return len(line)


def _read(options: str) -> Grant | None:
    command, terminal = None, True
    place = 0
    while place < len(options):
        found = _OPTION.match(options, place)
        if found is None:
            return None
        name, value = found.group(1).lower(), found.group(2)
        if name == "command" and value is not None:
            command = value.replace('\\"', '"')
        elif name in ("restrict", "no-pty", "pty") and value is None:
            terminal = name == "pty"
        elif name not in _WITHOUT_EFFECT or value is not None:
            return None
        place = found.end()
    return Grant(command, terminal)
