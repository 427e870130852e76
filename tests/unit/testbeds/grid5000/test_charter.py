"""The usage charter: two hours of all cores of a cluster, by day."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any
from urllib.parse import parse_qsl

import pytest

from g5kvirt.inventory import Host
from g5kvirt.planning.periods import is_working
from g5kvirt.spec.clock import PARIS
from g5kvirt.testbeds.grid5000.charter import (
    Breach,
    boundary_crossing,
    breach,
    day_edges,
    day_seconds,
    usage_by_day,
    user_jobs,
    worst_case_cores,
)

MONDAY = date(2026, 11, 23)


def at(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=PARIS).timestamp()


def working(day: date) -> bool:
    return day.weekday() < 5


def test_day_seconds_count_only_working_days() -> None:
    night = day_seconds(at("2026-11-22 19:00"), at("2026-11-23 09:00"), working)
    assert night == {}, "Sunday evening to Monday morning"
    assert day_seconds(at("2026-11-23 08:00"), at("2026-11-23 10:30"), working) == {MONDAY: 5400}
    both = day_seconds(at("2026-11-23 18:00"), at("2026-11-24 10:00"), working)
    assert list(both.values()) == [3600, 3600]
    assert day_seconds(at("2026-11-21 09:00"), at("2026-11-22 19:00"), working) == {}, "a weekend"


def test_day_seconds_are_in_paris_time_when_the_clocks_change() -> None:
    # on 30 March 2026, a Monday, summer time has just begun: nine o'clock is seven in UTC
    start = 1774854000.0
    assert day_seconds(start - 3600, start + 60, working) == {date(2026, 3, 30): 60}


def test_breach_depends_on_what_is_left_of_the_quota() -> None:
    needed, cores = {"graphene": 40}, {"graphene": 100}

    def found(start: str, hours: float, used: float = 0) -> Breach | None:
        return breach(
            "nancy", needed, cores, at(start), hours * 3600, {"graphene": {MONDAY: used * 3600}}, working
        )

    assert not found("2026-11-23 10:00", 5)  # 200 of 200 core-hours
    assert found("2026-11-23 10:00", 5.1)
    assert not found("2026-11-23 19:00", 14), "a night"
    assert not found("2026-11-22 10:00", 9), "a Sunday"
    assert not found("2026-11-23 10:00", 4, used=40)
    exceeded = found("2026-11-23 10:00", 4, used=41)
    assert exceeded
    assert "200 core-hours of nancy's cluster graphene by day" in exceeded.message
    assert "41 are used on 2026-11-23, and this job could use 160" in exceeded.message
    assert "request at most 238 minutes there, start after 19 o'clock" in exceeded.advice
    nothing_left = found("2026-11-23 10:00", 4, used=500)
    assert nothing_left
    assert "at most" not in nothing_left.advice
    # the day after counts, too
    assert not found("2026-11-23 18:00", 15.5 + 4.5, used=0)
    assert "2026-11-24" in str(found("2026-11-23 18:00", 15 + 5.1, used=0))


def test_worst_case_cores_on_any_cluster() -> None:
    hosts = [Host(f"a-{i}", "s", "a", 4, 1) for i in range(3)] + [Host("b-1", "s", "b", 16, 1)]
    assert worst_case_cores(hosts, 2, None) == ({"a": 8, "b": 16}, {"a": 12, "b": 16})
    assert worst_case_cores(hosts, 2, "a") == ({"a": 8}, {"a": 12})


def test_day_edges_are_morning_and_evening_of_working_days() -> None:
    edges = day_edges(at("2026-11-20 12:00"), at("2026-11-24 08:00"), working)
    assert edges == [at("2026-11-20 19:00"), at("2026-11-23 09:00"), at("2026-11-23 19:00")]


def test_jobs_must_not_cross_the_boundary_of_day_and_night() -> None:
    def found(start: str, hours: float, submitted: str = "2026-11-20 10:00") -> Breach | None:
        return boundary_crossing(at(start), hours * 3600, at(submitted), working)

    assert not found("2026-11-23 09:00", 10), "a day"
    assert not found("2026-11-23 19:00", 14), "a night"
    assert not found("2026-11-20 19:00", 62), "a weekend"
    assert "across 9 o'clock of a working day, as this one would on 2026-11-24" in str(
        found("2026-11-23 19:00", 14.1)
    )
    assert "request at most 30 minutes" in str(found("2026-11-23 08:30", 1))
    assert "across 19 o'clock" in str(found("2026-11-23 18:00", 2))
    assert "request at most 60 minutes" in str(found("2026-11-23 18:00", 2))
    assert "across 19 o'clock" in str(found("2026-11-23 18:00", 2, submitted="2026-11-23 16:59"))
    assert not found("2026-11-23 18:00", 2, submitted="2026-11-23 17:00")
    assert "on 2026-11-24" in str(found("2026-11-23 18:00", 16, submitted="2026-11-23 17:00"))


def test_usage_by_day_adds_up() -> None:
    jobs = [
        (at("2026-11-23 08:00"), at("2026-11-23 10:00"), {"a": 8, "b": 2}),
        (at("2026-11-23 18:00"), at("2026-11-24 09:30"), {"a": 4}),
    ]
    used = usage_by_day(jobs, working)
    assert used == {
        "a": {MONDAY: 8 * 3600 + 4 * 3600, date(2026, 11, 24): 4 * 1800},
        "b": {MONDAY: 2 * 3600},
    }


def api_of(
    monkeypatch: pytest.MonkeyPatch, jobs: list[dict[str, Any]], details: dict[str, Any] | None = None
) -> list[str]:
    """An API with these jobs, newest first, 500 at a time; returns the paths that it is asked for."""
    api_utils = pytest.importorskip("execo_g5k.api_utils", reason="execo is not installed")
    paths: list[str] = []

    def get(path: str) -> Any:
        paths.append(path)
        if "?" not in path:
            return (details or {})[path.rpartition("/")[2]]
        query = dict(parse_qsl(path.partition("?")[2]))
        found = [job for job in jobs if job.get("state", "running") in query["state"].split(",")]
        offset = int(query["offset"])
        return {"items": found[offset:][: min(500, int(query["limit"]))], "total": len(found)}

    monkeypatch.setattr(api_utils, "get_resource_attributes", get)
    return paths


HOSTS = {"a-1": Host("a-1", "s", "a", 4, 1), "b-1": Host("b-1", "s", "b", 8, 1)}


@pytest.mark.parametrize(
    "cores", [["a-1/0", "a-1/7", "b-1/0"], ["a-1", "a-1", "b-1"]], ids=["host/cpuset", "older: host"]
)
def test_user_jobs_reads_those_that_count(monkeypatch: pytest.MonkeyPatch, cores: list[str]) -> None:
    """A job that ran, one that waits, one of another day, some that do not count; as an older API lists."""
    day = at("2026-11-23 00:00")
    jobs: list[dict[str, Any]] = [
        {"uid": 5, "started_at": 0, "scheduled_at": None, "walltime": 3600, "queue": "default"},
        {"uid": 4, "started_at": day + 3600, "walltime": 3600, "queue": "besteffort"},
        {"uid": 3, "started_at": day - 90000, "stopped_at": day - 80000, "queue": "default"},
        {"uid": 2, "started_at": 0, "scheduled_at": day + 40000, "walltime": 3600, "queue": "default"},
        {"uid": 1, "started_at": day + 3600, "stopped_at": day + 7200, "walltime": 9000, "queue": "default"},
    ]
    details = {
        "1": {"resources_by_type": {"cores": cores}, "assigned_nodes": ["a-1", "b-1"]},
        "2": {"resources_by_type": {}, "assigned_nodes": ["a-1", "gone-1"]},
    }
    paths = api_of(monkeypatch, jobs, details)
    assert user_jobs("nancy", "jo doe", day, day + 86400, HOSTS) == [
        (day + 40000, day + 43600, {"a": 4}),
        (day + 3600, day + 7200, {"a": 2, "b": 1}),
    ]
    assert "user=jo+doe" in paths[0]
    assert len(paths) == 4  # two lists, two jobs


def test_user_jobs_pages_through_many_jobs_and_asks_for_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    day = at("2026-11-23 00:00")
    jobs = [
        {
            "uid": number,
            "state": "running" if number > 1100 else "terminated",
            "started_at": day + 3600,
            "stopped_at": day + 7200,
            "submitted_at": day,
            "resources_by_type": {"cores": ["a-1/0"]},
            "assigned_nodes": ["a-1"],
        }
        for number in range(1201, 0, -1)
    ]
    paths = api_of(monkeypatch, jobs)
    assert user_jobs("nancy", "jo", day, day + 86400, HOSTS) == [(day + 3600, day + 7200, {"a": 1})] * 1201
    assert len(paths) == 1 + 3


def test_user_jobs_does_not_read_a_history_of_years(monkeypatch: pytest.MonkeyPatch) -> None:
    day = at("2026-11-23 00:00")
    jobs = [
        {
            "uid": number,
            "state": "terminated",
            "started_at": t,
            "stopped_at": t + 60,
            "submitted_at": t,
            "resources_by_type": {"cores": ["b-1/3"]},
            "assigned_nodes": ["b-1"],
        }
        for number in range(5000, 0, -1)
        if (t := day - (5000 - number) * 86400)
    ]
    paths = api_of(monkeypatch, jobs)
    assert user_jobs("nancy", "jo", day - 3600, day + 86400, HOSTS) == [(day, day + 60, {"b": 1})]
    assert len(paths) <= 4


def test_french_holidays() -> None:
    pytest.importorskip("execo_g5k.charter", reason="execo is not installed")
    working_day = is_working
    assert working_day(date(2026, 7, 13))
    assert not working_day(date(2026, 7, 14))
    assert not working_day(date(2026, 4, 6)), "Easter Monday"
    assert not working_day(date(2026, 11, 22)), "a Sunday"
