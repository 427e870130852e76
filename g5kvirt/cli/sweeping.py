"""``g5kvirt sweep``: what it prints, and how a sweep's progress is shown."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from g5kvirt.views.words import count

if TYPE_CHECKING:
    from g5kvirt.experiment import Experiment
    from g5kvirt.sweeps import Sweep

__all__ = ["sweep"]


def sweep(arguments: argparse.Namespace) -> int:
    """Measure every combination that is not done yet."""
    from g5kvirt import sweeps

    console = Console()
    asked = sweeps.load(arguments.sweep, arguments.testbed)
    folder = sweeps.folder_of(asked, arguments.runs)
    done = sweeps.finished(asked, folder)
    if arguments.dry_run:
        console = console if console.is_terminal else Console(width=200)
        console.print(_table(asked, done))
    _say(console, _summary(asked, done))
    if arguments.dry_run:
        return 0
    account = sweeps.carry_out(
        asked, folder, say=lambda words: _say(console, words), follow=lambda one: _follow(console, one)
    )
    words = f"{account.done:,} of {count(len(asked.combinations), 'combination')} done"
    if account.left:
        words += f", {account.failed:,} failed: call this again to try them again"
    _say(console, words)
    console.print(f"index    {folder / sweeps.INDEX}", markup=False, highlight=False, soft_wrap=True)
    return 1 if account.left else 0


def _table(asked: Sweep, done: set[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("cluster", *asked.factors, "deployments", "state"):
        table.add_column(title, justify="right" if title in ("cluster", "deployments") else "left")
    for number, cluster in enumerate(asked.clusters, 1):
        for one in cluster:
            levels = [str(level) for level in one.levels.values()]
            state = "done" if one.key in done else "to do"
            table.add_row(str(number), *levels, str(one.deployments or "launch"), state)
    return table


def _summary(asked: Sweep, done: set[str]) -> str:
    left = [[c for c in cluster if c.key not in done] for cluster in asked.clusters]
    left = [cluster for cluster in left if cluster]
    todo = [one for cluster in left for one in cluster]
    words = (
        f"sweep {asked.name} on {asked.testbed}: {count(len(asked.combinations), 'combination')} on "
        f"{count(len(asked.clusters), 'virtual cluster')}"
    )
    if done:
        words += f", {len(done):,} done already"
    if todo:
        deployments = count(sum(one.deployments for one in todo), "deployment")
        words += f"; to do: {len(todo):,} on {count(len(left), 'virtual cluster')}, {deployments}"
    return words


@contextmanager
def _follow(console: Console, experiment: Experiment) -> Iterator[None]:
    from g5kvirt.views.terminal import TerminalProgress

    with TerminalProgress(console, experiment.spec.vms) as progress:
        unsubscribe = experiment.journal.subscribe(progress.take)
        try:
            yield
        finally:
            unsubscribe()


def _say(console: Console, words: str) -> None:
    """With the time: in a batch job's log nothing else tells it."""
    now = datetime.now().astimezone()
    console.print(f"{now:%H:%M:%S} {words}", markup=False, highlight=False, soft_wrap=True)
