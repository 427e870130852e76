"""The picture of a run: phases, a bar of VM states, the wall. HTML with inline SVG, no scripts, no files.

It works in saved notebooks, on light and dark pages, and in print: everything coloured is SVG, which browsers
print unchanged, and text has the page's own colour.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

from g5kvirt.run.vocabulary import FAILED, PLANNED
from g5kvirt.views.formatting import duration
from g5kvirt.views.live.layout import WIDTH, Block, Wall, arrange
from g5kvirt.views.live.model import Cell, LiveModel
from g5kvirt.views.palette import PHASE_COLOURS, PHASE_MARKS, STATE_COLOURS, STATE_LABELS
from g5kvirt.views.progress import last_phase, phase_message, time_taken

__all__ = ["CROSSED", "describe_cell", "head", "picture", "wall_of"]

_FAINT = "opacity:.65"
_BAR = 14
_LEAST = 4  #: pixels of the bar for a state, however few its VMs
CROSSED = 9  #: failed cells of at least this size have a cross; on smaller ones it would hide the colour
_EACH = 400  #: up to this many VMs each cell has a tooltip, above that each host has one


def wall_of(model: LiveModel) -> Wall:
    """The wall of all known VMs."""
    return arrange((cell.name, cell.host, cell.site) for cell in model.cells.values())


def picture(model: LiveModel, now: float, title: str = "") -> str:
    """The whole picture at ``now`` (seconds since the epoch)."""
    wall = wall_of(model)
    return (
        f'<div style="max-width:{WIDTH}px;line-height:1.4;margin:.4em 0">{head(model, now, title)}'
        f"{_wall(model, wall, now) if wall.names else ''}</div>"
    )


def describe_cell(cell: Cell, now: float) -> str:
    """One VM as text: ``vm-7 on graphene-1.nancy…: kernel, at initrd for 3.2 s; attempt 2: no answer``."""
    words = f"{cell.name} on {cell.host}" if cell.host else cell.name
    words += f": {STATE_LABELS[cell.state]}"
    if cell.step:
        words += f", at {cell.step} for {duration(max(0.0, now - cell.since))}"
    if cell.attempt > 1:
        words += f", attempt {cell.attempt}"
    return f"{words} ({cell.reason})" if cell.reason else words


# ---- steps and counts ---------------------------------------------------------------------------------


def head(model: LiveModel, now: float, title: str = "") -> str:
    """The six phases with state and time, and the VMs by state."""
    steps = "".join(_step(model, name, now) for name in model.phases)
    last = last_phase(model.run)
    doing = phase_message(model.run, last.name) if last and last.state in ("running", "failed") else ""
    parts = [
        f'<div style="margin-bottom:.3em"><b>{escape(title)}</b></div>' if title else "",
        f'<div style="display:flex;flex-wrap:wrap;gap:.2em 1.4em">{steps}</div>',
        f'<div style="{_FAINT};min-height:1.4em">{escape(doing)}</div>',
        _bar(model),
    ]
    return "".join(parts)


def _step(model: LiveModel, name: str, now: float) -> str:
    phase = model.phases[name]
    colour, mark = PHASE_COLOURS[phase.state], PHASE_MARKS[phase.state]
    style = _FAINT if phase.state == "waiting" else ""
    return (
        f'<span style="white-space:nowrap;{style}"><span style="color:{colour}">{mark}</span> '
        f"{'<b>' if phase.state == 'running' else ''}{name}{'</b>' if phase.state == 'running' else ''}"
        f' <span style="{_FAINT};font-variant-numeric:tabular-nums">{time_taken(phase, now)}</span></span>'
    )


def _bar(model: LiveModel) -> str:
    counts, total = model.counts, model.total
    if not total:
        return ""
    x = 0.0
    rects = []
    for state, number in counts.items():
        wide = _LEAST + number * (WIDTH - _LEAST * len(counts)) / total
        rects.append(
            f'<rect x="{x:.2f}" width="{wide:.2f}" height="{_BAR}" {_fill(state)}>'
            f"<title>{STATE_LABELS[state]}: {number:,}</title></rect>"
        )
        x += wide
    words = " · ".join(
        f'<span style="white-space:nowrap">{_square(state)} {STATE_LABELS[state]} '
        f'<span style="font-variant-numeric:tabular-nums">{number:,}</span></span>'
        for state, number in counts.items()
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {_BAR}" preserveAspectRatio="none" role="img" '
        f'aria-label="VMs by state" style="display:block;width:100%;height:{_BAR}px;margin:.3em 0 .2em">'
        f'{"".join(rects)}</svg><div>{words} <span style="{_FAINT}">of {total:,} VMs</span></div>'
    )


def _square(state: str) -> str:
    return (
        '<svg width="10" height="10" style="display:inline-block;vertical-align:baseline">'
        f'<rect width="10" height="10" {_fill(state)}/></svg>'
    )


def _fill(state: str) -> str:
    # on a dark page light grey would stand out more than the colours
    faint = ' fill-opacity=".45"' if state == PLANNED else ""
    return f'fill="{STATE_COLOURS[state]}"{faint}'


# ---- the wall -----------------------------------------------------------------------------------------


def _wall(model: LiveModel, wall: Wall, now: float) -> str:
    cells = [model.cells[name] for name in wall.names]
    corners = wall.corners()
    size = wall.size
    by_state: dict[str, list[str]] = {}
    for cell, (x, y) in zip(cells, corners, strict=True):
        by_state.setdefault(cell.state, []).append(f"M{x} {y}h{size}v{size}h-{size}z")
    paths = [f'<path {_fill(state)} d="{"".join(path)}"/>' for state, path in by_state.items()]
    # failures are not marked by colour alone
    crosses = "".join(
        f"M{x} {y}l{size} {size}m0-{size}l-{size} {size}"
        for cell, (x, y) in zip(cells, corners, strict=True)
        if cell.state == FAILED and size >= CROSSED
    )
    if crosses:
        paths.append(f'<path stroke="#fff" fill="none" d="{crosses}"/>')
    labels = "".join(
        f'<text x="{label.x:g}" y="{label.y:g}"{_STRONG if label.strong else _PLAIN}>'
        f"{escape(label.text)}</text>"
        for label in wall.labels
    )
    titles = _each(cells, corners, size, now) if len(cells) <= _EACH else _hosts(cells, wall)
    return (
        f'<svg viewBox="0 0 {wall.width} {wall.height}" role="img" aria-label="each VM by state" '
        f'style="display:block;width:100%;margin-top:.5em;font:11px sans-serif" fill="currentColor">'
        f'{labels}{"".join(paths)}<g fill="transparent">{titles}</g></svg>'
    )


_STRONG = ' font-weight="bold"'
_PLAIN = ' opacity=".65"'


def _each(cells: Sequence[Cell], corners: Iterable[tuple[int, int]], size: int, now: float) -> str:
    return "".join(
        f'<rect x="{x}" y="{y}" width="{size}" height="{size}">'
        f"<title>{escape(describe_cell(cell, now))}</title></rect>"
        for cell, (x, y) in zip(cells, corners, strict=True)
    )


def _hosts(cells: Sequence[Cell], wall: Wall) -> str:
    return "".join(
        f'<rect x="{block.x}" y="{block.y}" width="{block.columns * wall.pitch}" '
        f'height="{-(-block.count // block.columns) * wall.pitch}">'
        f"<title>{escape(_host(cells, block))}</title></rect>"
        for block in wall.blocks
    )


def _host(cells: Sequence[Cell], block: Block) -> str:
    """``graphene-1.nancy.grid5000.fr: deployed 13, failed 1; vm-3: no answer``."""
    own = cells[block.first : block.first + block.count]
    counts = Counter(STATE_LABELS[cell.state] for cell in own)
    words = ", ".join(f"{state} {number}" for state, number in counts.items())
    lost = next((f"; {cell.name}: {cell.reason}" for cell in own if cell.state == FAILED), "")
    return f"{block.host or 'unknown host'}: {words}{lost}"
