"""The figures of `measure`: deployment time per node, breakdown, scalability."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from g5kvirt.errors import RunError
from g5kvirt.measurements import Measurements, column
from g5kvirt.views.drawing import Part, Picture, Sheets, legend, narrow, seconds, ways, ways_height
from g5kvirt.views.measure_tables import breakdown_table, largest, macros_of, ways_table
from g5kvirt.views.palette import COLOURS, FAILED, PLANNED, macro_colour
from g5kvirt.views.tables import rows_of
from g5kvirt.views.words import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["DeploymentFigures"]

_VAIN = "#cc79a7"  #: what a VM did in vain, before it came through
_TICKS = 8  #: up to so many sizes each has its number
_WIDE = 30  #: sizes that differ by more than this factor lie on a logarithmic axis


class DeploymentFigures(Sheets):
    """The figures of the deployments of one run."""

    def deployment(self, columns: int = 1, *, of: str | None = None) -> Picture:
        """The way of every VM through the macro-steps until it was deployed, a line each.

        ``of`` names a deployment of the run; without it the one of the most VMs is shown, of several the
        last.
        """
        known = self._measured()
        name = of or largest(known)
        if name is None or name not in set(known.deployments["deployment"]):
            some = ", ".join(known.deployments["deployment"].iloc[:8])
            raise RunError(f"this run has no deployment {of!r}: it has {some}")
        data = ways_table(known, name)
        macros = macros_of(known, name)
        if data[[*map(column, macros), "gave_up"]].isna().all(axis=None):
            raise RunError(f"no VM of deployment {name} has come through its first macro-step yet")
        about = known.deployments.set_index("deployment").loc[name]
        environment = f" of {about['environment']}" if about["environment"] else ""
        title = f"Deployment {name}{environment} on {count(len(data), 'VM')}"
        return self._draw(
            lambda ax, rows: _deployment(ax, rows, macros), data, data, columns, ways_height(len(data)), title
        )

    def breakdown(self, columns: int = 1, *, vms: int | None = None) -> Picture:
        """How long each macro-step and each of its steps took: the median, and a line up to 95 % of the VMs.

        Over all deployments of ``vms`` VMs; without it, of the largest number that has any deployed.
        """
        known = self._measured()
        finished = known.deployments[known.deployments["deployed"] > 0]
        sizes = sorted({int(asked) for asked in finished["asked"]})
        if not sizes:
            raise RunError("no VM has been deployed yet: there is no breakdown")
        if vms is not None and vms not in sizes:
            raise RunError(f"no deployment of {vms} VMs deployed any: there are {', '.join(map(str, sizes))}")
        asked = sizes[-1] if vms is None else vms
        data = breakdown_table(known, asked)
        times = int((finished["asked"] == asked).sum())
        title = f"Steps of a deployment on {count(asked, 'VM')}, {count(times, 'repetition')}"
        height = 0.06 + 0.13 * len(data)
        return self._draw(_breakdown, data, data, columns, height, title)

    def scalability(self, columns: int = 1, *, bound: Mapping[int, float] | None = None) -> Picture:
        """Time of a whole deployment against its number of VMs: a point each, the median as a line.

        ``bound``, number of VMs → seconds, is drawn as what cannot be beaten; it is a column of the data too.
        """
        data = self._measured().scalability.copy()
        if data.empty:
            raise RunError("no deployment has come to its end yet: there is no scalability curve")
        limits = {int(size): float(value) for size, value in (bound or {}).items()}
        if limits:
            data["bound"] = data["vms"].map(limits).astype("float64")
        title = f"Deployment time against the number of VMs, {count(len(data), 'deployment')}"
        return self._draw(lambda ax, rows: _scalability(ax, rows, limits), data, data, columns, 1.6, title)

    def _measured(self) -> Measurements:
        known = self.frames.measurements
        if known.deployments.empty:
            raise RunError("nothing has been deployed on the VMs yet: call measure() first")
        return known


# ---- drawing -----------------------------------------------------------------------------------------


def _deployment(ax: Axes, vms: pd.DataFrame, macros: list[str]) -> None:
    begun = vms["begun"].fillna(0.0).to_numpy()
    zero = np.zeros(len(vms))
    longest = float(np.nanmax(vms[[*map(column, macros), "gave_up"]].to_numpy()))
    lines, other = [], []
    left = begun if begun.max(initial=0.0) > 0.005 * longest else zero  # else nobody would see it
    if left is begun:
        other.append(Part(zero, begun, COLOURS[PLANNED], "waiting"))
    for number, macro in enumerate(macros):
        right = vms[column(macro)].to_numpy()
        start = np.fmax(left, vms[f"{column(macro)}_begun"].to_numpy())
        late = ~np.isnan(right) & (start - left > 0.002 * longest)
        other.append(Part(left, np.where(late, start, np.nan), _VAIN, "earlier tries"))
        lines.append(Part(np.where(late, start, left), right, macro_colour(number), macro))
        left = np.fmax(left, right)
    parts = [*lines, *other]
    lost = vms["gave_up"].notna().to_numpy()
    until = vms["gave_up"].to_numpy()
    parts.append(Part(left, until, COLOURS[FAILED], f"failed ({int(lost.sum()):,})", alpha=0.35))
    ways(ax, parts, lost, until, "time since the deployment began (s)", "VMs, by their start", per_row=3)


def _breakdown(ax: Axes, rows: pd.DataFrame) -> None:
    span = float(rows["p95"].max()) or 1.0
    labels = []
    number = -1
    for y, row in enumerate(rows_of(rows)):
        whole = row.step == ""
        number += whole
        colour = macro_colour(number)
        height = 0.68 if whole else 0.42
        ax.barh(
            y,
            row.median,
            height,
            color=colour,
            edgecolor=colour,
            linewidth=0.8,
            alpha=1.0 if whole else 0.6,
        )
        if row.p95 > row.median:
            ax.plot([row.median, row.p95], [y, y], color="black", linewidth=0.6, solid_capstyle="butt")
            ax.plot([row.p95], [y], "|", color="black", markersize=4 if whole else 3, markeredgewidth=0.6)
        ax.annotate(
            f"{seconds(row.median)} / {seconds(row.p95)}",
            (max(row.p95, row.median), y),
            xytext=(4, 0),
            textcoords="offset points",
            va="center_baseline",
            fontsize=7 if whole else 6,
        )
        labels.append(row.macro if whole else row.step.replace("-", " "))
    ax.set_yticks(range(len(rows)), labels)
    for tick, step in zip(ax.get_yticklabels(), rows["step"], strict=True):
        tick.set_fontsize(8 if step == "" else 6)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(0, span * (1.36 if narrow(ax) else 1.14))
    ax.set_xlabel("median / 95 % of the VMs (s)")
    ax.grid(axis="x")


def _scalability(ax: Axes, rows: pd.DataFrame, bound: Mapping[int, float]) -> None:
    entries = []
    environments = list(dict.fromkeys(rows["environment"]))
    for number, environment in enumerate(environments):
        own = rows[rows["environment"] == environment]
        colour = macro_colour(number + 1)
        for whole, group in own.groupby(own["failed"] == 0):
            face = colour if whole else "white"
            ax.plot(
                group["vms"],
                group["total"],
                "o",
                color=colour,
                markersize=3.5,
                markerfacecolor=face,
                zorder=3,
            )
        median = own.groupby("vms")["total"].median()
        ax.plot(median.index, median.to_numpy(), color=colour)
        word = environment if environment and len(environments) > 1 else "median"
        entries.append(Line2D([], [], color=colour, marker="o", markersize=3.5, label=word))
    if (rows["failed"] > 0).any():
        hollow = Line2D([], [], color=macro_colour(1), linestyle="", marker="o", markersize=3.5)
        hollow.set(markerfacecolor="white", label="some VMs failed")
        entries.append(hollow)
    if bound:
        sizes = sorted(bound)
        ax.plot(sizes, [bound[size] for size in sizes], "--", color="black", linewidth=0.9)
        entries.append(Line2D([], [], color="black", linestyle="--", linewidth=0.9, label="bound"))
    sizes = sorted({int(size) for size in rows["vms"]})
    longest = max(float(rows["total"].max()), *bound.values()) if bound else float(rows["total"].max())
    if sizes[-1] / max(sizes[0], 1) > _WIDE:
        ax.set_xscale("log")
        ax.minorticks_off()
    else:
        ax.set_xlim(0, 1.05 * max(sizes[-1], *bound) if bound else 1.05 * sizes[-1])
    if len(sizes) <= _TICKS and not _crowded(sizes):
        ax.set_xticks(sizes)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.set_ylim(0, 1.08 * longest or 1.0)
    ax.set_xlabel("VMs")
    ax.set_ylabel("deployment time (s)")
    ax.grid()
    legend(ax, entries, 3 if narrow(ax) else 5)


def _crowded(sizes: list[int]) -> bool:
    """True if numbers below the axis would touch: two of them nearer than a tenth of it."""
    linear = sizes[-1] / max(sizes[0], 1) <= _WIDE
    at = np.array(sizes, dtype=float) / sizes[-1] if linear else np.log(sizes) / np.log(sizes[-1] / sizes[0])
    return bool(len(sizes) > 1 and np.diff(at).min() < 0.1)
