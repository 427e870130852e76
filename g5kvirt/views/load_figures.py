"""Figures of how busy processors and links were while VMs were launched and deployed."""

from __future__ import annotations

from functools import partial
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
    "sent_by_services": ("sent by all service machines", "#000000", "-"),
    "received_median": ("received by a host, median", "#0072b2", "-"),
    "received_max": ("received by a host, most", "#0072b2", ":"),
    "sent_max": ("sent by a host, most", "#e69f00", "--"),
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
        several = known["machine"].nunique() > 1
        return self._draw(
            partial(_draw_processors, several=several) if of == "processors" else _draw_links,
            data,
            data,
            columns,
            1.4,
            title,
        )


def processors_table(frames: Frames) -> pd.DataFrame:
    """One row per look: ``phase``, ``start`` and ``end`` in seconds since the first look, and which share of
    all cores was used by ``vms``, ``services``, g5kvirt on the same machines (``own``) and ``other``
    programs; ``busiest``: the busy share of the busiest machine.

    Where all hosts share a machine, as on a local testbed, its cores count once. Processor time is counted in
    ticks, of which one more or less makes a percent or two of a short look: what is above 1 is taken back.
    """
    load = frames.load
    rows = []
    for (look, phase), own in load.groupby(["look", "phase"], sort=False):
        machines = own.drop_duplicates("machine")
        cores = float(machines["cores"].sum())
        busy = own.groupby("machine")["busy"].mean()
        parts = [own["vms"].sum(), own["services"].sum(), 0.0, machines["other"].sum()]
        parts[2] = max(0.0, float(busy.sum()) - sum(parts))
        worst = min(1.0, float((own["busy"] / own["cores"]).max()))
        shares = [part / max(cores, sum(parts)) for part in parts]
        rows.append([look, phase, own["start"].min(), own["end"].max(), *shares, worst])
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


def _draw_processors(ax: Axes, rows: pd.DataFrame, several: bool) -> None:
    """``several`` machines have their processors in it; of a single one, the busiest is no news."""
    entries: list[Any] = []
    below = np.zeros(len(rows))
    wide = (rows["end"] - rows["start"]).to_numpy()
    for name, (label, colour) in _PARTS.items():
        high = rows[name].to_numpy() * 100
        ax.bar(rows["start"], high, wide, below, align="edge", color=colour, linewidth=0)
        below = below + high
        entries.append(Patch(color=colour, label=label))
    if several:
        _steps(ax, rows, rows["busiest"] * 100, "black", "-")
        entries.append(Line2D([], [], color="black", linewidth=0.9, label="busiest machine"))
    ax.set_ylim(0, 104)
    ax.set_ylabel("processors in use (%)")
    _finish(ax, rows, entries)


def _draw_links(ax: Axes, rows: pd.DataFrame) -> None:
    entries: list[Any] = []
    for number, (name, (label, colour, dashes)) in enumerate(_LINES.items()):
        wide = 2.1 - 0.4 * number  # a chain sends what it receives: each is still seen below the next
        _steps(ax, rows, rows[name], colour, dashes, wide)
        entries.append(Line2D([], [], color=colour, linestyle=dashes, linewidth=wide, label=label))
    highest = float(np.nanmax(rows[list(_LINES)].to_numpy()))
    ax.set_ylim(0, 1.08 * highest or 1.0)
    ax.set_ylabel("over the links (MB/s)")
    _finish(ax, rows, entries)


def _steps(
    ax: Axes, rows: pd.DataFrame, values: pd.Series, colour: str, dashes: str, linewidth: float = 0.9
) -> None:
    """A level for each look, joined to the next where that follows at once."""
    xs: list[float] = []
    ys: list[float] = []
    for row, value in zip(iter_rows(rows), values, strict=True):
        if xs and row.start - xs[-1] > 0.5:
            xs, ys = [*xs, np.nan], [*ys, np.nan]
        xs, ys = [*xs, row.start, row.end], [*ys, value, value]
    ax.plot(xs, ys, color=colour, linestyle=dashes, linewidth=linewidth)


def _finish(ax: Axes, rows: pd.DataFrame, entries: list[Any]) -> None:
    ax.set_xlim(0, float(rows["end"].max()) or 1.0)
    ax.set_xlabel(f"time since the {rows['phase'].iloc[0]} began (s)")
    ax.grid()
    _name_phases(ax, rows)
    legend(ax, entries, 2 if narrow(ax) and len(entries) < 5 else 3 if narrow(ax) else 5)


def _name_phases(ax: Axes, rows: pd.DataFrame) -> None:
    """The name of each phase above its time, where there is room."""
    gaps = rows["start"] > rows["end"].shift() + 0.5
    blocks = rows.groupby((gaps | (rows["phase"] != rows["phase"].shift())).cumsum())
    wide = float(rows["end"].max()) or 1.0
    width = 2.9 if narrow(ax) else 6.2  # inches
    for _, own in blocks:
        name, start, end = str(own["phase"].iloc[0]), float(own["start"].min()), float(own["end"].max())
        if (end - start) / wide * width > 0.07 * len(name):
            ax.annotate(
                name,
                ((start + end) / 2, 1),
                (0, 1.5),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=6.5,
                color="#555555",
            )
