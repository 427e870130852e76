"""Machines held by the user's other runs, to explain why a reservation fails for lack of machines."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from g5kvirt.context import Context
from g5kvirt.errors import G5kvirtError, TestbedError
from g5kvirt.run.directory import Run, list_runs
from g5kvirt.run.journal import read_events
from g5kvirt.run.state import RunState

__all__ = ["explained", "holding"]

#: Runs that are looked at, the latest ones: a journal may have a million lines.
MOST_RUNS = 20


def explained(context: Context, error: TestbedError) -> TestbedError:
    """The error of a reservation; if other runs beside this one hold machines there, its advice says so."""
    here = context.run
    others = holding(here.path.parent, here, context.spec.sites, time.time())
    if not others:
        return error
    names = ", ".join(repr(run.name) for run in others)
    first = f'release it (Experiment.open("{others[0].path}").release(), or g5kvirt release {others[0].name})'
    advice = f"{first}; {error.advice}" if error.advice else first
    runs = f"your run {names} holds" if len(others) == 1 else f"your runs {names} hold"
    return TestbedError(f"{error.message}; {runs} machines there", advice=advice)


def holding(folder: Path, own: Run, sites: Iterable[str], now: float) -> list[Run]:
    """The runs in a folder, other than ``own``, that hold machines of its testbed at one of these sites."""
    wanted, found = set(sites), []
    for run in list_runs(folder)[-MOST_RUNS:]:
        same = run.document.get("testbed") == own.document.get("testbed")
        if run.name == own.name or run.predicted or not same or not run.journal.exists():
            continue
        try:
            state = RunState.of(read_events(run.journal))
        except G5kvirtError:  # a damaged one is no reason to hide why the reservation failed
            continue
        granted = state.reservation
        over = granted is not None and now > granted.start + granted.walltime
        if not state.released and not over and wanted & {site for site, _ in state.jobs}:
            found.append(run)
    return found
