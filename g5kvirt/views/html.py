"""Self-contained HTML: no scripts, no other files, readable on light and dark pages.

All styles are inline and all greys are transparent, so that the page's own colours show through. VMs are
counted, not listed by name.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from g5kvirt.run.deployment_tables import Summary
from g5kvirt.run.tables import Account, Frames
from g5kvirt.run.vocabulary import PLANNED
from g5kvirt.views.live.model import LiveModel
from g5kvirt.views.palette import PHASE_COLOURS, PHASE_MARKS, STATE_COLOURS, STATE_LABELS, guests_clause
from g5kvirt.views.progress import latest_message, time_taken

__all__ = ["about", "bar", "box", "counts_bar", "experiment_html", "failures", "table"]

_FAINT = "opacity:.65"
_CELL = "text-align:left;padding:.1em 1.2em .1em 0;border:0;background:none;vertical-align:top"
_NUMBER = (
    "text-align:right;padding:.1em 1.2em .1em 0;border:0;background:none;font-variant-numeric:tabular-nums"
)


def experiment_html(name: str, testbed: str, guest: str, frames: Frames) -> str:
    """An experiment: its six phases with state and time, and a bar of its VMs by state."""
    account = frames.account
    progress = LiveModel.of(frames.journal, account.requested)
    # An interrupted run has a phase without an end, which must not keep counting.
    now = max((e.t for e in frames.journal), default=time.time())
    rows = [
        [
            f'<span style="color:{PHASE_COLOURS[phase.state]}">{PHASE_MARKS[phase.state]}</span>',
            escape(phase.name),
            time_taken(phase, now),
            escape(latest_message(phase) or {"waiting": "not started"}.get(phase.state, "")),
        ]
        for phase in progress.phases.values()
    ]
    measured = failures(frames.measurements.summary()) if frames.measurements.states else ""
    parts = [table(rows, numbers=(2,)), bar(progress), failures(account), measured]
    return box(f"Experiment {name}", about(testbed, guest), parts)


def about(testbed: str, guest: str) -> str:
    """The subtitle of a result: ``testbed local; guests: …``."""
    return f"testbed {testbed}" + (f"; {guests_clause(guest)}" if guest else "")


def box(title: str, subtitle: str, parts: Iterable[str]) -> str:
    """A frame around ``parts`` (HTML) with a title and a subtitle (text)."""
    inner = "".join(part for part in parts if part)
    return (
        '<div style="border:1px solid rgba(128,128,128,.35);border-radius:6px;padding:.6em .9em;'
        'max-width:46em;line-height:1.4">'
        f'<div style="margin-bottom:.3em"><b>{escape(title)}</b> '
        f'<span style="{_FAINT}">{escape(subtitle)}</span></div>{inner}</div>'
    )


def table(rows: Sequence[Sequence[str]], *, head: Sequence[str] = (), numbers: Sequence[int] = ()) -> str:
    """Rows of cells (HTML); the columns in ``numbers`` are right-aligned."""

    def line(cells: Sequence[str], tag: str, extra: str = "") -> str:
        styles = [(_NUMBER if i in numbers else _CELL) + extra for i in range(len(cells))]
        return (
            "<tr>"
            + "".join(
                f'<{tag} style="{style}">{cell}</{tag}>' for style, cell in zip(styles, cells, strict=True)
            )
            + "</tr>"
        )

    titles = [escape(cell).replace(" %", "&nbsp;%") for cell in head]
    top = line(titles, "th", f";font-weight:normal;{_FAINT}") if head else ""
    body = "".join(line(row, "td") for row in rows)
    if not body:
        return ""
    style = "border-collapse:collapse;border:0;margin:.3em 0 0;color:inherit;font:inherit"
    return f'<table style="{style}">{top}{body}</table>'


def bar(progress: LiveModel) -> str:
    """The VMs by state: a bar in proportion, and the counts."""
    return counts_bar(progress.counts, progress.total)


def counts_bar(counts: Mapping[str, int], total: int) -> str:
    """A bar of ``total`` VMs by state, in proportion, and the counts."""
    if not total:
        return ""
    cells = "".join(
        f'<span title="{STATE_LABELS[state]}: {count:,}"'
        f' style="flex:{count} 0 3px;background:{_colour(state)}"></span>'
        for state, count in counts.items()
    )
    words = " · ".join(
        f'<span style="white-space:nowrap"><span style="color:{_colour(state)}">■</span> '
        f"{STATE_LABELS[state]} {count:,}</span>"
        for state, count in counts.items()
    )
    return (
        '<div style="display:flex;height:.9em;border-radius:3px;overflow:hidden;margin:.5em 0 .2em">'
        f'{cells}</div><div>{words} <span style="{_FAINT}">of {total:,} VMs</span></div>'
    )


def _colour(state: str) -> str:
    return "rgba(128,128,128,.35)" if state == PLANNED else STATE_COLOURS[state]


def failures(account: Account | Summary, limit: int = 8) -> str:
    """Why VMs failed: reasons with their counts, the most frequent first, and the console of one VM each."""
    reasons: Mapping[tuple[str, str], int] = account.reasons
    rows = [
        [f"{number:,}", escape(step), escape(reason), escape(account.consoles.get((step, reason), ""))]
        for (step, reason), number in list(reasons.items())[:limit]
    ]
    head = ["VMs", "failed at", "reason", "console of one"]
    if not account.consoles:
        rows, head = [row[:3] for row in rows], head[:3]
    more = len(reasons) - limit
    rest = f'<div style="{_FAINT}">and {more:,} other reasons</div>' if more > 0 else ""
    return table(rows, head=head, numbers=(0,)) + rest
