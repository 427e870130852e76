"""``start="first"`` against every minute of its time: what it gives is allowed, and no earlier minute is."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from g5kvirt.inventory import Host
from g5kvirt.planning.availability import Calendar, SiteCalendar, shortage
from g5kvirt.planning.periods import closed_times, is_working
from g5kvirt.spec.clock import PARIS, oar_date
from g5kvirt.testbeds.base import ReservationRequest
from g5kvirt.testbeds.grid5000 import charter, scheduling

pytest.importorskip("execo_g5k", reason="execo is not installed")

HOSTS = [Host(f"a-{n}", "nancy", "a", 4, 1) for n in range(3)]
MINUTE, HOUR = 60, 3600
#: Around holidays (All Saints, Armistice, Christmas, 14 July) and both changes of the clocks.
EVENINGS = ["2026-10-23", "2026-10-25", "2026-10-30", "2026-11-10", "2026-12-24", "2026-03-27", "2026-07-13"]
WORKING = is_working


class Testbed:
    """Three machines at Nancy, busy at times."""

    __test__ = False

    def __init__(self, start: float, busy: Sequence[Sequence[tuple[float, float]]], job_types: Any) -> None:
        end = start + 3 * 24 * HOUR
        closed = closed_times(job_types, start, end + 3 * 24 * HOUR, WORKING)
        site = SiteCalendar({host.name: own for host, own in zip(HOSTS, busy, strict=True)})
        self.whole = Calendar(start, end, {"nancy": site}, closed)

    def hosts(self) -> Mapping[str, Sequence[Host]]:
        return {"nancy": HOSTS}

    def select(self, properties: str, sites: Sequence[str]) -> Mapping[str, Collection[str]]:
        raise AssertionError

    def calendar(self, *_: Any, **__: Any) -> Calendar:
        return self.whole


minutes = st.integers(0, 3 * 24 * 60)
intervals = st.lists(st.tuples(minutes, st.integers(1, 600)), max_size=3)


def find(
    patch: pytest.MonkeyPatch, now: float, request: ReservationRequest, busy: Any, used: float
) -> tuple[Testbed, float | None]:
    testbed = Testbed(now, busy, request.job_types)
    day = datetime.fromtimestamp(now, PARIS).date()
    patch.setattr(time, "time", lambda: now)
    patch.setattr(charter, "usage_by_day", lambda *_: {"a": {day: used * HOUR}})
    patch.setattr(charter, "user_jobs", lambda *_: [])
    return testbed, scheduling.first_start(testbed, request, "jdoe")


def allowed(testbed: Testbed, request: ReservationRequest, now: float, used: float, t: float) -> bool:
    """The rules of the charter, of the job types and of the machines, each in its own words."""
    if shortage(
        testbed.whole.sites["nancy"], scheduling.Need(request.machines["nancy"]), t, request.walltime
    ):
        return False
    if t > now and oar_date(t) in (oar_date(t - HOUR), oar_date(t + HOUR)):
        return False  # what date would OAR be given?
    begin, end = (datetime.fromtimestamp(x, PARIS) for x in (t, t + request.walltime))
    inside = 0.0  # seconds of charter time of the first day
    day = begin.date()
    while day <= end.date():
        nine, seven = (datetime(day.year, day.month, day.day, h, tzinfo=PARIS).timestamp() for h in (9, 19))
        if WORKING(day):
            seconds = max(0.0, min(t + request.walltime, seven) - max(t, nine))
            if t < nine < t + request.walltime:
                return False
            if t < seven < t + request.walltime and now < seven - 2 * HOUR:
                return False
            today = day == datetime.fromtimestamp(now, PARIS).date()
            already = used * HOUR if today else 0.0
            cores = 4 * request.machines["nancy"]
            if seconds and already + cores * seconds > 2 * HOUR * 12:
                return False
            if seconds and "night" in request.job_types:
                return False
            inside += seconds
        day += timedelta(days=1)
    return "day" not in request.job_types or inside >= request.walltime


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(
    st.sampled_from(EVENINGS),
    st.integers(0, 48 * 60),
    st.tuples(intervals, intervals, intervals),
    st.integers(1, 3),
    st.integers(5, 14 * 60),
    st.sampled_from([(), ("day",), ("night",)]),
    st.integers(0, 24),
)
def test_the_first_slot_is_allowed_and_none_before_it(
    day: str, late: int, spans: Any, machines: int, length: int, job_types: tuple[str, ...], used: int
) -> None:
    now = datetime.fromisoformat(day).replace(tzinfo=PARIS).timestamp() + late * MINUTE
    busy = [[(now + a * MINUTE, now + (a + b) * MINUTE) for a, b in own] for own in spans]
    request = ReservationRequest(
        {"nancy": machines}, {}, length * MINUTE, "run", start="first", job_types=job_types
    )
    with pytest.MonkeyPatch.context() as patch:
        testbed, found = find(patch, now, request, busy, used)
        last = testbed.whole.end if found is None else found
        t = now
        while t < last - MINUTE / 2:
            assert not allowed(testbed, request, now, used, t), datetime.fromtimestamp(t, PARIS)
            t += MINUTE
        assert found is None or allowed(testbed, request, now, used, found)


def test_a_job_that_may_run_into_the_evening_starts_when_the_quota_allows() -> None:
    now = datetime(2026, 11, 16, 17, 30, tzinfo=PARIS).timestamp()
    request = ReservationRequest({"nancy": 3}, {}, 4 * HOUR, "run", start="first")
    with pytest.MonkeyPatch.context() as patch:
        _, found = find(patch, now, request, [[], [], []], used=15)  # 9 of 24 core-hours are left: 45 minutes
    assert found == now + 45 * MINUTE


@pytest.mark.parametrize("user", ["jdoe", None])
@pytest.mark.parametrize("minutes", [30, 90])
def test_a_slot_begins_in_no_hour_that_comes_twice(minutes: int, user: str | None) -> None:
    two = datetime(2026, 10, 25, 2, tzinfo=PARIS).timestamp()
    now = two - HOUR
    request = ReservationRequest({"nancy": 1}, {}, HOUR, "run", start="first")
    with pytest.MonkeyPatch.context() as patch:
        testbed, _ = find(patch, now, request, [[(now, two + minutes * MINUTE)]] * 3, used=0)
        assert scheduling.first_start(testbed, request, user) == two + 2 * HOUR


@pytest.mark.parametrize(("types", "hour"), [((), 8), (("night",), 18), (("day",), 8)])
def test_a_slot_that_begins_at_once_but_must_not_begin_now_has_a_date(
    types: tuple[str, ...], hour: int
) -> None:
    now = datetime(2026, 11, 16, hour, 59, 30, tzinfo=PARIS).timestamp()
    request = ReservationRequest({"nancy": 1}, {}, HOUR, "run", start="first", job_types=types)
    with pytest.MonkeyPatch.context() as patch:
        testbed, _ = find(patch, now, request, [[], [], []], used=0)
        assert scheduling.reservation_date(testbed, request, "jdoe") == now + 30
