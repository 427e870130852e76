"""Figures of tables that a user has made: what is drawn of them, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from g5kvirt.errors import SpecError
from g5kvirt.run.printable import printable
from g5kvirt.spec.fields import show
from g5kvirt.views.curves import legend_columns, points
from g5kvirt.views.drawing import legend, narrow
from g5kvirt.views.statistics import Statistic
from g5kvirt.views.style import MOST_SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["as_drawn", "draw_own", "named_columns", "own_table"]

_MOST = 60  #: categories that can be distinguished
_LARGEST = 1e300  #: room for sums and for margins of an axis


def own_table(frame: Any, x: str, y: str, series: str | None) -> pd.DataFrame:
    """The rows of ``frame`` that have values: ``series`` (text, empty without one), ``_x`` and ``_y``.

    ``_x`` is numbers or text. Raises SpecError.
    """
    if not isinstance(frame, pd.DataFrame):
        raise SpecError(f"a figure is drawn of a pandas DataFrame, not of a {type(frame).__name__}")
    for name in (x, y, *([series] if series is not None else [])):
        _check_column(frame, name)
    if not _is_real(frame[y]):
        raise SpecError(f"column {y!r} is not one of numbers", advice="convert it, such as by astype(float)")
    numbers = _is_real(frame[x])
    table = pd.DataFrame(
        {
            "series": "" if series is None else frame[series].to_numpy(),
            "_x": frame[x].astype(float).to_numpy() if numbers else frame[x].to_numpy(),
            "_y": frame[y].astype(float).to_numpy(),
        }
    )
    table = table[np.isfinite(table["_y"])].dropna(subset=["series", "_x"])
    finite = np.isfinite(table["_x"].to_numpy()) if numbers else np.ones(len(table), dtype=bool)
    table = table[finite].reset_index(drop=True)
    table["series"] = table["series"].map(as_drawn)
    if not numbers:
        table["_x"] = table["_x"].map(as_drawn)
    if table.empty:
        raise SpecError(f"no row of the table has both {x!r} and {y!r}")
    for name, values in ((y, table["_y"]), (x, table["_x"])):
        if values.dtype == float and values.abs().max() > _LARGEST:
            raise SpecError(f"column {name!r} has numbers beyond {_LARGEST:g}", advice="use a larger unit")
    if table["series"].nunique() > MOST_SERIES:
        raise SpecError(
            f"column {series!r} has {table['series'].nunique():,} different values",
            advice=f"draw at most {MOST_SERIES} series in one figure",
        )
    if not numbers and table["_x"].nunique() > _MOST:
        raise SpecError(
            f"column {x!r} has {table['_x'].nunique():,} different texts", advice=f"draw at most {_MOST}"
        )
    return pd.DataFrame(table)


def _check_column(frame: pd.DataFrame, name: object) -> None:
    """Raises SpecError unless exactly one column has this name."""
    number = sum(1 for column in frame.columns if column is name or column == name)
    if number == 1:
        return
    there = ", ".join(as_drawn(column) for column in frame.columns[:20]) or "none"
    if number:
        raise SpecError(f"the table has {number} columns {show(name)}", advice="rename all but one")
    raise SpecError(f"the table has no column {show(name)}", advice=f"its columns are {there}")


def _is_real(column: pd.Series) -> bool:
    """Whether a column has numbers that an axis can show."""
    types = pd.api.types
    return (
        types.is_numeric_dtype(column)
        and not types.is_bool_dtype(column)
        and not types.is_complex_dtype(column)
    )


def as_drawn(value: object) -> str:
    """A value as fonts can draw it: control characters and halves of a character are escaped."""
    return printable(str(value), "\n")


def named_columns(table: pd.DataFrame, x: str, y: str, series: str | None) -> pd.DataFrame:
    """The table of a figure under the user's names; ours that would have one of them gets a number.

    A column that is used twice is there once.
    """
    own = {"_x": x, "_y": y, **({} if series is None else {"series": series})}
    used = set(own.values())
    names = []
    for column in table.columns:
        name = own.get(column, column)
        while column not in own and name in used:
            name = f"{column} (2)" if name == column else f"{name}'"
        names.append(name)
    named = table.set_axis(names, axis="columns")
    unused = named.columns.duplicated() | ((table.columns == "series") & (series is None))
    return pd.DataFrame(named.loc[:, ~unused])


def draw_own(ax: Axes, rows: pd.DataFrame, xlabel: str, ylabel: str, statistic: Statistic) -> None:
    """``rows`` as of `own_table`."""
    if pd.api.types.is_numeric_dtype(rows["_x"]):
        entries = points(ax, rows, "_x", "_y", statistic)
        values = sorted(set(rows["_x"]))
        if len(values) <= 8 and min(np.diff(values), default=1.0) > 0.1 * (values[-1] - values[0]):
            ax.set_xticks(values)
        if values[0] >= 0:
            ax.set_xlim(0, 1.06 * values[-1] or 1.0)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    else:
        names = list(dict.fromkeys(rows["_x"]))
        placed = rows.assign(_x=rows["_x"].map({name: float(at) for at, name in enumerate(names)}))
        entries = points(ax, placed, "_x", "_y", statistic, connected=False)
        ax.set_xlim(-0.6, len(names) - 0.4)
        ax.set_xticks(range(len(names)), names)
        room = (2.6 if narrow(ax) else 6.2) / len(names)  # inches
        if max(map(len, names)) * 0.065 > room:
            for tick in ax.get_xticklabels():
                tick.set(rotation=60, ha="right", rotation_mode="anchor")
    if rows["_y"].min() >= 0:
        ax.set_ylim(0, 1.08 * max(float(rows["_y"].max()), ax.get_ylim()[1] / 1.08) or 1.0)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.grid()
    labels = [str(entry.get_label()) for entry in entries]
    legend(ax, entries, legend_columns(labels, *((3, 58) if narrow(ax) else (5, 125))))
