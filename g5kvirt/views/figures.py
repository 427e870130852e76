"""The figures of a run: vector PDF, PNG, and the numbers behind each as CSV.

::

    figures = experiment.figures
    figures.boot()                                # shows itself in a notebook
    figures.boot(columns=2).save("paper/boot")    # paper/boot.pdf, .png and .csv
    figures.save("runs/first/figures")            # all that there is data for

Every figure says at its foot which run it shows, on which testbed, and with which kind of guest; a
prediction says that it is one.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from g5kvirt.errors import RunError
from g5kvirt.frames import Frames
from g5kvirt.views.palette import COLOURS, FAILED, LABELS, STEPS, guest_words
from g5kvirt.views.style import STYLE, width
from g5kvirt.views.tables import (
    COLUMN,
    boot_table,
    durations_table,
    quantiles,
    rows_of,
    timeline_table,
)
from g5kvirt.views.words import count, duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Figures", "Picture"]

_FEW = 12  #: up to so many VMs each has its number
_BARS = 100  #: up to so many VMs each is a bar of its own, beyond they close up to areas
_AREAS = 300  #: up to so many areas are drawn as such, beyond as an image whose points are averages
_IMAGE = (600, 1400)  #: its lines and columns


@dataclass(frozen=True)
class Picture:
    """One figure with its data and its caption. In a notebook it shows itself."""

    figure: Figure
    data: pd.DataFrame
    caption: str

    def save(self, stem: str | Path) -> list[Path]:
        """Write ``stem.pdf``, ``stem.png`` and ``stem.csv``; returns the three paths.

        The same data gives the same bytes: no dates are written into the files.
        """
        # Not `with_suffix`: a stem such as "boot-1.5" has a dot that is no suffix.
        pdf, png, csv = (Path(f"{stem}.{kind}") for kind in ("pdf", "png", "csv"))
        pdf.parent.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context(STYLE):
            about = {"Title": self.caption, "Creator": "g5kvirt", "CreationDate": None, "ModDate": None}
            self.figure.savefig(pdf, format="pdf", metadata=about)
            self.figure.savefig(png, format="png", metadata={"Software": None, "Description": self.caption})
        self.data.to_csv(csv, index=False, float_format="%.6f")
        return [pdf, png, csv]

    def png(self, dpi: float = 150) -> bytes:
        """The figure as PNG."""
        buffer = io.BytesIO()
        with mpl.rc_context(STYLE):
            self.figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.png(200)).decode()
        wide = f"width:{self.figure.get_figwidth() * 1.6:.1f}in;max-width:100%"
        return (
            f'<figure style="margin:0"><img alt="{escape(self.caption)}" style="{wide};background:white" '
            f'src="data:image/png;base64,{data}"></figure>'
        )

    def __repr__(self) -> str:
        return f"<Picture: {self.caption}>"


class Figures:
    """The figures of one run. Each takes ``columns``, 1 or 2: how much of a page's width it fills.

    A figure for which the run has no data yet raises RunError, which says what to call first.
    """

    def __init__(self, frames: Frames, *, run: str, testbed: str, guest: str = "") -> None:
        self.frames = frames
        self.run = run
        self.testbed = testbed
        self.guest = guest

    def timeline(self, columns: int = 1) -> Picture:
        """When each step of the experiment ran; over two columns also the parts of each step."""
        data = timeline_table(self.frames)
        if data.empty:
            raise RunError("no step has begun yet: there is no timeline before reserve()")
        shown = data if columns == 2 else data[data["part"] == ""]
        return self._draw(
            _timeline, shown, data, columns, 0.06 + 0.17 * len(shown), "Steps of the experiment"
        )

    def boot(self, columns: int = 1) -> Picture:
        """The way of every VM from its power-on to the minimal system, a line each."""
        data = self._vms()
        height = 1.7 if len(data) > _FEW else 0.3 + 0.1 * len(data)
        return self._draw(_boot, data, data, columns, height, f"Boot of {count(len(data), 'VM')}")

    def distribution(self, columns: int = 1) -> Picture:
        """For each step the share of the VMs that took at most so long; median and 95 % in the legend."""
        self._vms()
        data = durations_table(self.frames)
        if data.empty:
            raise RunError("no VM has reached its first step yet: there is no distribution")
        title = f"Time of each step over {count(data['name'].nunique(), 'VM')}"
        return self._draw(_distribution, data, data, columns, 1.6, title)

    def save(self, directory: str | Path) -> list[Path]:
        """Write every figure that there is data for, in one column; returns the PDF files."""
        written = []
        for name in ("timeline", "boot", "distribution"):
            try:
                picture: Picture = getattr(self, name)()
            except RunError:  # this run has not come so far
                continue
            written.append(picture.save(Path(directory) / name)[0])
        return written

    def _vms(self) -> pd.DataFrame:
        data = boot_table(self.frames)
        if data["power_on"].isna().all():
            raise RunError("no VM has been powered on yet: call launch() first")
        return data

    def _draw(
        self,
        draw: Callable[[Axes, pd.DataFrame], None],
        shown: pd.DataFrame,
        data: pd.DataFrame,
        columns: int,
        height: float,
        title: str,
    ) -> Picture:
        where = f"run {self.run}, testbed {self.testbed}"
        caption = f"{title}. {where}" + (f", guests: {guest_words(self.guest)}." if self.guest else ".")
        foot = f"{where}" + (f"; guests: {guest_words(self.guest)}" if self.guest else "")
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=(width(columns), 3.0))
            FigureCanvasAgg(figure)
            axes = figure.add_subplot()
            draw(axes, shown)
            figure.text(
                0.99, 0.005, _shorten(foot, columns), fontsize=5.5, color="#555555", ha="right", va="bottom"
            )
            _fit(figure, axes, height)
        return Picture(figure, data, caption)


# ---- drawing -----------------------------------------------------------------------------------------


def _timeline(ax: Axes, rows: pd.DataFrame) -> None:
    span = float(rows["end"].max()) or 1.0
    labels = []
    for y, row in enumerate(rows_of(rows)):
        whole = row.part == ""
        colour = COLOURS[FAILED] if row.status == "failed" else COLOURS["initrd" if whole else "kernel"]
        # A step of a tenth of a second must still be seen: every bar has an edge.
        height = 0.62 if whole else 0.36
        ax.barh(y, row.duration, height, row.start, color=colour, edgecolor=colour, linewidth=0.8)
        words = duration(row.duration) + (" (failed)" if row.status == "failed" else "")
        # Beside the bar where there is room for it, after it or before it; else inside, at its end.
        at, shift, side, ink = row.end, 3, "left", "black"
        if row.end > 0.75 * span:
            if row.start > 0.3 * span:
                at, shift, side = row.start, -3, "right"
            else:
                shift, side, ink = -3, "right", "white" if whole else "black"
        ax.annotate(
            words,
            (at, y),
            xytext=(shift, 0),
            textcoords="offset points",
            va="center_baseline",
            ha=side,
            color=ink,
            fontsize=7 if whole else 6,
        )
        what = row.part.replace("-", " ") + (f" × {row.n:,}" if row.n > 1 else "")
        labels.append(row.phase if whole else what)
    ax.set_yticks(range(len(rows)), labels)
    for tick, part in zip(ax.get_yticklabels(), rows["part"], strict=True):
        tick.set_fontsize(8 if part == "" else 6)
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    ax.set_xlim(0, span * 1.02)
    ax.set_xlabel("time since the run began (s)")
    ax.grid(axis="x")


def _boot(ax: Axes, vms: pd.DataFrame) -> None:
    n = len(vms)
    edges = [vms["asked"].fillna(vms["power_on"]), *(vms[column] for column in COLUMN.values())]
    parts = [
        _Part(left.to_numpy(), right.to_numpy(), COLOURS[step], LABELS[step])
        for step, left, right in zip(STEPS, edges, edges[1:], strict=False)
    ]
    # What a VM that was given up had reached, and how long it was waited for after that.
    lost = vms["gave_up"].notna().to_numpy()
    reached, until = pd.concat(edges, axis=1).max(axis=1).to_numpy(), vms["gave_up"].to_numpy()
    words = f"given up ({int(lost.sum()):,})"
    parts.append(_Part(reached, until, COLOURS[FAILED], words, alpha=0.35))
    parts = [part for part in parts if part.known.any()]
    (_bars if n <= _BARS else _areas if n <= _AREAS else _image)(ax, parts, n)
    if lost.any():  # an empty line would still claim a place in the layout
        size = 3.5 if n <= _BARS else 2.0
        at = np.flatnonzero(lost) + 1
        ax.plot(until[lost], at, "x", color=COLOURS[FAILED], markersize=size, clip_on=False)
    ax.set_ylim(n + 0.7, 0.3)
    ax.set_xlim(0, 1.03 * max(float(np.nanmax(part.right)) for part in parts))
    if n <= _FEW:
        ax.set_yticks(range(1, n + 1))
    else:
        ax.yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if 1 <= value <= n else "")
    ax.set_xlabel("time since launch began (s)")
    ax.set_ylabel("VMs, by power-on" if n > _FEW else "VMs")
    ax.grid(axis="x")
    drawn = [Patch(facecolor=part.colour, alpha=part.alpha, label=part.label) for part in parts]
    _legend(ax, drawn, 4 if _narrow(ax) else 7)


def _fit(figure: Figure, ax: Axes, height: float) -> None:
    """Give the plot itself ``height`` inches, and its labels, the legend and the foot just their room."""
    legend = sum(one.get_window_extent().height for one in figure.legends) / figure.dpi
    room = {"left": 0.5, "right": 0.1, "bottom": 0.5, "top": 0.1}
    for _ in range(3):  # how wide the labels are depends, a little, on how wide the plot is
        wide, high = figure.get_figwidth(), room["bottom"] + height + room["top"]
        figure.set_figheight(high)
        figure.subplots_adjust(
            left=room["left"] / wide,
            right=1 - room["right"] / wide,
            bottom=room["bottom"] / high,
            top=1 - room["top"] / high,
        )
        figure.draw_without_rendering()
        inner, outer = ax.bbox, ax.get_tightbbox()
        assert outer is not None
        room = {
            "left": (inner.x0 - outer.x0) / figure.dpi + 0.03,
            "right": (outer.x1 - inner.x1) / figure.dpi + 0.03,
            "bottom": (inner.y0 - outer.y0) / figure.dpi + 0.17,
            "top": (outer.y1 - inner.y1) / figure.dpi + 0.05 + legend,
        }


def _narrow(ax: Axes) -> bool:
    """True in a figure of one column."""
    return bool(ax.get_figure(root=True).get_figwidth() < 5)  # type: ignore[union-attr]


def _legend(ax: Axes, entries: Sequence[Any], per_row: int, title: str | None = None) -> None:
    """Above the picture, in as many rows as needed, filled row by row (matplotlib fills by column)."""
    ordered = [entry for column in range(per_row) for entry in entries[column::per_row]]
    ax.figure.legend(
        handles=ordered,
        ncols=per_row,
        loc="upper left",
        bbox_to_anchor=(0, 1),
        title=title,
        title_fontsize=7,
        alignment="left",
    )


@dataclass(frozen=True)
class _Part:
    """One part of every VM's way: from where to where (seconds, NaN if it was not gone), and its colour."""

    left: Any
    right: Any
    colour: str
    label: str
    alpha: float = 1.0

    @property
    def known(self) -> Any:
        return ~(np.isnan(self.left) | np.isnan(self.right))


def _bars(ax: Axes, parts: Sequence[_Part], n: int) -> None:
    """A bar for each VM."""
    y = np.arange(1, n + 1)
    for part in parts:
        at, left = part.known, part.left[part.known]
        wide = part.right[at] - left
        ax.barh(y[at], wide, left=left, height=0.8, color=part.colour, alpha=part.alpha, linewidth=0)


def _areas(ax: Axes, parts: Sequence[_Part], n: int) -> None:
    """Each part one area with a step for each VM: no gaps between the lines."""
    ys = np.repeat(np.arange(n + 1) + 0.5, 2)[1:-1]
    for part in parts:
        lefts, rights, known = (np.repeat(values, 2) for values in (part.left, part.right, part.known))
        ax.fill_betweenx(
            ys,
            lefts,
            rights,
            where=known,
            color=part.colour,
            alpha=part.alpha,
            linewidth=0,
            antialiased=False,
        )


def _image(ax: Axes, parts: Sequence[_Part], n: int) -> None:
    """More VMs than the picture has points: each point is the average of the VMs that lie on it.

    Drawn as shapes, which of ten VMs a point shows would be chance.
    """
    lines, columns = min(_IMAGE[0], n), _IMAGE[1]
    longest = max(float(np.nanmax(part.right)) for part in parts)
    colours = np.array([to_rgba(part.colour, part.alpha) for part in parts])
    premultiplied = np.column_stack((colours[:, :3] * colours[:, 3:], colours[:, 3]))
    ends = np.linspace(0, n, lines + 1).round().astype(int)
    image = np.zeros((lines, columns, 4))
    for number, (first, last) in enumerate(pairwise(ends)):
        change = np.zeros((columns + 1, 4))  # where a part begins and ends; its sum over the line is the line
        for part, colour in zip(parts, premultiplied, strict=True):
            known = part.known[first:last]
            for values, sign in ((part.left, 1), (part.right, -1)):
                at = (values[first:last][known] / longest * columns).round().astype(int).clip(0, columns)
                np.add.at(change, at, sign * colour)
        image[number] = np.cumsum(change, axis=0)[:columns] / (last - first)
    cover = image[..., 3:]
    image[..., :3] = np.divide(image[..., :3], cover, out=np.ones_like(image[..., :3]), where=cover > 1e-9)
    extent = (0.0, longest, n + 0.5, 0.5)
    ax.imshow(
        image.clip(0, 1), extent=extent, aspect="auto", interpolation="nearest", origin="upper", zorder=2
    )


def _distribution(ax: Axes, data: pd.DataFrame) -> None:
    table = quantiles(data)
    for step in table.index:
        values = np.sort(data.loc[data["step"] == step, "seconds"].to_numpy())
        share = np.arange(1, len(values) + 1) / len(values)
        total = step == "total"
        row = table.loc[step]
        label = f"{'total' if total else LABELS[step]}: {_seconds(row['median'])} / {_seconds(row['q95'])}"
        ax.step(
            np.concatenate(([values[0]], values)),
            np.concatenate(([0.0], share)),
            where="post",
            color="black" if total else COLOURS[step],
            linewidth=1.8 if total else 1.2,
            label=label,
        )
    shortest, longest = float(data["seconds"].min()), float(data["seconds"].max())
    if shortest > 0 and longest / shortest > 30:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        ax.set_xlim(left=0)
    ax.set_ylim(0, 1.02)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    ax.set_xlabel("duration of the step (s)")
    ax.set_ylabel("VMs")
    ax.grid()
    _legend(ax, ax.get_lines(), 2 if _narrow(ax) else 3, "median / 95 % of the VMs (s)")


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _shorten(words: str, columns: int) -> str:
    room = 88 * columns
    return words if len(words) <= room else words[: room - 1] + "…"
