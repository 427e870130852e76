"""Distributions of times: a box per step over the VMs, and the VMs of a deployment by host."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from g5kvirt.run.vocabulary import FAILED
from g5kvirt.views.drawing import legend, narrow, seconds
from g5kvirt.views.palette import COLOURS, LABELS, macro_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_nodes", "draw_steps", "steps_height"]

_EACH = 48  #: up to this many VMs each is a point
_SHORTEST = 0.01  #: seconds: shorter times are drawn here, on the logarithmic axis
_LAUNCH = "#999999"
_HOSTS = 40  #: up to this many hosts every second one is shaded


def steps_height(steps: int) -> float:
    """The height in inches of `draw_steps` for this number of ``steps``."""
    return 0.1 + 0.145 * steps


def draw_steps(ax: Axes, rows: pd.DataFrame) -> None:
    """One line per step: a box from 25 % to 75 %, whiskers from 5 % to 95 %, the median, and each VM if few.

    ``rows`` as of `g5kvirt.views.tables.steps_table`.
    """
    groups = [(str(m), str(s), group) for (m, s), group in rows.groupby(["macro", "step"], sort=False)]
    colours = {"launch": _LAUNCH}
    for macro in dict.fromkeys(rows["macro"]):
        colours.setdefault(macro, macro_colour(len(colours) - 1))
    labels = []
    for y, (macro, step, group) in enumerate(groups):
        _draw_step(ax, y, group["seconds"], colours[macro])
        labels.append(LABELS.get(step, step) if macro == "launch" else step.replace("-", " "))
    ax.set_yticks(range(len(groups)), labels)
    for tick in ax.get_yticklabels():
        tick.set_fontsize(6.5)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(groups) - 0.4, -0.6)
    ax.set_xscale("log")
    longest = max(float(rows["seconds"].max()), 10 * _SHORTEST)
    ax.set_xlim(max(_SHORTEST, 0.8 * float(rows["seconds"].min())), 1.15 * longest)
    ax.minorticks_off()
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_xlabel("time per VM in the step (s); right: median / p95")
    ax.grid(axis="x")
    legend(ax, [Patch(color=c, label=m) for m, c in colours.items() if m in set(rows["macro"])], 4)


def _draw_step(ax: Axes, y: int, took: pd.Series, colour: str) -> None:
    """One line of `draw_steps`."""
    values = np.sort(took.to_numpy())
    quantiles = np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95))
    low, first, median, third, high = quantiles.clip(min=_SHORTEST)
    ax.plot([low, high], [y, y], color="black", linewidth=0.6, zorder=2)
    ax.barh(
        y,
        third - first,
        0.62,
        first,
        color=colour,
        edgecolor="black",
        linewidth=0.4,
        zorder=3,
    )
    ax.plot([median, median], [y - 0.31, y + 0.31], color="black", linewidth=1.4, zorder=4)
    if len(values) <= _EACH:
        # Spread over the height of the line, deterministically, so that equal times do not overlap.
        at = y + 0.24 * (np.arange(len(values)) % 3 - 1)
        ax.plot(
            values.clip(min=_SHORTEST),
            at,
            ".",
            color="black",
            markersize=2.0,
            markeredgewidth=0,
            alpha=0.65,
            zorder=5,
        )
    ax.annotate(
        f"{seconds(quantiles[2])} / {seconds(quantiles[4])}",
        (1, y),
        xycoords=("axes fraction", "data"),
        xytext=(3, 0),
        textcoords="offset points",
        va="center_baseline",
        fontsize=6,
        annotation_clip=False,
    )


def draw_nodes(ax: Axes, rows: pd.DataFrame) -> None:
    """One point per VM, by site and host; a line for the median over all, crosses for failed VMs.

    ``rows`` as of `g5kvirt.views.measure_tables.nodes_table`.
    """
    at = np.arange(1, len(rows) + 1)
    took = rows["seconds"].to_numpy()
    deployed = (rows["outcome"] == "deployed").to_numpy()
    failed = (rows["outcome"] == "failed").to_numpy()
    size = 4.5 if len(rows) <= 64 else 3.0 if len(rows) <= 600 else 1.2
    hosts = _runs(rows["host"])
    if len(hosts) <= _HOSTS:
        for first, last in hosts[1::2]:
            ax.axvspan(first + 0.5, last + 0.5, color="#f1f1f1", linewidth=0, zorder=0)
    colour = COLOURS["initrd"]
    ax.plot(at[deployed], took[deployed], ".", color=colour, markersize=size, markeredgewidth=0, zorder=3)
    entries: list[Line2D | Patch]
    entries = [Line2D([], [], color=colour, marker=".", markersize=5, linestyle="", label="deployed")]
    if deployed.any():
        median = float(np.median(took[deployed]))
        ax.axhline(median, color="black", linewidth=0.8, linestyle="--", zorder=2)
        words = f"median {seconds(median)} s"
        entries.append(Line2D([], [], color="black", linewidth=0.8, linestyle="--", label=words))
    if failed.any():
        red = COLOURS[FAILED]
        ax.plot(at[failed], took[failed], "x", color=red, markersize=3.5, zorder=4)
        words = f"failed ({int(failed.sum()):,})"
        entries.append(Line2D([], [], color=red, marker="x", markersize=3.5, linestyle="", label=words))
    if len(hosts) <= _HOSTS and len(hosts) > 1:
        entries.append(Patch(color="#e6e6e6", label="every second host"))
    ax.set_xlim(0.5, len(rows) + 0.5)
    ax.set_ylim(0, 1.06 * float(np.nanmax(took)) or 1.0)
    _place_ticks(ax, rows)
    ax.set_xlabel("VMs, by site and host")
    ax.set_ylabel("time until deployed (s)")
    ax.grid(axis="y")
    legend(ax, entries, 2 if narrow(ax) and len(entries) > 3 else 4)


def _runs(values: pd.Series) -> list[tuple[int, int]]:
    """(first, one past the last) of each run of equal values."""
    known = values.to_list()
    edges = [0, *(i for i in range(1, len(known)) if known[i] != known[i - 1]), len(known)]
    return list(pairwise(edges))


def _place_ticks(ax: Axes, rows: pd.DataFrame) -> None:
    """The names of host and site below their VMs; where there is no room only those of sites, rotated if
    there is none either."""
    sites = rows["site"]
    for _, last in _runs(sites)[:-1]:
        ax.axvline(last + 0.5, color="#888888", linewidth=0.5, zorder=1)
    inch = (2.6 if narrow(ax) else 6.2) / len(sites)  # of a VM
    hosts = _runs(rows["host"])
    names = [str(rows["host"].iloc[first]).partition(".")[0] for first, _ in hosts]
    if all(names) and not _tight(hosts, names, inch, 0.024):
        words = [f"{name}\n{sites.iloc[first]}" for name, (first, _) in zip(names, hosts, strict=True)]
        ax.set_xticks(_middles(hosts), words, fontsize=6)
        ax.tick_params(axis="x", length=0)
        return
    runs = _runs(sites)
    names = [str(sites.iloc[first]) for first, _ in runs]
    ax.set_xticks(_middles(runs), names)
    if _tight(runs, names, inch, 0.032):
        for tick in ax.get_xticklabels():
            tick.set(rotation=60, ha="right", rotation_mode="anchor")
    ax.tick_params(axis="x", length=0)


def _middles(runs: Sequence[tuple[int, int]]) -> list[float]:
    return [(first + last + 1) / 2 for first, last in runs]


def _tight(runs: Sequence[tuple[int, int]], names: Sequence[str], inch: float, letter: float) -> bool:
    """Whether names below these runs would touch; ``inch`` of a VM, ``letter``: half of one, in inches."""
    middles = _middles(runs)
    return any(
        (right - left) * inch < letter * (len(a) + len(b)) + 0.08
        for left, right, a, b in zip(middles, middles[1:], names, names[1:], strict=False)
    )
