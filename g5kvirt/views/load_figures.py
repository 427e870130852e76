"""Figures of how busy processors and links were while VMs were launched and deployed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from g5kvirt.errors import RunError
from g5kvirt.run.tables import Frames
from g5kvirt.views.drawing import Picture, RunDrawer, legend, narrow
from g5kvirt.views.formatting import count
from g5kvirt.views.palette import COLOURS
from g5kvirt.views.tables import iter_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["LoadFigures", "link_table", "processors_table"]

_PARTS = {
    "vms": ("VMs", COLOURS["kernel"]),
    "services": ("services", COLOURS["minimal-system"]),
    "own": ("g5kvirt", COLOURS["script"]),
    "other": ("other programs", "#999999"),
}
_LINES = {
    "sent_by_services": ("service machines, sent, sum", "#000000", "-"),
    "received_median": ("host, received, median", "#0072b2", "-"),
    "received_max": ("host, received, most", "#0072b2", ":"),
    "sent_max": ("host, sent, most", "#e69f00", "--"),
}


class LoadFigures(RunDrawer):
    """The figures of the load."""

    def load(self, columns: int = 1, *, of: Literal["processors", "links"] = "processors") -> Picture:
        """The load of the machines over time.

        ``of="processors"``: the share of all cores used by VMs, services, g5kvirt and other programs;
        ``of="links"``: bytes per second on the links of hosts and service machines. Raises ValueError for
        another ``of``.
        """
        if of not in ("processors", "links"):
            raise ValueError(f"of must be 'processors' or 'links', not {of!r}")
        known = self.frames.load
        if known.empty:
            raise RunError("the load of the machines is not known", advice="call launch() or measure() first")
        data = processors_table(self.frames) if of == "processors" else link_table(self.frames)
        title = f"Load of the {of} of {count(known['host'].nunique(), 'machine')}"
        return self._draw(
            _draw_processors if of == "processors" else _draw_links, data, data, columns, 1.4, title
        )


def processors_table(frames: Frames) -> pd.DataFrame:
    """One row per look: ``phase``, ``start`` and ``end`` in seconds since the first look, and which share of
    all cores was used by ``vms``, ``services``, g5kvirt on the same machines (``own``) and ``other``
    programs; ``busiest``: the busy share of the busiest machine.

    Where all hosts share a machine, as on a local testbed, its cores count once.
    """
    load = frames.load
    rows = []
    for (look, phase), own in load.groupby(["look", "phase"], sort=False):
        machines = own.drop_duplicates("machine")
        cores = float(machines["cores"].sum())
        busy = own.groupby("machine")["busy"].mean()
        parts = [own["vms"].sum(), own["services"].sum(), 0.0, machines["other"].sum()]
        parts[2] = max(0.0, float(busy.sum()) - sum(parts))
        worst = float((own["busy"] / own["cores"]).max())
        rows.append(
            [look, phase, own["start"].min(), own["end"].max(), *(part / cores for part in parts), worst]
        )
    table = pd.DataFrame(rows, columns=["look", "phase", "start", "end", *_PARTS, "busiest"])
    return _since_first(table)


def link_table(frames: Frames) -> pd.DataFrame:
    """One row per look: ``phase``, ``start`` and ``end`` as in `processors_table`, and 10⁶ bytes per second:
    median and maximum over the hosts, and the sum of what service machines sent."""
    load, serving = frames.load, set(frames.state.service_machines)
    rows = []
    for (look, phase), own in load.groupby(["look", "phase"], sort=False):
        hosts, services = own[~own["host"].isin(serving)], own[own["host"].isin(serving)]
        numbers = [
            services["sent"].sum(),
            hosts["received"].median(),
            hosts["received"].max(),
            hosts["sent"].max(),
        ]
        times = [own["start"].min(), own["end"].max()]
        rows.append([look, phase, *times, *(float(number) / 1e6 for number in numbers)])
    return _since_first(pd.DataFrame(rows, columns=["look", "phase", "start", "end", *_LINES]))


def _since_first(table: pd.DataFrame) -> pd.DataFrame:
    zero = table["start"].min()
    return table.assign(start=table["start"] - zero, end=table["end"] - zero)


def _draw_processors(ax: Axes, rows: pd.DataFrame) -> None:
    entries: list[Any] = []
    below = np.zeros(len(rows))
    wide = (rows["end"] - rows["start"]).to_numpy()
    for name, (label, colour) in _PARTS.items():
        high = rows[name].to_numpy() * 100
        ax.bar(rows["start"], high, wide, below, align="edge", color=colour, linewidth=0)
        below = below + high
        entries.append(Patch(color=colour, label=label))
    _steps(ax, rows, rows["busiest"] * 100, "black", "-")
    entries.append(Line2D([], [], color="black", linewidth=0.9, label="busiest machine"))
    ax.set_ylim(0, 104)
    ax.set_ylabel("processors in use (%)")
    _finish(ax, rows, entries)


def _draw_links(ax: Axes, rows: pd.DataFrame) -> None:
    entries: list[Any] = []
    for name, (label, colour, dashes) in _LINES.items():
        _steps(ax, rows, rows[name], colour, dashes)
        entries.append(Line2D([], [], color=colour, linestyle=dashes, linewidth=0.9, label=label))
    highest = float(np.nanmax(rows[list(_LINES)].to_numpy()))
    ax.set_ylim(0, 1.08 * highest or 1.0)
    ax.set_ylabel("link (MB/s)")
    _finish(ax, rows, entries)


def _steps(ax: Axes, rows: pd.DataFrame, values: pd.Series, colour: str, dashes: str) -> None:
    """A level for each look, joined to the next where that follows at once."""
    xs: list[float] = []
    ys: list[float] = []
    for row, value in zip(iter_rows(rows), values, strict=True):
        if xs and row.start - xs[-1] > 0.5:
            xs, ys = [*xs, np.nan], [*ys, np.nan]
        xs, ys = [*xs, row.start, row.end], [*ys, value, value]
    ax.plot(xs, ys, color=colour, linestyle=dashes, linewidth=0.9)


def _finish(ax: Axes, rows: pd.DataFrame, entries: list[Any]) -> None:
    ax.set_xlim(0, float(rows["end"].max()) or 1.0)
    ax.set_xlabel(f"time since the {rows['phase'].iloc[0]} began (s)")
    ax.grid()
    legend(ax, entries, 2 if narrow(ax) and len(entries) < 5 else 3 if narrow(ax) else 5)
