"""Periodic work of the daemon: clean nodes after the end of their job, start reservations in time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from g5kvirt.errors import TestbedError
from g5kvirt.testbeds.described.model import Description
from g5kvirt.testbeds.local.machines import Machines
from g5kvirt.testbeds.local.oardb import Database

__all__ = ["Owner", "plan_cleanup", "reservation_due", "watch_site"]

INTERVAL = 0.6  #: seconds between two queries of a site's jobs
_TRIGGER_SECONDS = 20.0  #: seconds for which scheduling is triggered for a due reservation
_RETRY_DELAY = 10.0  #: seconds before cleaning a node is retried

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Owner:
    """The job that had a node after its latest deployment."""

    job: int
    generation: int


def plan_cleanup(
    dirty: Mapping[str, int], owners: Mapping[str, Owner], active: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, Owner]]:
    """The nodes to clean, and the owners of the others.

    ``dirty``: node → number of its latest deployment; ``active``: node → job that has it now. A node has to
    be cleaned if no job has it, or a different job than after its latest deployment.
    """
    clean: dict[str, int] = {}
    kept: dict[str, Owner] = {}
    for node, generation in dirty.items():
        job = active.get(node)
        owner = owners.get(node)
        if owner is not None and owner.generation != generation:
            owner = None  # deployed since then, by the job that has it now
        if job is None or (owner is not None and owner.job != job):
            clean[node] = generation
        else:
            kept[node] = owner or Owner(job, generation)
    return clean, kept


def reservation_due(starts: Iterable[float], now: float) -> bool:
    """Whether a reservation should have started just now."""
    return any(start <= now < start + _TRIGGER_SECONDS for start in starts)


def watch_site(
    site: str,
    description: Description,
    database: Database,
    machines: Machines,
    trigger_scheduling: Callable[[], None],
    is_running: Callable[[], bool],
) -> None:
    """Watch the jobs of ``site`` while ``is_running()``; the main function of a thread.

    It must not end earlier: without it no node is cleaned and no reservation begins in time. An error that
    nobody expects costs one round, and is in the daemon's log.
    """
    owners: dict[str, Owner] = {}
    failed: dict[str, float] = {}
    while is_running():
        time.sleep(INTERVAL)
        try:
            if reservation_due(database.reservation_starts(), time.time()):
                trigger_scheduling()
            dirty = machines.dirty(site)
            if not dirty:
                continue
            clean, owners = plan_cleanup(dirty, owners, database.active_nodes())
        except (TestbedError, OSError) as error:
            log.warning("%s: %s", site, error)
            continue
        except Exception:
            log.exception("%s: watching its jobs failed; trying again", site)
            continue
        for name, generation in clean.items():
            if time.monotonic() < failed.get(name, 0):
                continue
            try:
                machines.clean(description.node(name), generation)
                log.info("%s: cleaned", name)
            except (TestbedError, OSError) as error:
                failed[name] = time.monotonic() + _RETRY_DELAY
                log.warning("%s: cleaning failed: %s", name, error)
            except Exception:
                failed[name] = time.monotonic() + _RETRY_DELAY
                log.exception("%s: cleaning failed", name)
