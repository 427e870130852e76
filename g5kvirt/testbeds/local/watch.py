"""What the daemon does of its own accord: clean nodes when their job is over, start reservations in time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from g5kvirt.errors import TestbedError
from g5kvirt.testbeds.local.machines import Machines
from g5kvirt.testbeds.local.model import Description
from g5kvirt.testbeds.local.oardb import Database

__all__ = ["Owner", "due", "sort_out", "watch"]

INTERVAL = 0.6  #: seconds between two looks at a site's jobs
_INSIST = 20.0  #: seconds for which a reservation that has not started is asked for
_PAUSE = 10.0  #: seconds before a node that could not be cleaned is tried again

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Owner:
    """The job that held a node after its latest deployment."""

    job: int
    generation: int


def sort_out(
    dirty: Mapping[str, int], owners: Mapping[str, Owner], active: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, Owner]]:
    """Which nodes to clean, and who owns the others.

    ``dirty``: node → number of its latest deployment; ``active``: node → job that has it now. A node is to be
    cleaned when no job has it, or another one than the one that had it after its latest deployment.
    """
    clean: dict[str, int] = {}
    kept: dict[str, Owner] = {}
    for node, generation in dirty.items():
        job = active.get(node)
        owner = owners.get(node)
        if owner is not None and owner.generation != generation:
            owner = None  # deployed since: the one who has it now did that
        if job is None or (owner is not None and owner.job != job):
            clean[node] = generation
        else:
            kept[node] = owner or Owner(job, generation)
    return clean, kept


def due(starts: Iterable[float], now: float) -> bool:
    """Should a reservation have started a moment ago?"""
    return any(start <= now < start + _INSIST for start in starts)


def watch(
    site: str,
    description: Description,
    database: Database,
    machines: Machines,
    ask_scheduling: Callable[[], None],
    going: Callable[[], bool],
) -> None:
    """Look at ``site``'s jobs as long as it is ``going``; a thread's main function."""
    owners: dict[str, Owner] = {}
    failed: dict[str, float] = {}
    while going():
        time.sleep(INTERVAL)
        try:
            if due(database.reservation_starts(), time.time()):
                ask_scheduling()
            dirty = machines.dirty(site)
            if not dirty:
                continue
            active = {node: job.id for job in database.active_jobs() for node in job.held.nodes}
            clean, owners = sort_out(dirty, owners, active)
        except (TestbedError, OSError) as error:
            log.warning("%s: %s", site, error)
            continue
        for name, generation in clean.items():
            if time.monotonic() < failed.get(name, 0):
                continue
            try:
                machines.clean(description.node(name), generation)
                log.info("%s: cleaned", name)
            except (TestbedError, OSError) as error:
                failed[name] = time.monotonic() + _PAUSE
                log.warning("%s: not cleaned: %s", name, error)
