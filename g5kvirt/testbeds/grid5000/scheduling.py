"""The start of a request: now, at a date, or the first slot that all sites and the usage charter allow."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from datetime import time as clock_time
from typing import Protocol

from g5kvirt.errors import TestbedError
from g5kvirt.inventory import Host, Reservation
from g5kvirt.planning.availability import Calendar, Need, candidate_starts, first_slot, shortage
from g5kvirt.planning.periods import Working, days, is_working
from g5kvirt.run.printable import short
from g5kvirt.spec.clock import PARIS, check_start, format_walltime, is_doubled
from g5kvirt.testbeds.base import ReservationRequest
from g5kvirt.testbeds.grid5000 import charter
from g5kvirt.testbeds.grid5000.calendar import HORIZON
from g5kvirt.testbeds.parallel import for_each

__all__ = [
    "SchedulingSource",
    "charter_check",
    "check_extension",
    "first_start",
    "reservation_date",
    "types_breach",
]

_AT_ONCE = 60.0  #: seconds: a slot that begins within them is requested without a date
_DAY = 86400.0


class SchedulingSource(Protocol):
    """What scheduling reads of a testbed; see `g5kvirt.testbeds.base.Testbed`."""

    def hosts(self) -> Mapping[str, Sequence[Host]]: ...
    def select(self, properties: str, sites: Sequence[str]) -> Mapping[str, Collection[str]]: ...
    def calendar(
        self, sites: Sequence[str], queue: str | None = None, job_types: Collection[str] = ()
    ) -> Calendar: ...


# In all of these, ``user`` is the login whose use of the charter counts; None: there is no charter.


def reservation_date(
    testbed: SchedulingSource, request: ReservationRequest, user: str | None
) -> float | None:
    """The start of an advance reservation; None: as soon as possible. Raises SpecError, TestbedError."""
    now = time.time()
    start: float | None = None
    if request.start == "first":
        calendar, needs = _calendar_and_needs(testbed, request)
        start = _first_start(testbed, request, user, calendar, needs)
        if start is None:
            raise _no_slot(calendar, needs, request)
        if start < now + _AT_ONCE and _may_begin(request, user, calendar, now):
            return None
        return math.ceil(start)
    if not isinstance(request.start, str):
        start = request.start
        check_start(start)
    if breach := types_breach(request, now):
        raise TestbedError(breach.message, advice=breach.advice)
    if user is not None:
        at = now if start is None else start
        if breach := charter_check(testbed.hosts(), request, user, at, at + request.walltime)(at):
            raise TestbedError(breach.message, advice=breach.advice)
    return start


def _may_begin(request: ReservationRequest, user: str | None, calendar: Calendar, now: float) -> bool:
    """Whether nothing but other jobs keeps the request's from starting already: OAR waits for those only."""
    if user is not None and charter.boundary_crossing(now, request.walltime, now, is_working):
        return False
    return calendar.is_open(now, request.walltime)


def types_breach(request: ReservationRequest, now: float) -> charter.Breach | None:
    """Whether OAR would not run jobs of the request's types when they are to start. "first" heeds that."""
    if not request.job_types or request.start == "first":
        return None
    start = now if isinstance(request.start, str) else request.start
    return charter.type_breach(request.job_types, start, request.walltime, is_working)


def first_start(testbed: SchedulingSource, request: ReservationRequest, user: str | None) -> float | None:
    """The first slot that the sites' calendars and the charter allow; None: there is none in their time."""
    return _first_start(testbed, request, user, *_calendar_and_needs(testbed, request))


def _calendar_and_needs(
    testbed: SchedulingSource, request: ReservationRequest
) -> tuple[Calendar, dict[str, Need]]:
    sites = list(request.machines)
    calendar = testbed.calendar(sites, request.queue, request.job_types)
    matching = testbed.select(request.properties, sites) if request.properties else {}
    hosts = testbed.hosts() if request.clusters else {}
    needs = {}
    for site, machines in request.machines.items():
        among: set[str] | None = None
        if site in request.clusters:
            among = {h.name for h in hosts[site] if h.cluster == request.clusters[site]}
        if site in matching:
            among = set(matching[site]) if among is None else among & set(matching[site])
        needs[site] = Need(machines, among, request.subnetworks.get(site), site == request.vlan_site)
    return calendar, needs


def _first_start(
    testbed: SchedulingSource,
    request: ReservationRequest,
    user: str | None,
    calendar: Calendar,
    needs: Mapping[str, Need],
) -> float | None:
    also = _ends_of_doubled_hours(calendar.start, calendar.end)
    if user is None:
        return first_slot(
            calendar, needs, request.walltime, allowed=lambda t: _has_a_date(t, calendar), also=also
        )
    hosts, working = testbed.hosts(), is_working
    used = _usage(
        hosts, list(request.machines), user, calendar.start, calendar.end + request.walltime, working
    )
    breach = _charter_rule(hosts, request, used, working)
    also += charter.day_edges(calendar.start, calendar.end, working)
    for site, (needed, cores) in _worst_cases(hosts, request).items():
        also += charter.evening_starts(needed, cores, used[site], calendar.start, calendar.end, working)
    return first_slot(
        calendar,
        needs,
        request.walltime,
        allowed=lambda t: _has_a_date(t, calendar) and not breach(t),
        also=also,
    )


def _has_a_date(t: float, calendar: Calendar) -> bool:
    """Whether OAR, which knows no other clock than that of Paris, can be given a time, or it is now."""
    return t <= calendar.start or not is_doubled(t)


def _ends_of_doubled_hours(start: float, end: float) -> list[float]:
    ends = [datetime.combine(day, clock_time(3), PARIS).timestamp() for day in days(start, end)]
    return [t for t in ends if start < t < end and is_doubled(t - 1)]


def _no_slot(calendar: Calendar, needs: Mapping[str, Need], request: ReservationRequest) -> TestbedError:
    walltime = request.walltime
    open_starts = [t for t in candidate_starts(calendar) if calendar.is_open(t, walltime)]
    if not open_starts:
        return TestbedError(
            f"within {HORIZON / _DAY:.0f} days there is no time in which a job of the types"
            f" {', '.join(request.job_types)} may run for {format_walltime(int(walltime))}",
            advice="request a shorter walltime, or leave day and night out of job_types",
        )
    last = open_starts[-1]
    missing = {site: shortage(calendar.sites[site], need, last, walltime) for site, need in needs.items()}
    shortages = "; ".join(f"{site}: {words}" for site, words in missing.items() if words)
    return TestbedError(
        f"within {HORIZON / _DAY:.0f} days there is no slot of {format_walltime(int(walltime))} in which all"
        f" sites can give what the request needs{f' ({shortages})' if shortages else ''}",
        advice="request fewer machines, a shorter walltime or other sites",
    )


def charter_check(
    hosts: Mapping[str, Sequence[Host]], request: ReservationRequest, user: str, since: float, until: float
) -> Callable[[float], charter.Breach | None]:
    """Gives for a start between the two times the rule of the charter that the request would break then.

    The user's other jobs are read once. Raises TestbedError if they cannot be.
    """
    working = is_working
    used = _usage(hosts, list(request.machines), user, since, until, working)
    return _charter_rule(hosts, request, used, working)


def _charter_rule(
    hosts: Mapping[str, Sequence[Host]],
    request: ReservationRequest,
    used: Mapping[str, charter.Usage],
    working: Working,
) -> Callable[[float], charter.Breach | None]:
    submitted = time.time()
    worst = _worst_cases(hosts, request)

    def breach(t: float) -> charter.Breach | None:
        if found := charter.boundary_crossing(t, request.walltime, submitted, working):
            return found
        for site, (needed, cores) in worst.items():
            if found := charter.breach(site, needed, cores, t, request.walltime, used[site], working):
                return found
        return None

    return breach


def _worst_cases(
    hosts: Mapping[str, Sequence[Host]], request: ReservationRequest
) -> dict[str, tuple[dict[str, int], dict[str, int]]]:
    """What `charter.worst_case_cores` gives for each site."""
    return {
        site: charter.worst_case_cores(hosts[site], machines, request.clusters.get(site))
        for site, machines in request.machines.items()
    }


def _usage(
    hosts: Mapping[str, Sequence[Host]],
    sites: Sequence[str],
    user: str,
    since: float,
    until: float,
    working: Working,
) -> dict[str, charter.Usage]:
    """What the user's jobs take of each site's quota between the two times. Raises TestbedError."""

    def used_at(site: str) -> charter.Usage:
        by_name = {h.name: h for h in hosts[site]}
        # The quota is that of a whole day, so the first and the last one count from morning to evening.
        return charter.usage_by_day(
            charter.user_jobs(site, user, since - _DAY, until + _DAY, by_name), working
        )

    try:
        return dict(zip(sites, for_each(used_at, sites), strict=True))
    except ValueError as error:
        raise TestbedError(
            f"the API's list of your jobs cannot be read ({short(str(error))})",
            advice="check your use of the usage charter's quota by hand (oarstat -u)",
        ) from error


def check_extension(
    testbed: SchedulingSource, reservation: Reservation, seconds: int, user: str | None
) -> None:
    """Raises TestbedError if ``seconds`` more walltime would break the usage charter.

    The job itself is among the user's jobs, as it is now: only what is added counts in addition.
    """
    if user is None:
        return
    hosts, working = testbed.hosts(), is_working
    end, whole = reservation.start + reservation.walltime, reservation.walltime + seconds
    found = charter.boundary_crossing(reservation.start, whole, time.time(), working)
    sites = list(reservation.jobs)
    used = {} if found else _usage(hosts, sites, user, end, end + seconds, working)
    for site in () if found else sites:
        own = Counter(
            host.cluster for host in reservation.hosts for _ in range(host.cores) if host.site == site
        )
        cores = Counter(host.cluster for host in hosts[site] for _ in range(host.cores))
        found = found or charter.breach(site, own, cores, end, seconds, used[site], working)
    if found:
        raise TestbedError(f"the walltime cannot be extended: {found.message}", advice="extend it by less")
