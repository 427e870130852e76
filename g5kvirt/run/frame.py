"""Creation of tables: columns have their types even without rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from g5kvirt.run.bulk import collector_paused

__all__ = ["frame_of_columns", "make_frame", "marked", "with_groups"]


def make_frame(rows: Iterable[Sequence[Any]], types: Mapping[str, str]) -> pd.DataFrame:
    """A table of ``rows``, whose cells are in the order of ``types`` (column → dtype).

    Many rows are best passed as an iterator: then they, too, are created while the collector is paused.
    """
    with collector_paused():
        columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in types]
        return frame_of_columns(columns, types)


def frame_of_columns(columns: Iterable[list[Any]], types: Mapping[str, str]) -> pd.DataFrame:
    """The same from ``columns``: for large tables, which need no tuple for each row."""
    return pd.DataFrame(
        {
            name: pd.Series(column, dtype=dtype)
            for (name, dtype), column in zip(types.items(), columns, strict=True)
        }
    )


def marked(table: pd.DataFrame, predicted: bool) -> pd.DataFrame:
    """The table of a prediction says so in a column of its own; that of a measured run stays as it is."""
    return table.assign(prediction=True) if predicted else table


def with_groups(table: pd.DataFrame, column: str, groups: Mapping[str, str]) -> pd.DataFrame:
    """The table with the group of each ``column`` after it, if any has one; a run without groups keeps its
    columns."""
    if any(groups.values()):
        found = table[column].map(groups).astype("object")
        table.insert(list(table.columns).index(column) + 1, "group", found.where(found.notna(), ""))
    return table
