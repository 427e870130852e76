"""``g5kvirt sweep``: prints what a sweep will do, its progress and its outcome."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from rich.table import Table

from g5kvirt.cli.console import Console
from g5kvirt.views.formatting import count

if TYPE_CHECKING:
    from g5kvirt.experiment import Experiment
    from g5kvirt.sweeps import Sweep

__all__ = ["sweep"]


def sweep(arguments: argparse.Namespace) -> int:
    """Measure every combination that is not yet done."""
    from g5kvirt import sweeps

    console = Console()
    plan = sweeps.load(arguments.sweep, arguments.testbed)
    folder = sweeps.sweep_folder(plan, arguments.runs)
    done = sweeps.finished(plan, folder)
    if arguments.dry_run:
        console = console if console.is_terminal else Console(width=200)
        console.print(_table(plan, done))
    _print(console, _summary(plan, done))
    if arguments.dry_run:
        return 0
    outcome = sweeps.carry_out(
        plan, folder, report=lambda line: _print(console, line), display=lambda one: _display(console, one)
    )
    line = f"{outcome.done:,} of {count(len(plan.combinations), 'combination')} done"
    if outcome.left:
        line += f", {outcome.failed:,} failed: run the command again to retry them"
    _print(console, line)
    console.print(f"index    {folder / sweeps.INDEX}", markup=False, highlight=False, soft_wrap=True)
    return 1 if outcome.left else 0


def _table(plan: Sweep, done: set[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("cluster", *plan.factors, "deployments", "state"):
        table.add_column(title, justify="right" if title in ("cluster", "deployments") else "left")
    for number, cluster in enumerate(plan.clusters, 1):
        for one in cluster:
            levels = [str(level) for level in one.levels.values()]
            state = "done" if one.key in done else "to do"
            table.add_row(str(number), *levels, str(one.deployments or "launch"), state)
    return table


def _summary(plan: Sweep, done: set[str]) -> str:
    left = [[c for c in cluster if c.key not in done] for cluster in plan.clusters]
    left = [cluster for cluster in left if cluster]
    todo = [one for cluster in left for one in cluster]
    summary = (
        f"sweep {plan.name} on {plan.testbed}: {count(len(plan.combinations), 'combination')} on "
        f"{count(len(plan.clusters), 'virtual cluster')}"
    )
    if done:
        summary += f", {len(done):,} already done"
    if todo:
        deployments = count(sum(one.deployments for one in todo), "deployment")
        summary += f"; to do: {len(todo):,} on {count(len(left), 'virtual cluster')}, {deployments}"
    return summary


@contextmanager
def _display(console: Console, experiment: Experiment) -> Iterator[None]:
    from g5kvirt.views.terminal import TerminalProgress

    with TerminalProgress(console, experiment.spec.vms) as progress:
        unsubscribe = experiment.journal.subscribe(progress.take)
        try:
            yield
        finally:
            unsubscribe()


def _print(console: Console, line: str) -> None:
    """Print a line with the time, which the log of a batch job would not show otherwise."""
    now = datetime.now().astimezone()
    console.print(f"{now:%H:%M:%S} {line}", markup=False, highlight=False, soft_wrap=True)
