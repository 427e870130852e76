"""The drawings of comparisons: bars for each series side by side, and times over a parameter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from g5kvirt.views.curves import points
from g5kvirt.views.drawing import legend, narrow, seconds
from g5kvirt.views.palette import LABELS
from g5kvirt.views.repetitions import number_words
from g5kvirt.views.style import series_style
from g5kvirt.views.tables import iter_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["bar_pitch", "draw_grouped", "draw_over"]

#: Key of the spec → the label of its axis; the label of other keys is the key.
_PARAMETERS = {
    "vms": "VMs",
    "windows.boot": "VMs that boot at once (windows.boot)",
    "windows.sleep": "pause between windows (s)",
    "vm.memory": "memory of a VM (MiB)",
    "services": "service machines",
}


def draw_grouped(ax: Axes, rows: pd.DataFrame) -> None:
    """For each step one bar per series, below each other."""
    names = list(dict.fromkeys(rows["series"]))
    style: dict[str, dict[str, Any]] = {name: series_style(number) for number, name in enumerate(names)}
    hatches = ("", "////", "....", "\\\\\\\\", "xxxx", "----")
    hatch = {name: hatches[number % len(hatches)] for number, name in enumerate(names)}
    pitch = bar_pitch(rows)
    y, ticks, labels = 0.0, [], []
    for step, group in rows.groupby("step", sort=False):
        ticks.append(y + pitch / 2 * (len(group) - 1))
        labels.append(LABELS.get(str(step), str(step)))
        for row in iter_rows(group):
            colour = style[row.series]["color"]
            ax.barh(
                y,
                row.median,
                0.85 * pitch,
                color=colour,
                hatch=hatch[row.series],
                edgecolor="white",
                linewidth=0,
            )
            if row.p95 > row.median:
                ax.plot([row.median, row.p95], [y, y], color="black", linewidth=0.6, solid_capstyle="butt")
            ax.annotate(
                f"{seconds(row.median)} / {seconds(row.p95)}",
                (max(row.p95, row.median), y),
                xytext=(3, 0),
                textcoords="offset points",
                va="center_baseline",
                fontsize=5.5,
            )
            y += pitch
        y += 0.09
    ax.set_yticks(ticks, labels)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(y - 0.09 - 0.02, -0.08)
    ax.set_xlim(0, 1.3 * float(rows[["median", "p95"]].to_numpy().max()) or 1.0)
    ax.set_xlabel("time per VM in the step (s): median / p95")
    ax.grid(axis="x")
    entries = [
        Patch(
            facecolor=style[name]["color"],
            hatch=hatch[name],
            edgecolor="white",
            linewidth=0,
            label=name,
        )
        for name in names
    ]
    wide = max(map(len, names)) > 16
    legend(
        ax, entries, (2 if wide else 3) if narrow(ax) else 5, f"{number_words(rows['vms'])} VMs in each step"
    )


def bar_pitch(rows: pd.DataFrame) -> float:
    """Inches from one bar of `draw_grouped` to the next."""
    return 0.1 if rows["series"].nunique() <= 4 else 0.085


def draw_over(ax: Axes, rows: pd.DataFrame, parameter: str, what: str) -> None:
    chosen, given = rows[rows[parameter].isna()], rows[rows[parameter].notna()]
    entries = points(ax, given, parameter, "seconds") if len(given) else []
    if len(chosen):
        took = float(chosen["seconds"].median())
        ax.axhline(took, color="black", linestyle="--", linewidth=0.9, zorder=1)
        entries.append(Line2D([], [], color="black", linestyle="--", linewidth=0.9, label="automatic"))
    values = sorted(set(given[parameter]))
    ax.set_xlim(0, 1.08 * values[-1] if values and values[-1] > 0 else 1.0)
    if 0 < len(values) <= 8:
        ax.set_xticks(values)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_ylim(0, 1.1 * float(rows["seconds"].max()) or 1.0)
    ax.set_xlabel(_PARAMETERS.get(parameter, parameter))
    ax.set_ylabel(f"time of the {what} (s)")
    ax.grid()
    legend(ax, entries, 3)
