"""A run in the terminal: the phases with their time, and a bar of VM states, live from the journal.

A terminal shows one display that is redrawn in place; elsewhere (a file, a pipe, CI) plain lines are printed
as events arrive.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import ClassVar, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from g5kvirt.run.events import Event
from g5kvirt.run.phase_state import PhaseState
from g5kvirt.run.vocabulary import FAILED, PHASES, PLANNED
from g5kvirt.views.live.model import LiveModel
from g5kvirt.views.palette import PHASE_MARKS, STATE_COLOURS, STATE_LABELS
from g5kvirt.views.progress import latest_message, phase_message, time_taken

__all__ = ["MARKS", "TerminalProgress", "bar", "shares"]

#: State of a phase → its mark and its style.
_STYLES = {"waiting": "dim", "running": "bold", "ok": "green", "failed": "red"}
MARKS = {state: (mark, _STYLES[state]) for state, mark in PHASE_MARKS.items()}
_PLAIN_EVERY = 10.0  #: seconds between two plain lines about the VMs


def shares(counts: dict[str, int], width: int) -> dict[str, int]:
    """State → its cells in a bar of ``width`` cells: in proportion, all cells used, at least one for each
    state that has a VM (as long as there are enough cells)."""
    total = sum(counts.values())
    present = [state for state, count in counts.items() if count]
    if not total or width < 1:
        return {}
    if len(present) > width:
        present = sorted(present, key=lambda s: -counts[s])[:width]
    cells = {state: max(1, counts[state] * width // total) for state in present}
    while (over := sum(cells.values()) - width) != 0:
        # Give to, or take from, the state that is farthest from its exact share.
        gap = {s: cells[s] - counts[s] * width / total for s in present if over < 0 or cells[s] > 1}
        chosen = max(gap, key=lambda s: gap[s]) if over > 0 else min(gap, key=lambda s: gap[s])
        cells[chosen] += -1 if over > 0 else 1
    return cells


def bar(progress: LiveModel, width: int = 50) -> Text:
    """Two lines: a bar of the VMs by state, and the counts."""
    counts = progress.counts
    text = Text("  ")
    for state, cells in shares(counts, width).items():
        text.append(("░" if state == PLANNED else "█") * cells, style=_style(state))
    text.append("\n  ")
    for number, (state, count) in enumerate(counts.items()):
        text.append(" · " if number else "")
        text.append(f"{STATE_LABELS[state]} {count:,}", style=_style(state))
    text.append(f" of {progress.total:,} VMs", style="dim")
    return text


def _style(state: str) -> str:
    return f"bold {STATE_COLOURS[state]}" if state == FAILED else STATE_COLOURS[state]


class TerminalProgress:
    """Displays the events passed to `take`, from any thread, while its ``with`` block lasts."""

    displayed: ClassVar[int] = 0  #: how many there are now: two would overwrite each other

    def __init__(self, console: Console, vms: int = 0) -> None:
        self.console = console
        self.progress = LiveModel(vms)
        self._lock = threading.Lock()
        self._live = (
            Live(get_renderable=self._render, console=console, refresh_per_second=6, transient=False)
            if console.is_terminal
            else None
        )
        self._last_line = 0.0

    def __enter__(self) -> Self:
        TerminalProgress.displayed += 1
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        TerminalProgress.displayed -= 1
        if self._live is not None:
            self._live.stop()

    def take(self, event: Event) -> None:
        """Process one event."""
        with self._lock:
            self.progress.take(event)
            if self._live is None:
                self._print_event(event)

    def _render(self) -> RenderableType:
        with self._lock:
            now = self.progress.now()
            table = Table.grid(padding=(0, 2))
            table.add_column()
            table.add_column(min_width=10)
            table.add_column(justify="right", min_width=8)
            table.add_column(overflow="ellipsis", no_wrap=True)
            for phase in self._shown():
                mark, style = MARKS[phase.state]
                name = Text(phase.name, style=style if phase.state != "ok" else "")
                message = phase_message(self.progress.run, phase.name)
                table.add_row(Text(mark, style), name, Text(time_taken(phase, now)), Text(message, "dim"))
            return Group(table, bar(self.progress)) if self.progress.vms else table

    def _shown(self) -> list[PhaseState]:
        phases = self.progress.phases
        return [phases[p] for p in PHASES if p != "measure" or phases[p].state != "waiting"]

    def _print_event(self, event: Event) -> None:
        """The plain lines: start and end of each phase, its parts, and every few seconds the VMs."""
        if event.kind == "vm":
            settled = self.progress.settled
            if event.status != "start" and (settled or time.monotonic() - self._last_line > _PLAIN_EVERY):
                self._last_line = time.monotonic()
                counts = ", ".join(
                    f"{STATE_LABELS[state]} {count}" for state, count in self.progress.counts.items()
                )
                self._print(f"  VMs: {counts} of {self.progress.total}")
            return
        phase = self.progress.phases.get(event.phase)
        if phase is None:
            return
        if event.step != "phase":
            if (
                event.status != "start"
                and event.kind != "host"
                and not event.is_load
                and event.step != "release"
            ):
                self._print(f"  {latest_message(phase)}")
        elif event.status == "start":
            self._print(f"{event.phase} …")
        elif event.status == "ok":
            self._print(f"{event.phase} done in {time_taken(phase)}")
        elif event.status == "failed":
            self._print(f"{event.phase} failed after {time_taken(phase)}: {latest_message(phase)}")

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
