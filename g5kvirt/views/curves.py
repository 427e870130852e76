"""Curves: time against a number, with a line through the medians; and cumulative distributions over VMs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.transforms import offset_copy

from g5kvirt.simulation.calibration import Calibration
from g5kvirt.spec.fields import wrong
from g5kvirt.views.drawing import legend, narrow
from g5kvirt.views.repetitions import comparable, number_words, summarized
from g5kvirt.views.statistics import Statistic
from g5kvirt.views.style import PREDICTED, is_predicted, series_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "draw_scalability",
    "draw_shares",
    "legend_columns",
    "points",
    "prediction_note",
    "sizes_axis",
    "with_lines",
]

_TICKS = 8  #: up to this many sizes each has its tick
_WIDE = 30  #: sizes that differ by more than this factor are on a logarithmic axis
_ASIDE = 4  #: points between two series
_INTERVAL: dict[str, Any] = {"linewidth": 0.9, "markersize": 4, "markeredgewidth": 0.9, "zorder": 3.5}
#: A median that no line leads through.
_LEVEL: dict[str, Any] = {"linestyle": "", "marker": "_", "markersize": 7, "markeredgewidth": 1.4}
_LINES = {"bound": "--", "prediction": PREDICTED}


def with_lines(rows: pd.DataFrame, lines: Mapping[str, Mapping[int, float]]) -> pd.DataFrame:
    """``rows`` with one column for each of ``lines`` (size → seconds) that is not empty.

    A size that was not measured gets an additional row, with the other columns empty. Raises SpecError for
    a line that is no such mapping.
    """
    for name, line in lines.items():
        if not isinstance(line, Mapping):
            wrong(name, "a mapping of numbers of VMs to seconds, such as exp.predict() or {4: 12.5}", line)
    known = {name: line for name, line in lines.items() if line}
    sizes = {int(size) for line in known.values() for size in line} - {int(size) for size in rows["vms"]}
    more = pd.DataFrame({"vms": sorted(sizes)}, dtype="int64")
    table = pd.concat([rows, more], ignore_index=True) if sizes else rows.copy()
    for name, line in known.items():
        values = {int(size): float(value) for size, value in line.items()}
        table[name] = table["vms"].map(values).astype("float64")
    return table


def prediction_note(prediction: Mapping[int, float] | None) -> str:
    """For the footer: which calibration a predicted line is from; empty for a mapping that does not say."""
    calibration = getattr(prediction, "calibration", None)
    if not isinstance(calibration, Calibration):
        return ""
    return f"dotted: prediction by the calibration {calibration.name}, {calibration.measured_or_assumed}"


def draw_scalability(
    ax: Axes,
    rows: pd.DataFrame,
    bound: Mapping[int, float] | None = None,
    prediction: Mapping[int, float] | None = None,
    bounded_by: str = "bound",
    statistic: Statistic = "median",
) -> None:
    """Total time (``total``) against ``vms``, one line per ``series``; hollow points where VMs failed.

    ``bounded_by`` is the label of ``bound`` in the legend.
    """
    lines = {"bound": bound or {}, "prediction": prediction or {}}
    entries = points(ax, rows, "vms", "total", statistic)
    if (rows["failed"] > 0).any():
        hollow = Line2D([], [], color="black", linestyle="", marker="o", markersize=3.5)
        hollow.set(markerfacecolor="white", label="some VMs failed")
        entries.append(hollow)
    if not comparable(rows).all():
        plus: dict[str, Any] = {
            "linestyle": "",
            "marker": "+",
            "markersize": 5,
            "label": "without first reboot",
        }
        entries.append(Line2D([], [], color="black", **plus))
    for name, line in lines.items():
        if line:
            sizes = sorted(line)
            style: dict[str, Any] = {"color": "black", "linestyle": _LINES[name], "linewidth": 0.9}
            if len(sizes) > 1:
                ax.plot(sizes, [line[size] for size in sizes], **style)
            else:  # a single point makes no line
                ax.plot([0.8 * sizes[0], 1.2 * sizes[0]], [line[sizes[0]]] * 2, **style)
            entries.append(Line2D([], [], label=bounded_by if name == "bound" else name, **style))
    sizes = sorted({int(size) for size in rows["vms"]} | {int(n) for line in lines.values() for n in line})
    longest = max(_highest(ax), *(v for line in lines.values() for v in line.values()), 0.0)
    sizes_axis(ax, sizes)
    ax.set_ylim(0, 1.08 * longest or 1.0)
    ax.set_xlabel("VMs")
    ax.set_ylabel("deployment time (s)")
    ax.grid()
    labels = [str(entry.get_label()) for entry in entries]
    most, room = (3, 58) if narrow(ax) else (5, 125)
    legend(ax, entries, legend_columns(labels, most, room))


def legend_columns(labels: Sequence[str], most: int, room: int) -> int:
    """How many columns of a legend fit into ``room`` characters, at most ``most`` and at least one.

    Each column is as wide as its longest label and a handle; rows are filled one after the other.
    """
    for columns in range(most, 1, -1):
        widths = [max(map(len, labels[column::columns]), default=0) + 6 for column in range(columns)]
        if sum(widths) <= room:
            return columns
    return 1


def points(
    ax: Axes,
    rows: pd.DataFrame,
    x: str,
    y: str,
    statistic: Statistic = "median",
    *,
    connected: bool = True,
) -> list[Line2D]:
    """One point per row, and for each ``series`` a line through the medians (or means) with their 95 %
    intervals; returns the legend's entries, with the number of values.

    ``connected``: False draws a short level in the place of the line, where ``x`` are categories; so is the
    median of several values at a single ``x``. The point is hollow if VMs failed. Deployments that are not
    comparable (see `alike`) are drawn as a plus and not included in the median.
    """
    compared = comparable(rows)
    names = list(dict.fromkeys(rows["series"]))
    whole = summarized(rows, x, y, statistic)
    shown = bool(whole["ci_low"].notna().any())
    entries = []
    for number, name in enumerate(names):
        own = rows[rows["series"] == name]
        style = series_style(number, predicted=is_predicted(own))
        # Beside each other, not on each other: the intervals of several series are at the same sizes.
        aside = (number - (len(names) - 1) / 2) * min(2 * _ASIDE if shown else _ASIDE, 16 / len(names))
        root = ax.get_figure(root=True)
        place = offset_copy(ax.transData, root, x=aside, units="points")
        beside = offset_copy(ax.transData, root, x=aside + (_ASIDE if shown else 0), units="points")
        failed = own.get("failed", pd.Series(0, index=own.index)) > 0
        for (out, lost), group in own.groupby([~compared[own.index], failed]):
            ax.plot(
                group[x],
                group[y],
                "+" if out else style["marker"],
                color=style["color"],
                markersize=5 if out else 3.5,
                markerfacecolor="white" if lost else style["color"],
                zorder=3,
                transform=place,
            )
        centers = whole[whole["series"] == name]
        line: dict[str, Any] = {"color": style["color"], "linestyle": style["linestyle"]}
        level = not connected or (len(centers) == 1 and bool(centers["n"].gt(1).all()))
        if level:
            line |= {**_LEVEL, "zorder": 4}
        ax.plot(centers[x], centers["center"], transform=beside if level else place, **line)
        for at, low, high in centers[[x, "ci_low", "ci_high"]].dropna().itertuples(index=False):
            ax.plot([at, at], [low, high], "_-", color=style["color"], transform=beside, **_INTERVAL)
        single = is_predicted(own) and bool(centers["n"].le(1).all())  # a model has nothing to repeat
        word = name if name and len(names) > 1 else "prediction" if single else statistic
        times = "" if single else number_words(centers["n"])
        style |= {"markersize": 3.5} | ({"linestyle": ""} if level else {})
        if level and word == statistic:  # the points are single values
            style |= _LEVEL
        entries.append(Line2D([], [], label=f"{word} ({times})" if times else word, **style))
    if shown:
        words = f"95 % interval of the {statistic}"
        entries.append(Line2D([], [], color="black", linestyle="", marker="|", label=words, **_INTERVAL))
    return entries


def _highest(ax: Axes) -> float:
    """The largest value that has been drawn; 0 if nothing has."""
    drawn = np.concatenate([np.zeros(1), *(np.asarray(line.get_ydata(), dtype=float) for line in ax.lines)])
    return float(np.nanmax(drawn))


def draw_shares(
    ax: Axes, groups: Sequence[tuple[str, pd.Series]], xlabel: str, predicted: Collection[str] = ()
) -> None:
    """The cumulative distribution over VMs for each (label, seconds); ``predicted``: which are models."""
    entries = []
    for number, (label, took) in enumerate(groups):
        style = series_style(number, predicted=label in predicted)
        values = np.sort(took.to_numpy())
        share = np.arange(1, len(values) + 1) / len(values)
        ax.step(
            np.concatenate(([values[0]], values)),
            np.concatenate(([0.0], share)),
            where="post",
            color=style["color"],
            linestyle=style["linestyle"],
        )
        entries.append(Line2D([], [], color=style["color"], linestyle=style["linestyle"], label=label))
    longest = max(float(took.max()) for _, took in groups)
    ax.set_xlim(0, 1.04 * longest or 1.0)
    ax.set_ylim(0, 1.02)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    ax.set_xlabel(xlabel)
    ax.set_ylabel("VMs")
    ax.grid()
    wide = max(len(label) for label, _ in groups) > 24
    legend(ax, entries, (1 if wide else 2) if narrow(ax) else 3, "median / p95 over the VMs (s)")


def sizes_axis(ax: Axes, sizes: list[int]) -> None:
    """Linear from 0 for sizes of the same magnitude, else logarithmic; a tick for each if there is room."""
    if sizes[-1] / max(sizes[0], 1) > _WIDE:
        ax.set_xscale("log")
        ax.minorticks_off()
    else:
        ax.set_xlim(0, (1.05 if len(sizes) > 1 else 2) * sizes[-1])  # a single one is in the middle
    if len(sizes) <= _TICKS and not _crowded(sizes):
        ax.set_xticks(sizes)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _crowded(sizes: list[int]) -> bool:
    """True if tick labels would touch: two of them closer than a tenth of the axis."""
    linear = sizes[-1] / max(sizes[0], 1) <= _WIDE
    at = np.array(sizes, dtype=float) / sizes[-1] if linear else np.log(sizes) / np.log(sizes[-1] / sizes[0])
    return bool(len(sizes) > 1 and np.diff(at).min() < 0.1)
