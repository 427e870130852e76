"""Which machines meet a condition on OAR's properties (``memnode >= 16384``). Pure.

OAR's conditions are SQL for PostgreSQL, and the REST API does not evaluate them. SQLite, in memory, gives the
same result for columns, numbers, strings and the usual operators.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any

from g5kvirt.errors import SpecError

__all__ = ["matching_machines"]

_COLUMN = re.compile("[A-Za-z_][A-Za-z0-9_]*")


def matching_machines(rows: Sequence[Mapping[str, Any]], condition: str, site: str = "") -> set[str]:
    """Names of the machines among OAR's resources (``rows``) that meet an SQL ``condition``.

    ``site`` is only for the message of the error. Raises SpecError if the condition cannot be evaluated.
    """
    machines = [row for row in rows if row.get("type") == "default" and row.get("network_address")]
    # SQL does not tell upper case from lower; what is no word cannot stand in a condition
    names = sorted(
        {name.lower(): name for row in machines for name in row if _COLUMN.fullmatch(name)}.values()
    )
    if not machines:
        return set()
    columns = ", ".join(f'"{name}" {_column_type([row.get(name) for row in machines])}' for name in names)
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("PRAGMA case_sensitive_like = ON")
        database.execute(f"CREATE TABLE resources ({columns})")
        marks = ", ".join("?" * len(names))
        database.executemany(
            f"INSERT INTO resources VALUES ({marks})",  # noqa: S608 - question marks only
            [[_plain(row.get(name)) for name in names] for row in machines],
        )
        database.set_authorizer(_read_only)
        try:
            found = database.execute(
                f"SELECT DISTINCT network_address FROM resources WHERE ({condition})"  # noqa: S608 - see above
            ).fetchall()
        except sqlite3.Error as error:
            of = f" of {site}" if site else ""
            raise SpecError(
                f"cannot evaluate the properties {condition!r} on the machines{of} ({error})",
                advice="correct them, or name the sites yourself and leave the evaluation to OAR",
            ) from error
    return {str(name) for (name,) in found}


def _column_type(values: Iterable[Any]) -> str:
    words = [str(value) for value in values if value is not None]
    return "INTEGER" if words and all(w.lstrip("-").isdecimal() for w in words) else "TEXT"


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 63):
        return value
    return str(value).encode(errors="replace").decode()


def _read_only(action: int, *_: object) -> int:
    allowed = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION)
    return sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY
