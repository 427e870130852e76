"""Times as users write them: walltimes and starts of reservations."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from numbers import Integral
from zoneinfo import ZoneInfo

from g5kvirt.errors import SpecError
from g5kvirt.spec.fields import LONGEST, show

__all__ = [
    "MIN_WALLTIME",
    "PARIS",
    "check_start",
    "format_walltime",
    "is_doubled",
    "oar_date",
    "oar_seconds",
    "parse_extension",
    "parse_start",
    "parse_walltime",
    "start_seconds",
]

MIN_WALLTIME = 300  #: seconds; a shorter job ends before its hosts are deployed
MIN_EXTENSION = 60  #: seconds

PARIS = ZoneInfo("Europe/Paris")  #: the time zone of all of Grid'5000's frontends

_CLOCK = re.compile(r"([0-9]{1,5}):([0-5][0-9])(?::([0-5][0-9]))?")


def parse_walltime(value: object) -> int:
    """Seconds from ``"H:MM:SS"``, ``"HH:MM"`` or a whole number of seconds.

    Raises SpecError if it cannot be read, is shorter than `MIN_WALLTIME` or longer than a year.
    """
    total = _clock_seconds(value, "walltime")
    if total < MIN_WALLTIME:
        raise SpecError(
            f"walltime {show(value)} is too short ({show(total)} s)",
            advice=f"give at least {MIN_WALLTIME} s, because the hosts are deployed within it",
        )
    return _at_most_a_year(total, value, "walltime")


def parse_extension(value: object) -> int:
    """Seconds by which a walltime is to be extended, written as `parse_walltime` reads it.

    Raises SpecError if it cannot be read, is shorter than a minute or longer than a year.
    """
    total = _clock_seconds(value, "extension")
    if total < MIN_EXTENSION:
        raise SpecError(
            f"extension {show(value)} is too short ({show(total)} s)",
            advice="give at least a minute; a walltime can only be extended",
        )
    return _at_most_a_year(total, value, "extension")


def _clock_seconds(value: object, what: str) -> int:
    if isinstance(value, str) and (found := _CLOCK.fullmatch(value.strip())):
        hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return hours * 3600 + minutes * 60 + seconds
    if not isinstance(value, bool) and isinstance(value, Integral):
        return int(value)
    raise SpecError(
        f"{what} {show(value)} cannot be read",
        advice="write hours:minutes:seconds such as '1:30:00', hours:minutes, or a whole number of seconds",
    )


def _at_most_a_year(total: int, value: object, what: str) -> int:
    if total > LONGEST:
        raise SpecError(f"{what} {show(value)} is too long", advice="give at most a year (8784:00:00)")
    return total


def format_walltime(seconds: int) -> str:
    """``3600`` → ``"1:00:00"``, as OAR reads it."""
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def parse_start(value: object) -> str:
    """``"now"``, ``"first"``, or a date such as ``"2026-12-01 19:00"``, which comes back with its seconds.

    Raises SpecError if it cannot be read. A date in the past is refused when a run begins, by `check_start`.
    """
    if isinstance(value, str) and value in ("now", "first"):
        return str(value)
    moment = value if isinstance(value, datetime) else None
    if isinstance(value, str):
        for form in ("%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S"):
            try:
                moment = datetime.strptime(value.strip(), form)
            except ValueError:
                continue
    if moment is None or not 1980 < moment.year < 2200:
        raise SpecError(
            f"start {show(value)} cannot be read",
            advice="write 'now', 'first' (the first slot common to all sites),"
            " or a date and time in Paris such as '2026-12-01 19:00'",
        )
    if moment.tzinfo is not None:
        moment = moment.astimezone(PARIS)
    _check_unique(moment.replace(tzinfo=None))
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _check_unique(moment: datetime) -> None:
    """Raises SpecError for a time that the change of the clocks doubles or skips: OAR has no other clock."""
    first, second = (moment.replace(tzinfo=PARIS, fold=fold) for fold in (0, 1))
    if first.utcoffset() == second.utcoffset():
        return
    there = first.astimezone(UTC).astimezone(PARIS).replace(tzinfo=None) == moment
    problem = "occurs twice that night" if there else "does not occur that night"
    raise SpecError(
        f"start {moment:%Y-%m-%d %H:%M} {problem}, since the clocks are changed in Paris",
        advice="give a time before or after that hour",
    )


def is_doubled(t: float) -> bool:
    """Whether the clocks of Paris show a time (seconds since the epoch) twice, as they are changed."""
    there = datetime.fromtimestamp(t, PARIS)
    return there.replace(fold=0).utcoffset() != there.replace(fold=1).utcoffset()


def start_seconds(start: str) -> float | None:
    """Seconds since the epoch of a date that `parse_start` gave; None for "now" and "first"."""
    if start in ("now", "first"):
        return None
    return datetime.strptime(start, "%Y-%m-%d %H:%M:%S").replace(tzinfo=PARIS).timestamp()


def oar_date(t: float) -> str:
    """A time (seconds since the epoch) as OAR's commands read and print it: local time in Paris."""
    return datetime.fromtimestamp(int(t), PARIS).strftime("%Y-%m-%d %H:%M:%S")


def oar_seconds(date: str) -> float | None:
    """The reverse: seconds since the epoch of a date that OAR printed; None if it is none."""
    try:
        return datetime.strptime(date, "%Y-%m-%d %H:%M:%S").replace(tzinfo=PARIS).timestamp()
    except ValueError:
        return None


def check_start(start: float | None) -> None:
    """Raises SpecError for a start in the past."""
    now = time.time()
    if start is not None and start < now:
        raise SpecError(
            f"the start {oar_date(start)} in Paris is in the past (it is {oar_date(now)} there now)",
            advice='give a later one, or "now" or "first"',
        )
