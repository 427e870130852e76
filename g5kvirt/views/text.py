"""A run in the terminal (rich): its phases, what it holds, its VMs, and why VMs failed."""

from __future__ import annotations

import math
from collections import Counter
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from g5kvirt.run.state import RunState
from g5kvirt.views.live.model import LiveModel
from g5kvirt.views.progress import latest_words, phase_seconds, tries_words
from g5kvirt.views.terminal import MARKS, bar
from g5kvirt.views.words import duration

__all__ = ["machines", "run_text"]

_REASONS = 10  #: how many are shown, the most frequent first


def machines(state: RunState, now: float) -> str:
    """What a run holds: ``given back``, ``held until 2026-12-01 14:05``, …; empty before it requests any.

    The time is that of this machine's zone. ``now``: seconds since the epoch.
    """
    if not state.jobs:
        return ""
    if state.released:
        return "given back"
    granted = state.reservation
    if granted is None:
        return "asked for"
    end = granted.start + granted.walltime
    until = datetime.fromtimestamp(end).astimezone()
    return "walltime over" if now > end else f"held until {until:%Y-%m-%d %H:%M}"


def run_text(name: str, testbed: str, progress: LiveModel, now: float) -> RenderableType:
    """A run: its steps with state and time, what it holds, its VMs by state, and why VMs failed (counts, not
    names). ``now``: seconds since the epoch."""
    table = Table.grid(padding=(0, 2))
    for phase in progress.phases.values():
        mark, style = MARKS[phase.state]
        seconds = phase_seconds(phase, math.nan)
        took = "" if seconds is None else duration(seconds) + tries_words(len(phase.tries))
        words = latest_words(phase)
        state = {"waiting": "not begun", "running": "running, or cut short"}.get(phase.state, words)
        table.add_row(Text(mark, style), phase.name, Text(took, justify="right"), Text(state, "dim"))
    parts: list[RenderableType] = [Text(f"run {name} on {testbed}"), table]
    if held := machines(progress.run, now):
        parts.append(Text(f"machines: {held}"))
    if progress.total:
        parts.append(bar(progress))
    lost = [(vm.failed_at, vm.reason) for vm in progress.run.launched() if vm.state == "failed"]
    for deployment in progress.run.deployments.values():
        lost += [(vm.failed_at, vm.reason) for vm in deployment.vms.values() if vm.outcome == "failed"]
    reasons = Counter(lost)
    common = reasons.most_common(_REASONS)
    parts += [Text(f"  {n:,} × at {at}: {reason}", "red") for (at, reason), n in common]
    if rest := reasons.total() - sum(n for _, n in common):
        others = len(reasons) - len(common)
        parts.append(Text(f"  {rest:,} × for {others:,} more reasons: g5kvirt show --tables has them", "red"))
    return Group(*parts)
