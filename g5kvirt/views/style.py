"""The style of figures in print: one style, two widths, the same bytes from the same data.

Only fonts that come with matplotlib are used, in preference to system fonts of the same name: a figure is the
same on every machine with the same matplotlib.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

__all__ = [
    "MOST_SERIES",
    "ONE_COLUMN",
    "PREDICTED",
    "SERIES",
    "STYLE",
    "TWO_COLUMNS",
    "is_predicted",
    "series_style",
    "width",
]

ONE_COLUMN = 3.3  #: inches: a column of a two-column paper (the narrowest common format)
TWO_COLUMNS = 7.0  #: inches: the full width

#: Lines of different series: colour (Okabe and Ito), dashes, marker. Each of the three distinguishes them, so
#: that they are also distinguishable in black and white.
SERIES = (
    ("#0072b2", "-", "o"),
    ("#e69f00", "--", "s"),
    ("#009e73", "-.", "^"),
    ("#cc79a7", (0, (2.5, 1)), "D"),
    ("#56b4e9", (0, (5, 1, 1, 1, 1, 1)), "v"),
    ("#000000", (0, (6, 2)), "P"),
)

MOST_SERIES = len(SERIES) ** 2  #: lines of one figure that can be told apart

#: The dashes of every predicted line, which no other line has.
PREDICTED = ":"

#: matplotlib's rcParams.
STYLE: dict[str, Any] = {
    "font.family": "STIXGeneral",  # the shapes of Times
    "mathtext.fontset": "stix",
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.2,
    "legend.labelspacing": 0.3,
    "legend.borderaxespad": 0.2,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.4,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "hatch.linewidth": 0.5,
    "pdf.fonttype": 42,  # TrueType, as journals require
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "path.simplify": False,
    "svg.hashsalt": "g5kvirt",
}


def width(columns: int) -> float:
    """Inches of a figure that spans one or two ``columns``; raises ValueError for any other number."""
    if columns not in (1, 2):
        raise ValueError(f"a figure spans 1 or 2 columns, not {columns!r}")
    return ONE_COLUMN if columns == 1 else TWO_COLUMNS


def series_style(number: int, *, predicted: bool = False) -> dict[str, Any]:
    """The style of the ``number``-th line of a figure, from 0: ``color``, ``linestyle``, ``marker``.

    No two of the first `MOST_SERIES` are the same: a colour comes again with other dashes and another mark.
    Lines of predictions are dotted, and no others are.
    """
    colour = SERIES[number % len(SERIES)][0]
    _, dashes, marker = SERIES[(number + number // len(SERIES)) % len(SERIES)]
    style = {"color": colour, "linestyle": dashes, "marker": marker}
    return style | ({"linestyle": PREDICTED} if predicted else {})


def is_predicted(table: pd.DataFrame) -> bool:
    """Whether rows of a table are predictions, which it says in a column ``prediction``."""
    return "prediction" in table and bool(table["prediction"].eq(True).any())
