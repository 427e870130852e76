"""When jobs of the types day and night may run, and that the first slot is one of these times."""

from __future__ import annotations

from datetime import date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.planning.availability import Calendar, Need, SiteCalendar, candidate_starts, first_slot
from g5kvirt.planning.periods import closed_times, french_holidays, is_working
from g5kvirt.spec.clock import PARIS

HOLIDAY = date(2026, 12, 25)  # a Friday
HOUR = 3600.0


def working(day: date) -> bool:
    return day.weekday() < 5 and day != HOLIDAY


def at(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=PARIS).timestamp()


def first(job_type: str, now: str, hours: float, busy: float = 0.0) -> float | None:
    """The first start of a job, in the calendar of a site whose machine is taken for ``busy`` hours."""
    start = at(now)
    end = start + 28 * 24 * HOUR
    site = SiteCalendar({"a-1": [(0, start + busy * HOUR)] if busy else []})
    calendar = Calendar(start, end, {"s": site}, closed_times([job_type], start, 2 * end - start, working))
    return first_slot(calendar, {"s": Need(1)}, hours * HOUR)


@pytest.mark.parametrize(
    ("job_type", "now", "hours", "busy", "start"),
    [
        ("night", "2026-11-23 10:00", 3, 0, "2026-11-23 19:00"),  # a Monday
        ("night", "2026-11-23 10:00", 14, 0, "2026-11-23 19:00"),
        ("night", "2026-11-23 10:00", 14.1, 0, "2026-11-27 19:00"),  # longer than a night: the weekend
        ("night", "2026-11-23 10:00", 62, 0, "2026-11-27 19:00"),
        ("night", "2026-12-01 10:00", 62.1, 0, "2026-12-24 19:00"),  # the holiday makes it longer
        ("night", "2026-11-23 22:00", 3, 0, "2026-11-23 22:00"),
        ("night", "2026-11-23 08:00", 1, 0, "2026-11-23 08:00"),
        ("night", "2026-11-23 08:00", 1.1, 0, "2026-11-23 19:00"),
        ("night", "2026-11-28 14:00", 3, 0, "2026-11-28 14:00"),  # a Saturday
        ("night", "2026-11-23 10:00", 3, 11, "2026-11-23 21:00"),
        ("night", "2026-11-23 10:00", 90, 0, None),
        ("day", "2026-11-23 10:00", 3, 0, "2026-11-23 10:00"),
        ("day", "2026-11-23 17:00", 2, 0, "2026-11-23 17:00"),
        ("day", "2026-11-23 17:00", 2.1, 0, "2026-11-24 09:00"),
        ("day", "2026-11-27 17:00", 3, 0, "2026-11-30 09:00"),  # over the weekend
        ("day", "2026-11-28 12:00", 10, 0, "2026-11-30 09:00"),
        ("day", "2026-11-23 10:00", 10.1, 0, None),
        ("day", "2026-12-24 15:00", 5, 0, "2026-12-28 09:00"),  # a holiday is no day
        ("exotic", "2026-11-23 18:00", 20, 0, "2026-11-23 18:00"),
        ("destructive", "2026-11-23 18:00", 20, 0, "2026-11-23 18:00"),
    ],
)
def test_first_slot_is_one_in_which_the_type_may_run(
    job_type: str, now: str, hours: float, busy: float, start: str | None
) -> None:
    assert first(job_type, now, hours, busy) == (None if start is None else at(start))


@given(
    st.sampled_from(["day", "night"]),
    st.integers(0, 60 * 24 * 60),
    st.integers(5, 70 * 60),
)
def test_no_slot_touches_the_other_kind_of_time(job_type: str, minute: int, minutes: int) -> None:
    now = at("2026-10-01 00:00") + minute * 60  # the clocks change on 25 October
    site = SiteCalendar({"a-1": []})
    end = now + 28 * 24 * HOUR
    closed = closed_times([job_type], now, end + 28 * 24 * HOUR, working)
    calendar = Calendar(now, end, {"s": site}, closed)
    start = first_slot(calendar, {"s": Need(1)}, minutes * 60.0)
    if start is None:
        assert minutes > (600 if job_type == "day" else 62 * 60)
        return
    assert start >= now
    for moment in (start, start + minutes * 30.0, start + minutes * 60.0 - 1):
        there = datetime.fromtimestamp(moment, PARIS)
        charter = working(there.date()) and 9 <= there.hour < 19
        assert charter == (job_type == "day")
    assert start == now or start in candidate_starts(calendar)
    earlier = [t for t in candidate_starts(calendar) if t < start]
    assert not any(calendar.is_open(t, minutes * 60.0) for t in earlier)


def test_holidays_are_those_of_execo() -> None:
    theirs = pytest.importorskip("execo_g5k.charter", reason="execo is not installed")
    for year in range(2000, 2080):
        assert french_holidays(year) == theirs.french_holidays(year)
    assert is_working(date(2026, 11, 30))
    assert not is_working(date(2026, 4, 6)), "Easter Monday"


def test_other_types_are_never_closed_out() -> None:
    now = at("2026-11-23 10:00")
    assert closed_times(["exotic", "destructive"], now, now + 1e6, working) == []
    end = now + 3 * 24 * HOUR
    both = [closed_times([kind], now, end, working) for kind in ("day", "night")]
    edges = sorted(edge for closed in both for period in closed for edge in period)
    assert edges[0] == at("2026-11-23 09:00"), "the night's first day began before"
    assert {edges.count(edge) for edge in edges[1:-1]} <= {1, 2}
