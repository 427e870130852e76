"""Text files and JSON records that the agent keeps on its host, and names that are safe in their paths."""

from __future__ import annotations

import json
import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Record = dict[str, Any]
    Results = Iterator[tuple[str, Any]]  #: subject, and a Record or the exception that stopped it

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def read_text(path: str, default: str | None = None) -> str:
    """The text of a file; ``default`` if there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        if default is None:
            raise
        return default


def write_text(path: str, text: str, mode: int = 0o600) -> None:
    """Write a file so that a reader sees the old or the new one, never half of it."""
    temporary = f"{path}.{os.getpid()}.new"
    with open(
        os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
    ) as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)
    os.replace(temporary, path)


def write_setting(path: str, value: str) -> None:
    """Set a sysctl by its file, which cannot be replaced as `write_text` does it."""
    with open(path, "w", encoding="ascii") as file:
        file.write(value)


def load_record(path: str) -> Record:
    """A JSON record, or {} if there is none."""
    record: Record = json.loads(read_text(path, "{}"))
    return record


def tail(path: str, size: int = 600) -> str:
    """The last ``size`` characters of a log."""
    return read_text(path, "")[-size:].strip()


def check_name(name: Any) -> str:
    """The name, if it is safe in paths and on command lines. Raises ValueError if not."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a valid name (letters, digits, dot, dash, underscore; at most 63)")
    return name


def requested_names(request: Record, home: str, known: Callable[[str], list[str]]) -> list[str]:
    """The names that a request lists; all that are known if it has no list."""
    return list(request["names"]) if "names" in request else known(home)
