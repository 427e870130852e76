"""The map of a run: its sites, their hosts, and one small cell per VM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from matplotlib.collections import PatchCollection
from matplotlib.patches import Patch, Rectangle

from g5kvirt.run.vocabulary import DEPLOYED, FAILED, PLANNED, WRITING
from g5kvirt.views.drawing import legend, narrow, seconds
from g5kvirt.views.formatting import count
from g5kvirt.views.palette import MACRO_COLOURS, STATE_COLOURS
from g5kvirt.views.style import width

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MAPS", "By", "Map", "draw_map", "lay_out"]

By = Literal["state", "boot", "deployment", "group"]
MAPS = ("state", "boot", "deployment", "group")  #: what the colours of a map can show

_WORDS = {"boot": "boot time per VM (s)", "deployment": "deployment time per VM (s)"}
_STATES = {
    "placed": (STATE_COLOURS[PLANNED], "placed"),
    "booting": (STATE_COLOURS["kernel"], "booting"),
    "up": (STATE_COLOURS["minimal-system"], "minimal system"),
    "unfinished": (STATE_COLOURS[WRITING], "unfinished"),
    "deployed": (STATE_COLOURS[DEPLOYED], "deployed"),
    "failed": (STATE_COLOURS[FAILED], "failed"),
}
#: Colours of groups, in their order; failed VMs have a cross.
_GROUPS = (*MACRO_COLOURS, "#7a6fd0", "#f0e442", "#000000")
#: From short to long, each darker than the previous one (after the map cividis of matplotlib).
_SCALE = ("#fdea45", "#c3b369", "#8a8678", "#525c6d", "#00224e")
_CELL = 0.13  #: inches: no cell is larger
_LEFT = 0.62  #: inches: the names of the sites
_NAMED = 0.58  #: inches: a host with its name below it
_LINES = 3  #: hosts are named if those of a site need at most this many lines
_HEIGHT = 4.2  #: inches: the maximum height of a map, as long as cells can be made smaller


@dataclass(frozen=True)
class Map:
    """Positions in inches from the top left corner of the map."""

    cell: float
    width: float
    height: float
    hosts: tuple[tuple[str, float, float, float, float], ...]  #: name, x, y, width and height of its box
    cells: tuple[tuple[int, float, float], ...]  #: row of the table, x, y
    sites: tuple[tuple[str, float, float], ...]  #: name, y from, y to
    named: bool  #: true if there is room for the hosts' names


def lay_out(table: pd.DataFrame, columns: int) -> Map:
    """Place every host and VM of a table as of `g5kvirt.views.tables.map_table`.

    Sites are below each other, the hosts of a site side by side in as many lines as needed. Cells are as
    large as the maximum height of the map allows.
    """
    wide = width(columns) - 0.12
    known = table.groupby(["site", "host"], sort=False)
    carried = known["name"].apply(lambda names: int((names != "").sum()))
    most = max(int(carried.max()), 1)
    across = math.ceil(math.sqrt(most))
    down = math.ceil(most / across)
    per_site = carried.groupby(level="site", sort=False).size()
    cell = _CELL
    while True:
        named = int(per_site.max()) <= _LINES * int((wide - _LEFT) / max(_NAMED, (across + 0.5) * cell))
        pitch_x = max(across * cell + 0.5 * cell + 0.03, _NAMED if named else 0.0)
        pitch_y = down * cell + 0.5 * cell + 0.03 + (0.11 if named else 0.0)
        per_line = max(1, int((wide - _LEFT) / pitch_x))
        lines = sum(math.ceil(number / per_line) for number in per_site)
        high = lines * pitch_y + 0.09 * len(per_site)
        if high <= _HEIGHT or cell < 0.012:
            break
        cell *= 0.92
    hosts, cells, sites = [], [], []
    top = 0.0
    rows = known.indices
    for site in per_site.index:
        names = [host for of, host in carried.index if of == site]
        for number, host in enumerate(names):
            x = _LEFT + number % per_line * pitch_x
            y = top + number // per_line * pitch_y
            hosts.append((str(host), x, y, across * cell, down * cell))
            own = [row for row in rows[(site, host)] if table["name"].iloc[row] != ""]
            cells += [(int(row), x + i % across * cell, y + i // across * cell) for i, row in enumerate(own)]
        high = math.ceil(len(names) / per_line) * pitch_y
        sites.append((str(site), top, top + high))
        top += high + 0.09
    return Map(cell, wide, top - 0.09, tuple(hosts), tuple(cells), tuple(sites), named)


def draw_map(ax: Axes, table: pd.DataFrame, plan: Map, by: By) -> None:
    """Draw ``plan`` of ``table``; the colour of a cell shows the VM's state, its time or its group."""
    named = {"state": _by_state, "group": _by_group}
    face, lost, entries, title = named[by](table) if by in named else _by_time(table, by)
    gap = 0.08 * plan.cell
    boxes = [Rectangle((x - gap, y - gap), w + 2 * gap, h + 2 * gap) for _, x, y, w, h in plan.hosts]
    ax.add_collection(
        PatchCollection(boxes, facecolor="#f4f4f4", edgecolor="#777777", linewidth=0.3, zorder=1)
    )
    size = plan.cell - 2 * gap
    squares = [Rectangle((x + gap, y + gap), size, size) for _, x, y in plan.cells]
    colours = [face[row] for row, _, _ in plan.cells]
    ax.add_collection(PatchCollection(squares, facecolor=colours, linewidth=0, zorder=2))
    crosses = [(x, y) for row, x, y in plan.cells if lost[row]]
    if crosses:
        half = plan.cell / 2
        xs, ys = np.array(crosses).T + half
        ax.plot(
            xs, ys, "x", color="black", markersize=max(1.0, 34 * plan.cell), markeredgewidth=0.5, zorder=3
        )
    for site, first, last in plan.sites:
        own = table[table["site"] == site]
        hosts, vms = own["host"].nunique(), int((own["name"] != "").sum())
        ax.text(0, first, f"{site or 'no site'}", fontsize=8, va="top")
        words = [count(hosts, "host"), count(vms, "VM")][: int((last - first - 0.1) / 0.1)]
        if words:
            ax.text(
                0, first + 0.13, "\n".join(words), fontsize=6, va="top", color="#444444", linespacing=1.15
            )
    if plan.named:
        for name, x, y, wide, high in plan.hosts:
            short = name.partition(".")[0]
            ax.text(
                x + wide / 2 if wide > 0.4 else x,
                y + high + 0.025,
                short,
                fontsize=5.5,
                va="top",
                ha="center" if wide > 0.4 else "left",
                color="#444444",
            )
    ax.set_xlim(0, plan.width)
    ax.set_ylim(plan.height, -0.03)
    ax.set_axis_off()
    legend(ax, entries, (3 if narrow(ax) else 6), title)


#: A colour per row, whether the row has a cross, the entries of the legend and its title.
_Coloured = tuple[list[Any], Any, Sequence[Patch], str | None]


def _by_state(table: pd.DataFrame) -> _Coloured:
    there = [state for state in _STATES if (table["state"] == state).any()]
    counts = table["state"].value_counts()
    entries = [
        Patch(color=_STATES[state][0], label=f"{_STATES[state][1]} ({counts[state]:,})") for state in there
    ]
    face = [_STATES.get(state, _STATES["placed"])[0] for state in table["state"]]
    return face, (table["state"] == "failed").to_numpy(), entries, None


def _by_group(table: pd.DataFrame) -> _Coloured:
    """A colour for each group, in the order of their names; a cross for VMs that failed."""
    groups = sorted(str(group) for group in table["group"].unique() if group)
    colours = {group: _GROUPS[number % len(_GROUPS)] for number, group in enumerate(groups)}
    counts = table["group"].value_counts()
    entries = [Patch(color=colours[group], label=f"{group} ({counts[group]:,})") for group in groups]
    face = [colours.get(group, STATE_COLOURS[PLANNED]) for group in table["group"]]
    return face, (table["state"] == "failed").to_numpy(), entries, "groups"


def _by_time(table: pd.DataFrame, by: str) -> _Coloured:
    """Five classes with equal numbers of VMs, so that a few slow VMs do not make all others look the same."""
    values = table[by].to_numpy(dtype=float)
    failed = (table["state"] == "failed").to_numpy()
    if by == "boot":
        failed = failed & np.isnan(values)  # else it failed later
    edges = np.nanquantile(values, [0.2, 0.4, 0.6, 0.8, 1.0], method="higher")
    edges = np.unique(edges)
    scale = [_SCALE[round(i * (len(_SCALE) - 1) / max(1, len(edges) - 1))] for i in range(len(edges))]
    face = []
    for value, lost in zip(values, failed, strict=True):
        if lost:
            face.append(STATE_COLOURS[FAILED])
        elif math.isnan(value):
            face.append(STATE_COLOURS[PLANNED])
        else:
            face.append(scale[min(int(np.searchsorted(edges, value)), len(edges) - 1)])
    entries = [
        Patch(color=c, label=f"≤ {seconds(float(edge))}") for c, edge in zip(scale, edges, strict=True)
    ]
    if failed.any():
        entries.append(Patch(color=STATE_COLOURS[FAILED], label=f"failed ({int(failed.sum()):,})"))
    if (np.isnan(values) & ~failed & (table["name"] != "").to_numpy()).any():
        entries.append(Patch(color=STATE_COLOURS[PLANNED], label="none"))
    return face, failed, entries, _WORDS[by]
