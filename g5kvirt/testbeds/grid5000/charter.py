"""The usage charter: by day, no user takes more of a cluster than two hours of all its cores.

Between 9 and 19 o'clock in Paris on working days, a user's jobs on a cluster may add up to two hours times
all the cluster's cores, each day (https://www.grid5000.fr/w/Grid5000:UsagePolicy; execo_g5k.charter has the
same quota). Nights, weekends and French holidays are free, but a job must stay within one kind of time: it
must not cross 9 o'clock of a working day, nor 19 o'clock unless it is submitted after 17 o'clock of that day.
Other rules of the charter are not checked, nor is its exception for the shortest jobs.

What the user's jobs already use is read from the REST API: execo's own ``g5k_charter_remaining`` exists only
where psycopg2 does, and its ``get_next_charter_period`` mistakes the machine's time zone for that of Paris.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from g5kvirt.inventory import Host
from g5kvirt.planning.periods import DAY_BEGINS, DAY_ENDS, Working, closed_times, days, hours
from g5kvirt.spec.clock import PARIS
from g5kvirt.testbeds.grid5000 import api, documents
from g5kvirt.testbeds.grid5000.job_lists import cores_by_host, job_pages, resources_known

__all__ = [
    "QUOTA",
    "Breach",
    "JobUse",
    "Usage",
    "boundary_crossing",
    "breach",
    "day_edges",
    "day_seconds",
    "evening_starts",
    "type_breach",
    "usage_by_day",
    "user_jobs",
    "worst_case_cores",
]

QUOTA = 2 * 3600.0  #: seconds of all cores of a cluster, a day
EVENING = 2 * 3600.0  #: seconds before charter time ends from which on a job may be submitted that crosses it

Usage = Mapping[str, Mapping[date, float]]  #: cluster → day → core-seconds of charter time
JobUse = tuple[float, float, Mapping[str, int]]  #: what a job uses: from, to, cores on each cluster

_ACTIVE, _ENDED = "waiting,launching,running", "terminated,error"
#: seconds before the time in question in which a job that lies in it was submitted at the latest: OAR's
#: calendar is four weeks long, and so is the longest job
_MEMORY = 60 * 86400.0


@dataclass(frozen=True)
class Breach:
    """What rule of the charter a job would break, and what to do about it."""

    message: str
    advice: str


def day_seconds(start: float, end: float, working: Working) -> dict[date, float]:
    """How many seconds from ``start`` to ``end`` are charter time, for each day that has some."""
    found = {}
    for day in days(start, end):
        begins, ends = hours(day)
        inside = min(end, ends) - max(start, begins)
        if inside > 0 and working(day):
            found[day] = inside
    return found


def day_edges(start: float, end: float, working: Working) -> list[float]:
    """When charter time begins and ends, between two times: candidates for the start of a job."""
    return [t for day in days(start, end) if working(day) for t in hours(day) if start < t < end]


def evening_starts(
    needed: Mapping[str, int],
    cores: Mapping[str, int],
    used: Usage,
    start: float,
    end: float,
    working: Working,
) -> list[float]:
    """When what is left of a day's quota is enough until the evening, between two times.

    Of a job that may run into the evening, only its time before that counts: it may start then, though
    nothing becomes free at that time. The other arguments are those of `breach`.
    """
    found = []
    for day in filter(working, days(start, end)):
        begins, ends = hours(day)
        lefts = (
            (QUOTA * cores[cluster] - used.get(cluster, {}).get(day, 0.0)) / number
            for cluster, number in needed.items()
        )
        t = ends - math.floor(min(lefts, default=0.0))
        if max(start, begins) < t < min(end, ends):
            found.append(t)
    return found


def boundary_crossing(start: float, walltime: float, submitted: float, working: Working) -> Breach | None:
    """Whether a job would cross a time at which charter time begins or ends, where it must not.

    :param submitted: when it is submitted, in seconds since the epoch.
    """
    for day in days(start, start + walltime):
        begins, ends = hours(day)
        if not working(day):
            continue
        if start < begins < start + walltime:
            return Breach(
                f"the usage charter does not allow a job to run across {DAY_BEGINS} o'clock of a working day,"
                f" as this one would on {day}",
                f"request at most {(begins - start) // 60:.0f} minutes, or start at {DAY_BEGINS} or after"
                f" {DAY_ENDS} o'clock",
            )
        if start < ends < start + walltime and submitted < ends - EVENING:
            return Breach(
                f"the usage charter does not allow a job to run across {DAY_ENDS} o'clock of a working day,"
                f" as this one would on {day}, if it is submitted before"
                f" {DAY_ENDS - round(EVENING / 3600)} o'clock",
                f"request at most {(ends - start) // 60:.0f} minutes, or start at {DAY_ENDS} o'clock",
            )
    return None


def type_breach(job_types: Collection[str], start: float, walltime: float, working: Working) -> Breach | None:
    """Whether OAR would not run a job of these types from ``start`` on for ``walltime`` seconds."""
    end = start + walltime
    closed = next(
        (t for t in closed_times(job_types, start, end, working) if t[0] < end and start < t[1]), None
    )
    if closed is None:
        return None
    between = f"between {DAY_BEGINS} and {DAY_ENDS} o'clock"
    on = datetime.fromtimestamp(max(start, closed[0]), PARIS).date()
    if "night" in job_types:
        message = (
            f"a job of the type night must not run {between} of a working day, as this one would on {on}"
        )
    else:
        message = (
            f"a job of the type day must run {between} of one working day, and this one would not on {on}"
        )
    return Breach(
        message, 'let start="first" find the first slot that fits, or leave the type out of job_types'
    )


def usage_by_day(jobs: Iterable[JobUse], working: Working) -> dict[str, dict[date, float]]:
    """What jobs use: cluster → day → core-seconds of charter time."""
    used: dict[str, dict[date, float]] = {}
    for start, end, cores in jobs:
        for day, seconds in day_seconds(start, end, working).items():
            for cluster, number in cores.items():
                own = used.setdefault(cluster, {})
                own[day] = own.get(day, 0.0) + number * seconds
    return used


def worst_case_cores(
    hosts: Iterable[Host], machines: int, cluster: str | None
) -> tuple[dict[str, int], dict[str, int]]:
    """(cores that a job may use on each cluster, all cores of each cluster), before its machines are known.

    OAR chooses the machines: without a ``cluster`` all of them may come from any one.
    """
    own: dict[str, list[int]] = {}
    for host in hosts:
        if cluster in (None, host.cluster):
            own.setdefault(host.cluster, []).append(host.cores)
    needed = {name: sum(sorted(cores, reverse=True)[:machines]) for name, cores in own.items()}
    return needed, {name: sum(cores) for name, cores in own.items()}


def breach(
    site: str,
    needed: Mapping[str, int],
    cores: Mapping[str, int],
    start: float,
    walltime: float,
    used: Usage,
    working: Working,
) -> Breach | None:
    """Whether a job would exceed the quota of a cluster.

    :param needed: cluster → cores that the job uses there, if OAR chooses its machines on that cluster.
    :param cores: cluster → all its cores.
    :param used: what the user's other jobs use.
    """
    for day, seconds in day_seconds(start, start + walltime, working).items():
        for cluster, number in needed.items():
            quota = QUOTA * cores[cluster]
            already = used.get(cluster, {}).get(day, 0.0)
            if already + number * seconds > quota:
                left = max(0.0, quota - already) / number
                hours = [round(amount / 3600) for amount in (quota, already, number * seconds)]
                return Breach(
                    f"the usage charter allows {hours[0]} core-hours of {site}'s cluster {cluster} by day"
                    f" ({DAY_BEGINS} to {DAY_ENDS} o'clock, working days); {hours[1]} are used on {day}, and"
                    f" this job could use {hours[2]}",
                    (f"request at most {left // 60:.0f} minutes there, " if left >= 60 else "")
                    + f"start after {DAY_ENDS} o'clock, or choose other or fewer machines",
                )
    return None


def user_jobs(site: str, user: str, start: float, end: float, hosts: Mapping[str, Host]) -> list[JobUse]:
    """What the user's jobs at a site use that overlap the time from ``start`` to ``end``, by its REST API.

    ``hosts``: all of the site's machines by name. Raises TestbedError.
    """
    found: list[JobUse] = []
    all_cores = {name: host.cores for name, host in hosts.items()}
    for item in _listed(site, user, start):
        begin = float(item.get("started_at") or item.get("scheduled_at") or 0)
        over = float(item.get("stopped_at") or begin + float(item.get("walltime") or 0))
        if item.get("queue") == "besteffort" or not begin or over <= start or begin >= end:
            continue
        job = item if resources_known(item) else _described(f"/sites/{site}/jobs/{item['uid']}")
        cores: dict[str, int] = {}
        for name, number in cores_by_host(job, all_cores).items():
            if name in hosts:
                cores[hosts[name].cluster] = cores.get(hosts[name].cluster, 0) + number
        found.append((begin, over, cores))
    return found


def _described(path: str) -> Mapping[str, Any]:
    document = api.get(path)
    return api.read(path, lambda: documents.check_job(document))


def _listed(site: str, user: str, start: float) -> Iterator[Mapping[str, Any]]:
    """The user's jobs, newest first; of those that have ended only those that can lie after ``start``."""
    active = [job for page in job_pages(api.get, site, {"user": user, "state": _ACTIVE}) for job in page]
    yield from active
    listed = {job["uid"] for job in active}
    for page in job_pages(api.get, site, {"user": user, "state": _ENDED}):
        yield from (job for job in page if job["uid"] not in listed)  # it has ended just now
        if all(float(item.get("submitted_at") or start) < start - _MEMORY for item in page):
            return
