"""Repetitions of the same measurement: their number, median or mean, and its interval. No matplotlib here."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from g5kvirt.run.deployment_tables import alike
from g5kvirt.views.statistics import Statistic, interval

__all__ = ["SUMMARY", "comparable", "number_words", "summarized", "with_summaries"]

#: Columns of `summarized`: values, their statistic, its 95 % interval (NaN with fewer than five values).
SUMMARY = ("n", "center", "ci_low", "ci_high")


def comparable(rows: pd.DataFrame) -> pd.Series[bool]:
    """Which of these deployments, or launches, are comparable (see `alike`)."""
    if "fresh" not in rows:
        return pd.Series(True, index=rows.index)
    return pd.Series(alike(rows["fresh"], rows["vms"]), index=rows.index)


def summarized(rows: pd.DataFrame, x: str, y: str, statistic: Statistic = "median") -> pd.DataFrame:
    """One row per ``series`` and value of ``x``: the columns of `SUMMARY` over ``y`` of comparable rows."""
    own = rows[comparable(rows)].dropna(subset=[x, y])
    found = []
    for (series, at), group in own.groupby(["series", x], sort=False):
        one = interval(group[y].to_numpy(dtype=float), statistic)
        found.append((series, at, one.n, one.value, one.low, one.high))
    table = pd.DataFrame(found, columns=["series", x, *SUMMARY])
    return table.astype(dict.fromkeys(SUMMARY[1:], "float64") | {"n": "int64"}).sort_values(
        x, kind="stable", ignore_index=True
    )


def with_summaries(rows: pd.DataFrame, x: str, y: str, statistic: Statistic = "median") -> pd.DataFrame:
    """``rows`` with what `summarized` found for the series and ``x`` of each; NaN where it is not compared.

    The column of the statistic is named after it: ``median`` or ``mean``.
    """
    found = summarized(rows, x, y, statistic)
    table = rows.merge(found, on=["series", x], how="left")
    table.index = rows.index
    out = ~comparable(rows)
    for name in SUMMARY:
        table[name] = table[name].astype("float64").mask(out)
    return table.rename(columns={"center": statistic})


def number_words(numbers: Iterable[int]) -> str:
    """``N = 5``, or ``N = 3–5`` if they differ; empty without any."""
    known = sorted(set(numbers))
    if not known:
        return ""
    return f"N = {known[0]:,}" if len(known) == 1 else f"N = {known[0]:,}–{known[-1]:,}"
