"""Tables that go into papers: as LaTeX with the rules of booktabs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from g5kvirt.run.printable import printable
from g5kvirt.spec.fields import text as text_of
from g5kvirt.spec.fields import whole, wrong

__all__ = ["PaperTable"]

#: Columns whose headings are not their names with spaces.
_HEADINGS = {
    "n": "N",
    "vms": "VMs",
    "p": "p",
    "p95_vm": "p95 per VM (s)",
    "median_vm": "median per VM (s)",
    "ci_low": "95 % from",
    "ci_high": "95 % to",
    "p_holm": "p (Holm)",
    "n_reference": "N of reference",
    "effect": "Cliff's delta",
    "boot_median": "boot, median (s)",
    "boot_p95": "boot, p95 (s)",
    "mb_per_s": "MB/s",
}
#: Columns of g5kvirt's own tables that are times; in a user's table they may be anything.
_TIMES = ("median", "mean", "min", "max", "p95", "difference", "total", "launch")
_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "…": r"\ldots{}",
} | {one: f"\\{one}" for one in "&%$#_{}"}
_SPECIAL = re.compile("|".join(map(re.escape, _TEX)))


class PaperTable(pd.DataFrame):
    """A DataFrame whose `to_latex` makes a table for a paper; so does that of a selection from it."""

    _metadata: ClassVar[list[str]] = ["times"]  # kept by pandas in a selection
    times: bool = False  #: whether ``median``, ``total`` and the like are seconds

    @classmethod
    def of_times(cls, *args: Any, **keywords: Any) -> PaperTable:
        """A table of g5kvirt, where such columns are seconds; arguments as for a DataFrame."""
        table = cls(*args, **keywords)
        table.times = True
        return table

    @property
    def _constructor(self) -> Callable[..., pd.DataFrame]:
        return PaperTable

    def to_latex(  # type: ignore[override]  # fewer arguments than pandas: those of a paper
        self,
        path: str | Path | None = None,
        *,
        columns: Sequence[str] | None = None,
        headings: Mapping[str, str] | None = None,
        digits: int = 3,
        caption: str = "",
        label: str = "",
    ) -> str:
        r"""The table as LaTeX, for ``\\usepackage{booktabs}``; with ``path`` it is also written to that file.

        Numbers have ``digits`` significant digits and are right-aligned, a missing one is a dash; p below
        0.001 is shown as such. ``columns``: the columns to include, in this order; by default all.
        ``headings``: column → heading, such as ``{"median": "median (Mbit/s)"}``: units of your own columns
        are not known. With a ``caption`` or a ``label`` it is a ``table``, otherwise only the ``tabular``.
        Raises KeyError for an unknown column, SpecError for another wrong argument.
        """
        digits = whole("digits", digits, 1, 17)
        text_of("label", label, r"[^\s\\{}%#~^$&]*", r"a word without any of \\ { } % # ~ ^ $ &")
        if not isinstance(headings or {}, Mapping):
            wrong("headings", "a mapping of columns to headings such as {'vms': 'VMs'}", headings)
        table: pd.DataFrame = self if columns is None else self[list(columns)]
        kinds = ["r" if pd.api.types.is_numeric_dtype(kind) else "l" for kind in table.dtypes]
        named = {**_HEADINGS, **(headings or {})}
        head = [_escaped(str(named.get(str(name), _heading(str(name), self.times)))) for name in table]
        body = []
        for row in table.itertuples(index=False):
            cells = zip(table.columns, row, strict=True)
            body.append(
                [_cell(value, digits, str(name).startswith("p_") or name == "p") for name, value in cells]
            )
        lines = [f"\\begin{{tabular}}{{{''.join(kinds)}}}", "\\toprule", _line(head), "\\midrule"]
        lines += [*map(_line, body), "\\bottomrule", "\\end{tabular}"]
        if caption or label:
            about = [f"\\caption{{{_escaped(caption)}}}"] if caption else []
            about += [f"\\label{{{label}}}"] if label else []
            lines = ["\\begin{table}", "\\centering", *about, *lines, "\\end{table}"]
        text = "\n".join(lines) + "\n"
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(text, encoding="utf-8")
        return text


def _heading(name: str, times: bool) -> str:
    words = name.replace("_", " ")
    return f"{words} (s)" if name == "seconds" or (times and name in _TIMES) else words


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda found: _TEX[found[0]], printable(text))


def _cell(value: Any, digits: int, is_p: bool) -> str:
    if value is None:
        return ""
    if value is pd.NA or value is pd.NaT or value != value:
        return "--"
    if isinstance(value, bool) or not isinstance(value, Real):
        return _escaped(str(value).replace("\n", " "))
    if is_p and value < 0.001:
        return "$<$0.001"
    minus = "$-$" if value < 0 else ""
    if isinstance(value, Integral):
        return minus + f"{abs(int(value)):,}".replace(",", r"\,")
    number = abs(float(value))
    if math.isinf(number):
        return rf"{minus}$\infty$"
    return minus + _number(number, digits) if number else "0"


def _number(value: float, digits: int) -> str:
    """A positive number with so many significant digits, none of them an exponent."""
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])  # after rounding: 9.996 is 10.0
    return f"{value:,.{max(0, digits - 1 - exponent)}f}".replace(",", r"\,")
