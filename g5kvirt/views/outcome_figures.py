"""Figures of how many VMs failed, of how fast the image was sent, and of a user's own tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from g5kvirt.errors import RunError
from g5kvirt.views.curves import points, sizes_axis
from g5kvirt.views.drawing import Picture, legend, narrow
from g5kvirt.views.formatting import count
from g5kvirt.views.measure_figures import DeploymentFigures
from g5kvirt.views.outcome_tables import broadcast_table, failure_rates, outcomes_table
from g5kvirt.views.own_figures import as_drawn, draw_own, named_columns, own_table
from g5kvirt.views.repetitions import with_summaries
from g5kvirt.views.statistics import Statistic
from g5kvirt.views.style import series_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["OutcomeFigures", "draw_failures"]

_WIDE = 12  #: throughputs that differ by more than this factor are on a logarithmic axis


class OutcomeFigures(DeploymentFigures):
    """The figures of failures and of the broadcast, and figures of user-defined tables."""

    def failures(self, columns: int = 1) -> Picture:
        """The failure rate of VMs against the number of VMs, with its 95 % interval (Wilson).

        Includes all deployments of each size; those with different settings have separate lines.
        """
        self._measured()
        outcomes = outcomes_table(self.frames)
        if outcomes.empty:
            raise RunError("no deployment has finished yet: there is no failure rate")
        data = failure_rates(outcomes)
        title = f"Failed VMs against the number of VMs, {count(len(outcomes), 'deployment')}"
        return self._draw(draw_failures, data, data, columns, 1.4, title)

    def broadcast(self, columns: int = 1, *, statistic: Statistic = "median") -> Picture:
        """The throughput of the broadcast against the number of hosts: the image size divided by the time
        until the last host had it.

        One point per deployment, with medians (or means) and their 95 % intervals; a dashed line shows the
        maximum at the link rates of the inventory. Runs of earlier versions do not record the image size.
        """
        self._measured()
        shown = broadcast_table(self.frames)
        if shown.empty:
            raise RunError(
                "the journal has no broadcast with the size of its image",
                advice="deploy once more by measure()",
            )
        data = with_summaries(shown, "hosts", "mb_per_s", statistic)
        title = f"Throughput of the broadcast, {count(len(shown), 'deployment')}"
        return self._draw(
            lambda ax, rows: _draw_broadcast(ax, rows, statistic), shown, data, columns, 1.6, title
        )

    def of(
        self,
        frame: pd.DataFrame,
        *,
        x: str,
        y: str,
        series: str | None = None,
        statistic: Statistic = "median",
        columns: int = 1,
        xlabel: str = "",
        ylabel: str = "",
        title: str = "",
    ) -> Picture:
        """A figure of your own table in the same style: each row is a point at its ``x`` and ``y``.

        ``y`` is a numeric column. If ``x`` is numeric, there is a line through the medians (or means) with
        their 95 % bootstrap intervals; otherwise its values are categories. ``series``: the column whose
        values are distinguished by colour. Rows with missing or infinite values are left out. ``xlabel`` and
        ``ylabel`` default to the columns' names. The data has your columns, and ``n``, the statistic,
        ``ci_low`` and ``ci_high``; if you have a column ``n``, ours is ``n (2)``. Raises SpecError if a
        column is missing or has the wrong type.
        """
        shown = own_table(frame, x, y, series)
        named = named_columns(with_summaries(shown, "_x", "_y", statistic), x, y, series)
        name = as_drawn(title or f"{y} against {x}")
        return self._draw(
            lambda ax, rows: draw_own(ax, rows, as_drawn(xlabel or x), as_drawn(ylabel or y), statistic),
            shown,
            named,
            columns,
            1.6,
            name,
            title,
        )


def draw_failures(ax: Axes, rows: pd.DataFrame) -> None:
    """One line per series; ``rows`` as of `g5kvirt.views.outcome_tables.failure_rates`."""
    names = list(dict.fromkeys(rows["series"]))
    entries = []
    for number, name in enumerate(names):
        own = rows[rows["series"] == name]
        style = series_style(number, predicted="prediction" in own)
        wide = [(own["rate"] - own["ci_low"]) * 100, (own["ci_high"] - own["rate"]) * 100]
        bar: dict[str, Any] = {"elinewidth": 0.8, "capsize": 2, "capthick": 0.8, "markersize": 3.5}
        ax.errorbar(own["vms"], own["rate"] * 100, yerr=wide, **style, **bar)
        tries = own["requested"]
        number_of = f"N = {tries.min():,}" + (f"–{tries.max():,}" if tries.min() != tries.max() else "")
        label = f"{name or 'failed'} ({number_of} VMs)"
        entries.append(Line2D([], [], label=label, markersize=3.5, **style))
    interval = Line2D([], [], color="black", linestyle="", marker="|", markersize=5, label="95 % interval")
    sizes_axis(ax, sorted({int(size) for size in rows["vms"]}))
    highest = float(rows["ci_high"].max()) * 100
    ax.set_ylim(0, min(100.0, 1.08 * highest) or 1.0)
    ax.set_xlabel("VMs")
    ax.set_ylabel("failed (%)")
    ax.grid()
    legend(ax, [*entries, interval], 2 if narrow(ax) else 4)


def _draw_broadcast(ax: Axes, rows: pd.DataFrame, statistic: Statistic) -> None:
    entries = points(ax, rows, "hosts", "mb_per_s", statistic)
    bounds = rows.dropna(subset=["bound_mb_per_s"])
    for hosts, bound in set(bounds[["hosts", "bound_mb_per_s"]].itertuples(index=False, name=None)):
        # A level at each number of hosts: also where there is only one.
        ax.plot([0.93 * hosts, 1.07 * hosts], [bound] * 2, color="black", linewidth=0.9, linestyle="--")
    if len(bounds):
        entries.append(Line2D([], [], color="black", linestyle="--", linewidth=0.9, label="link rate"))
    sizes_axis(ax, sorted({int(size) for size in rows["hosts"]}))
    shown = rows[["mb_per_s", "bound_mb_per_s"]].to_numpy(dtype=float)
    shortest, highest = float(np.nanmin(shown)), float(np.nanmax(shown))
    if highest > _WIDE * shortest:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.minorticks_off()
        ax.set_ylim(0.7 * shortest, 1.4 * highest)
    else:
        ax.set_ylim(0, 1.08 * highest)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_xlabel("hosts")
    ax.set_ylabel("image to a host (MB/s)")
    ax.grid()
    legend(ax, entries, 2 if narrow(ax) else 4)
