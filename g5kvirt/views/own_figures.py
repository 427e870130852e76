"""Figures of tables that a user has made: what is drawn of them, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from g5kvirt.errors import SpecError
from g5kvirt.views.curves import legend_columns, points
from g5kvirt.views.drawing import legend, narrow
from g5kvirt.views.statistics import Statistic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_own", "own_table"]

_MOST = 60  #: categories that can be distinguished


def own_table(frame: Any, x: str, y: str, series: str | None) -> pd.DataFrame:
    """The rows of ``frame`` that have values: ``series`` (text, empty without one), ``_x`` and ``_y``.

    ``_x`` is numbers or text. Raises SpecError.
    """
    if not isinstance(frame, pd.DataFrame):
        raise SpecError(f"a figure is drawn of a pandas DataFrame, not of a {type(frame).__name__}")
    for name in (x, y, *([series] if series is not None else [])):
        if name not in frame:
            there = ", ".join(map(str, frame.columns)) or "none"
            raise SpecError(f"the table has no column {name!r}", advice=f"its columns are {there}")
    if not pd.api.types.is_numeric_dtype(frame[y]) or pd.api.types.is_bool_dtype(frame[y]):
        raise SpecError(f"column {y!r} is not one of numbers", advice="convert it, such as by astype(float)")
    numbers = pd.api.types.is_numeric_dtype(frame[x]) and not pd.api.types.is_bool_dtype(frame[x])
    table = pd.DataFrame(
        {
            "series": "" if series is None else frame[series].astype(str).to_numpy(),
            "_x": frame[x].astype(float).to_numpy() if numbers else frame[x].to_numpy(),
            "_y": frame[y].astype(float).to_numpy(),
        }
    )
    table = table[np.isfinite(table["_y"])].dropna(subset=["_x"])
    finite = np.isfinite(table["_x"].to_numpy()) if numbers else np.ones(len(table), dtype=bool)
    table = table[finite].reset_index(drop=True)
    if not numbers:
        table["_x"] = table["_x"].astype(str)
    if table.empty:
        raise SpecError(f"no row of the table has both {x!r} and {y!r}")
    if not numbers and table["_x"].nunique() > _MOST:
        raise SpecError(
            f"column {x!r} has {table['_x'].nunique():,} different texts", advice=f"draw at most {_MOST}"
        )
    return pd.DataFrame(table)


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
