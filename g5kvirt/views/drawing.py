"""Common parts of figures: page layout with a footer, timelines with one line per VM, legends."""

from __future__ import annotations

import base64
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from g5kvirt.run.tables import Frames
from g5kvirt.run.vocabulary import FAILED
from g5kvirt.views.palette import COLOURS, guests_clause
from g5kvirt.views.style import STYLE, width

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "SIMULATED",
    "FigureSource",
    "Picture",
    "RunDrawer",
    "Segment",
    "balanced",
    "draw_picture",
    "draw_vm_timelines",
    "is_simulated",
    "legend",
    "narrow",
    "seconds",
    "shortened",
    "vm_timelines_height",
]

SIMULATED = "simulated"  #: the testbed and the guests of predictions by a model


def is_simulated(testbed: str) -> bool:
    """True for ``simulated`` and ``simulated:NAME``."""
    return testbed.partition(" ")[0].partition(":")[0] == SIMULATED


_FOOTER = 84  #: characters per line of the footer, in one column
_FEW = 16  #: up to this many VMs each has its name
_NAME = 16  #: characters of a name that are shown
_BARS = 100  #: up to this many VMs each is a bar, beyond that they are drawn as areas without gaps
_AREAS = 300  #: up to this many VMs are drawn as areas, beyond that as an image whose points are averages
_IMAGE = (600, 1400)  #: its lines and columns


def _style() -> AbstractContextManager[None]:
    """Our style on matplotlib's defaults, whatever the user's matplotlibrc says (``text.usetex``, …)."""
    return mpl.style.context(["default", STYLE])


@dataclass(frozen=True)
class Picture:
    """One figure with its data and its caption. A notebook displays it."""

    figure: Figure
    data: pd.DataFrame
    caption: str

    def save(self, stem: str | Path) -> list[Path]:
        """Write ``stem.pdf``, ``stem.png`` and ``stem.csv``; returns the three paths.

        The same data gives the same bytes: no dates are written into the files.
        """
        # Not `with_suffix`: in a stem such as "boot-1.5" the dot does not begin a suffix.
        pdf, png, csv = (Path(f"{stem}.{kind}") for kind in ("pdf", "png", "csv"))
        pdf.parent.mkdir(parents=True, exist_ok=True)
        with _style():
            about = {"Title": self.caption, "Creator": "g5kvirt", "CreationDate": None, "ModDate": None}
            self.figure.savefig(pdf, format="pdf", metadata=about)
            self.figure.savefig(png, format="png", metadata={"Software": None, "Description": self.caption})
        self.data.to_csv(csv, index=False, float_format="%.6f")
        return [pdf, png, csv]

    def png(self, dpi: float = 150) -> bytes:
        """The figure as PNG."""
        buffer = io.BytesIO()
        with _style():
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


@dataclass(frozen=True)
class FigureSource:
    """The runs, the testbed and the guests of a figure."""

    runs: tuple[str, ...]
    testbed: str
    guest: str = ""

    @property
    def predicted(self) -> bool:
        """Whether all of it is a prediction."""
        return self.guest == SIMULATED or is_simulated(self.testbed)

    @property
    def description(self) -> str:
        """``run first, testbed local, guests: virtual machines (QEMU, emulated)``."""
        named = f"{'run' if len(self.runs) == 1 else 'runs'} {', '.join(self.runs)}"
        guest = self.guest or (SIMULATED if self.predicted else "")
        words = f"{named}, testbed {self.testbed}"
        return f"{words}, {guests_clause(guest)}" if guest else words


def balanced(words: str, most: int) -> list[str]:
    """``words`` in as few lines of at most ``most`` characters as possible, about equally long."""
    lines = wrap(words, most)
    longest = range(-(-len(words) // len(lines)), most) if lines else range(0)
    tries = (wrap(words, length) for length in longest)
    return next((shorter for shorter in tries if len(shorter) == len(lines)), lines)


def draw_picture(
    draw: Callable[[Axes, pd.DataFrame], None],
    shown: pd.DataFrame,
    data: pd.DataFrame,
    columns: int,
    height: float,
    title: str,
    source: FigureSource,
    part: str = "",
) -> Picture:
    """One figure: ``draw`` gets empty axes and ``shown``; the plot itself is ``height`` inches high.

    ``data`` is saved with it. The footer and the caption, after ``title``, describe the ``source``; the
    footer begins with the ``part`` of it that is shown, such as one deployment.
    """
    with _style():
        figure = Figure(figsize=(width(columns), 3.0))
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        draw(axes, shown)
        words = f"{part}; {source.description}" if part else source.description
        foot = balanced(words, _FOOTER * columns)
        at = figure.text(0.99, 0.005, "\n".join(foot), fontsize=5.5, color="#555555", ha="right", va="bottom")
        at.set_linespacing(1.1)
        _fit(figure, axes, height, 0.17 + 0.085 * (len(foot) - 1))
    return Picture(figure, data, f"{title}. {source.description}.")


class Drawer(ABC):
    """Draws figures, each with a footer that describes its source."""

    @property
    @abstractmethod
    def source(self) -> FigureSource:
        """The source of the figures."""

    def _draw(
        self,
        draw: Callable[[Axes, pd.DataFrame], None],
        shown: pd.DataFrame,
        data: pd.DataFrame,
        columns: int,
        height: float,
        title: str,
        part: str = "",
    ) -> Picture:
        if self.source.predicted:
            shown = shown.assign(prediction=True)
            if "prediction" not in data:  # numbers of a predicted line, or a column of the user's
                data = data.assign(prediction=True)
        return draw_picture(draw, shown, data, columns, height, title, self.source, part)


class RunDrawer(Drawer):
    """Draws figures of one run."""

    def __init__(self, frames: Frames, *, run: str, testbed: str, guest: str = "") -> None:
        self.frames = frames
        self.run = run
        self.testbed = testbed
        self.guest = guest

    @property
    def source(self) -> FigureSource:
        """The source of the figures."""
        return FigureSource((self.run,), self.testbed, self.guest)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.source.description}>"


# ---- one line per VM -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Segment:
    """A segment of every VM's timeline: from ``left`` to ``right`` (arrays over the VMs, seconds, NaN if a
    VM has none), and its colour."""

    left: Any
    right: Any
    colour: str
    label: str
    alpha: float = 1.0

    @property
    def known(self) -> Any:
        return ~(np.isnan(self.left) | np.isnan(self.right))


def draw_vm_timelines(
    ax: Axes,
    parts: Sequence[Segment],
    lost: Any,
    until: Any,
    xlabel: str,
    ylabel: str,
    *,
    names: Sequence[str],
    per_row: int = 4,
) -> None:
    """One line per VM with its segments; a cross at ``until`` for each VM that is ``lost``.

    ``ylabel`` is used if there are too many VMs for their ``names``; ``per_row``: entries per row of the
    legend in a figure of one column.
    """
    n = len(lost)
    parts = [part for part in parts if part.known.any()]
    (_bars if n <= _BARS else _areas if n <= _AREAS else _image)(ax, parts, n)
    if lost.any():  # an empty line would still take space in the layout
        size = 3.5 if n <= _BARS else 2.0
        at = np.flatnonzero(lost) + 1
        ax.plot(until[lost], at, "x", color=COLOURS[FAILED], markersize=size, clip_on=False)
    ax.set_ylim(n + 0.7, 0.3)
    ax.set_xlim(0, 1.03 * _longest(parts))
    if n <= _FEW:
        ax.set_yticks(range(1, n + 1), [shortened(name) for name in names])
        ax.tick_params(axis="y", length=0, labelsize=6)
    else:
        ax.yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if 1 <= value <= n else "")
        ax.set_ylabel(ylabel)
    ax.set_xlabel(xlabel)
    ax.grid(axis="x")
    kinds = {part.label: part for part in parts}.values()
    drawn = [Patch(facecolor=part.colour, alpha=part.alpha, label=part.label) for part in kinds]
    legend(ax, drawn, per_row if narrow(ax) else 7)


def shortened(name: str) -> str:
    """A name as long as there is room for beside a figure."""
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"


def _longest(parts: Sequence[Segment]) -> float:
    """The end of the last segment; 1 if nothing took any time."""
    return max((float(np.nanmax(part.right)) for part in parts), default=1.0) or 1.0


def vm_timelines_height(n: int) -> float:
    """Inches of the plot that `draw_vm_timelines` needs for ``n`` VMs."""
    return 1.7 if n > _FEW else 0.3 + 0.1 * n


def _bars(ax: Axes, parts: Sequence[Segment], n: int) -> None:
    """A bar for each VM."""
    y = np.arange(1, n + 1)
    for part in parts:
        at, left = part.known, part.left[part.known]
        wide = part.right[at] - left
        ax.barh(y[at], wide, left=left, height=0.8, color=part.colour, alpha=part.alpha, linewidth=0)


def _areas(ax: Axes, parts: Sequence[Segment], n: int) -> None:
    """Each segment is one area with a step for each VM: no gaps between the lines."""
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


def _image(ax: Axes, parts: Sequence[Segment], n: int) -> None:
    """More VMs than the picture has points: each point is the average of its VMs.

    If they were drawn as shapes, it would be arbitrary which of ten VMs a point shows.
    """
    lines, columns = min(_IMAGE[0], n), _IMAGE[1]
    longest = _longest(parts)
    colours = np.array([to_rgba(part.colour, part.alpha) for part in parts])
    premultiplied = np.column_stack((colours[:, :3] * colours[:, 3:], colours[:, 3]))
    ends = np.linspace(0, n, lines + 1).round().astype(int)
    image = np.zeros((lines, columns, 4))
    for number, (first, last) in enumerate(pairwise(ends)):
        change = np.zeros((columns + 1, 4))  # where segments begin and end; its cumulative sum is the line
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


# ---- layout --------------------------------------------------------------------------------------------


def _fit(figure: Figure, ax: Axes, height: float, foot: float) -> None:
    """Make the plot itself ``height`` inches high, with just enough room for labels, legend and footer."""
    legends = sum(one.get_window_extent().height for one in figure.legends) / figure.dpi
    room = {"left": 0.5, "right": 0.1, "bottom": 0.5, "top": 0.1}
    for _ in range(3):  # the width of the labels depends, a little, on the width of the plot
        wide, high = figure.get_figwidth(), room["bottom"] + height + room["top"]
        figure.set_figheight(high)
        figure.subplots_adjust(
            left=min(room["left"] / wide, 0.6),  # a label may be longer than the figure is wide
            right=max(1 - room["right"] / wide, 0.7),
            bottom=room["bottom"] / high,
            top=1 - room["top"] / high,
        )
        figure.draw_without_rendering()
        inner, outer = ax.bbox, ax.get_tightbbox()
        assert outer is not None
        room = {
            "left": (inner.x0 - outer.x0) / figure.dpi + 0.03,
            "right": (outer.x1 - inner.x1) / figure.dpi + 0.03,
            "bottom": (inner.y0 - outer.y0) / figure.dpi + foot,
            "top": (outer.y1 - inner.y1) / figure.dpi + 0.05 + legends,
        }


def narrow(ax: Axes) -> bool:
    """True in a figure of one column."""
    return bool(ax.get_figure(root=True).get_figwidth() < 5)  # type: ignore[union-attr]


def legend(ax: Axes, entries: Sequence[Any], per_row: int, title: str | None = None) -> None:
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


def seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
