"""The usage policy's two kinds of time, and the job types that keep to one of them. Pure.

Charter time is from 9 to 19 o'clock in Paris on working days. OAR runs jobs of the type ``day`` in it and
those of the type ``night`` outside of it, in nights, at weekends and on holidays, never across its ends.

French holidays are computed here, as they are read where execo cannot be imported (in threads of the
local testbed); a test compares them with execo's.

Source: https://www.grid5000.fr/w/Grid5000:UsagePolicy for the times. For the types: what EnOSlib's
documentation and users' scripts have them do (``-t night`` with walltimes of 13:55 and of 61:30); how OAR
itself words it is not public.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from datetime import date, datetime, timedelta
from datetime import time as clock_time
from functools import cache

from dateutil.easter import easter

from g5kvirt.spec.clock import PARIS

__all__ = [
    "DAY_BEGINS",
    "DAY_ENDS",
    "Working",
    "closed_times",
    "days",
    "french_holidays",
    "hours",
    "is_working",
]

DAY_BEGINS, DAY_ENDS = 9, 19  #: hours in Paris

Working = Callable[[date], bool]

_FIXED = ((1, 1), (5, 1), (5, 8), (7, 14), (8, 15), (11, 1), (11, 11), (12, 25))  #: month, day
_AFTER_EASTER = (1, 39, 50)  #: days: Easter Monday, Ascension, Whit Monday


@cache
def french_holidays(year: int) -> frozenset[date]:
    """The public holidays of a year."""
    movable = (easter(year) + timedelta(days=number) for number in _AFTER_EASTER)
    return frozenset((*(date(year, month, day) for month, day in _FIXED), *movable))


def is_working(day: date) -> bool:
    """Whether a day has charter time: Monday to Friday, no holiday in France."""
    return day.weekday() < 5 and day not in french_holidays(day.year)


def hours(day: date) -> tuple[float, float]:
    """When charter time begins and ends on a day, in seconds since the epoch."""
    ends = [datetime.combine(day, clock_time(hour), PARIS).timestamp() for hour in (DAY_BEGINS, DAY_ENDS)]
    return ends[0], ends[1]


def days(start: float, end: float) -> Iterator[date]:
    """The days in Paris from one time to another."""
    day = datetime.fromtimestamp(start, PARIS).date()
    while day <= datetime.fromtimestamp(end, PARIS).date():
        yield day
        day += timedelta(days=1)


def closed_times(
    job_types: Collection[str], start: float, end: float, working: Working
) -> list[tuple[float, float]]:
    """The intervals between two times in which no job of these types may run; none for other types."""
    charter = [hours(day) for day in days(start, end) if working(day)]
    if "night" in job_types:
        return charter
    if "day" not in job_types:
        return []
    edges = [start, *(edge for period in charter for edge in period), end]
    gaps = zip(edges[::2], edges[1::2], strict=True)
    return [(begin, over) for begin, over in gaps if begin < over]
