"""A run in the terminal (rich): its phases, its machines, its VMs, and why VMs failed."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from g5kvirt.run.state import RunState
from g5kvirt.run.virtual_time import is_virtual
from g5kvirt.views.live.model import LiveModel
from g5kvirt.views.progress import latest_message, time_taken
from g5kvirt.views.terminal import MARKS, bar

__all__ = ["machines_held", "run_text"]

_REASONS = 10  #: reasons that are shown, the most frequent first


def machines_held(state: RunState, now: float) -> str:
    """The state of a run's machines: ``released``, ``held until 2026-12-01 14:05``, …; empty before they are
    requested.

    In the time zone of this machine. ``now``: seconds since the epoch.
    """
    if not state.jobs:
        return ""
    if state.released:
        return "released"
    granted = state.reservation
    if granted is None:
        return "requested"
    if is_virtual(granted.start):
        return "none: a prediction"
    end = granted.start + granted.walltime
    until = datetime.fromtimestamp(end).astimezone()
    return "walltime expired" if now > end else f"held until {until:%Y-%m-%d %H:%M}"


def run_text(name: str, testbed: str, progress: LiveModel, now: float) -> RenderableType:
    """A run: its phases with state and time, its machines, its VMs by state, and the reasons for
    failures with their counts. ``now``: seconds since the epoch."""
    table = Table.grid(padding=(0, 2))
    for phase in progress.phases.values():
        mark, style = MARKS[phase.state]
        message = latest_message(phase)
        state = {"waiting": "not started", "running": "running or interrupted"}.get(phase.state, message)
        taken = Text(time_taken(phase), justify="right")
        table.add_row(Text(mark, style), phase.name, taken, Text(state, "dim"))
    parts: list[RenderableType] = [Text(f"run {name} on {testbed}"), table]
    if held := machines_held(progress.run, now):
        parts.append(Text(f"machines: {held}"))
    if progress.total:
        parts.append(bar(progress))
    failures = [(vm.failed_at, vm.reason) for vm in progress.run.launched() if vm.state == "failed"]
    for deployment in progress.run.deployments.values():
        failures += [(vm.failed_at, vm.reason) for vm in deployment.vms.values() if vm.outcome == "failed"]
    reasons = Counter(failures)
    common = reasons.most_common(_REASONS)
    parts += [Text(f"  {n:,} × at {at}: {reason}", "red") for (at, reason), n in common]
    if rest := reasons.total() - sum(n for _, n in common):
        others = len(reasons) - len(common)
        parts.append(Text(f"  {rest:,} × for {others:,} other reasons: see g5kvirt show --tables", "red"))
    return Group(*parts)
