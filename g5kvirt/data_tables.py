"""The tables of Grid'5000 that come with the project.

In a checkout they are in the top-level ``data`` directory; in an installed package they are beside
the code, in ``g5kvirt/_data``. ``data/README.md`` names their sources.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

__all__ = ["path", "rows"]

_PACKAGE = Path(__file__).resolve().parent


@cache
def path(name: str) -> Path:
    """Return the file ``name`` (such as ``"sites_2026.csv"``).

    :raises FileNotFoundError: no such table, or a package that was installed without its data.
    """
    for directory in (_PACKAGE.parent / "data", _PACKAGE / "_data"):
        if (directory / name).is_file():
            return directory / name
    raise FileNotFoundError(
        f"the table {name} is neither in a checkout's data directory nor in {_PACKAGE / '_data'}"
    )


@cache
def rows(name: str) -> tuple[dict[str, str], ...]:
    """Return the lines of a CSV table, each a mapping of column name to text; do not change them."""
    with path(name).open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))
