"""The parts of Grid'5000's driver that decide; the rest runs against real OAR in tests/system."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from g5kvirt import testbeds
from g5kvirt.errors import SpecError, TestbedError
from g5kvirt.inventory import Host, Reservation, SubNetwork, to_plain
from g5kvirt.planning.availability import Calendar, SiteCalendar
from g5kvirt.planning.periods import closed_times
from g5kvirt.spec.clock import PARIS
from g5kvirt.testbeds.base import ReservationRequest
from g5kvirt.testbeds.grid5000 import charter, driver, jobs, scheduling, walltime
from g5kvirt.testbeds.grid5000.answers import Answer
from g5kvirt.testbeds.grid5000.api import hide_password
from g5kvirt.testbeds.grid5000.driver import Grid5000, Settings


def test_hide_password_removes_it_from_a_url() -> None:
    assert (
        hide_password("GET http://g5k:secret@127.0.0.1:80/stable/sites")
        == "GET http://127.0.0.1:80/stable/sites"
    )


def test_open_testbed_refuses_an_unknown_name() -> None:
    with pytest.raises(SpecError, match="no testbed called 'grid500'"):
        testbeds.open_testbed("grid500")
    assert isinstance(Grid5000(), testbeds.Testbed)


def test_reservation_is_read_back_from_the_journal() -> None:
    host = Host("graphene-12.nancy.grid5000.fr", "nancy", "graphene", 4, 17 << 30, 1e10, "sgraphene1")
    part = SubNetwork("nancy", IPv4Network("10.144.4.0/22"), IPv4Address("10.147.255.254"))
    one = Reservation({"nancy": 7}, (host,), (part, SubNetwork("x", part.network)), 14, "nancy", 1.0, 3600.0)
    assert Reservation.from_plain(to_plain(one)) == one


# ---- reserving, on fake OARs ------------------------------------------------------------------------

SITES = {"nancy": 2, "rennes": 1}
HOSTS = {
    site: [Host(f"c-{i}.{site}.grid5000.fr", site, "c", 4, 16 << 30) for i in range(1, 4)] for site in SITES
}


class Bed(Grid5000):
    """A Grid'5000 whose API has three machines per site and no jobs."""

    def __init__(self, oars: Oars, *, charter: bool = False, user: str | None = None) -> None:
        super().__init__(Settings(name="fake", charter=charter, user=user, command_timeout=5))
        self.oars = oars

    def hosts(self) -> Mapping[str, Sequence[Host]]:
        return HOSTS

    def calendar(
        self, sites: Sequence[str], queue: str | None = None, job_types: Collection[str] = ()
    ) -> Calendar:
        return self.oars.calendar

    def _api_job(self, site: str, job: int) -> Mapping[str, Any]:
        return {}


class Oars:
    """The sites' OARs: takes the place of the module `g5kvirt.testbeds.grid5000.jobs` in the driver."""

    resources = staticmethod(jobs.resources)
    matches_request = staticmethod(jobs.matches_request)

    def __init__(self) -> None:
        self.bed = Bed(self)
        self.live: dict[tuple[str, int], str] = {}  # job → its name
        self.starts: list[float | None] = []  # of each submission
        self.refuse: dict[str, int] = {}  # site → how many submissions it will refuse
        self.deleted: list[tuple[str, int]] = []
        self.events: list[tuple[str, str, Mapping[str, Any]]] = []
        self.calendar = Calendar(time.time(), time.time() + 1e6, {s: self.site(s) for s in SITES})

    @staticmethod
    def site(name: str, busy: float = 0) -> SiteCalendar:
        taken = [(0.0, time.time() + busy)] if busy else []
        pool = [IPv4Network("10.144.0.0/22")]
        return SiteCalendar({h.name: taken for h in HOSTS[name]}, {14: []}, {part: [] for part in pool})

    def submit(self, site: str, request: ReservationRequest, start: float | None) -> int:
        self.starts.append(start)
        if self.refuse.get(site):
            self.refuse[site] -= 1
            raise TestbedError(f"OAR at {site} refused the job: no")
        number = len(self.starts)
        self.live[site, number] = request.job_name
        return number

    def find(self, sites: Collection[str], name: str) -> list[tuple[str, int]]:
        return [one for one, own in self.live.items() if own == name and one[0] in sites]

    def oarstat(self, site: str, job: int, timeout: float) -> Answer:
        words = "+".join(jobs.resources(request(), site))
        command = f"oarsub -l {words},walltime=1:0:0 -t deploy -n job sleep 1"
        return Answer(("name = job", "state = Waiting", f"initial_request = {command}"), code=0)

    def job_name(self, site: str, job: int, timeout: float) -> str | None:
        return self.live.get((site, job), "")

    def info(self, site: str, job: int) -> dict[str, Any]:
        return {"state": "Waiting"} if (site, job) in self.live else {"state": "Error"}

    def wait_until_running(
        self, held: Mapping[str, int], deadline: float, *_: object, fixed: bool, job_info: object
    ) -> dict[str, float]:
        self.deadline, self.fixed = deadline, fixed
        assert all((site, job) in self.live for site, job in held.items())
        return dict.fromkeys(held, 1.0)

    def allocation(self, site: str, job: int, with_vlan: bool) -> jobs.Allocation:
        names = tuple(h.name for h in HOSTS[site][: SITES[site]])
        return jobs.Allocation(names, None, 14 if with_vlan else None)

    def delete(self, doomed: Iterable[tuple[str, int]], *_: object) -> None:
        for one in doomed:
            if self.live.pop(one, None):
                self.deleted.append(one)

    def remove_keys(self, doomed: Iterable[tuple[str, int]], timeout: float) -> None:
        """None were left."""

    def reserve(self, **words: Any) -> Reservation:
        return self.bed.reserve(request(**words), lambda *event: self.events.append(event))

    def notified(self, what: str) -> list[str]:
        return sorted(site for site, word, _ in self.events if word == what)


def request(**words: Any) -> ReservationRequest:
    known: dict[str, Any] = {"subnetworks": dict.fromkeys(SITES, 22), "vlan_site": "nancy", "walltime": 3600}
    return ReservationRequest(
        **{"machines": SITES, "job_name": "job", "start_timeout": 60.0, **known, **words}
    )


@pytest.fixture
def oars(monkeypatch: pytest.MonkeyPatch) -> Oars:
    fake = Oars()
    monkeypatch.setattr(driver, "jobs", fake)
    return fake


def test_reserve_submits_on_all_sites_and_waits(oars: Oars) -> None:
    granted = oars.reserve()
    assert sorted(granted.jobs) == ["nancy", "rennes"]
    assert (granted.vlan, granted.vlan_site, len(granted.hosts)) == (14, "nancy", 3)
    assert oars.starts == [None, None]
    assert 0 < oars.deadline - time.time() <= 60


def test_reserve_deletes_all_jobs_if_a_site_refuses(oars: Oars) -> None:
    oars.refuse["rennes"] = 1
    with pytest.raises(TestbedError, match="OAR at rennes refused"):
        oars.reserve()
    assert not oars.live
    assert [site for site, _ in oars.deleted] == ["nancy"]


def test_reserve_deletes_a_job_that_oarsub_reported_as_failed(oars: Oars) -> None:
    """While OAR's server is down oarsub prints an id and fails; the job runs later all the same."""
    plain = oars.submit

    def disowned(site: str, request: ReservationRequest, start: float | None) -> int:
        job = plain(site, request, start)
        if site == "rennes":
            raise TestbedError("OAR at rennes refused the job: Connection refused")
        return job

    oars.submit = disowned  # type: ignore[method-assign]
    with pytest.raises(TestbedError, match="Connection refused"):
        oars.reserve()
    assert not oars.live
    assert sorted(site for site, _ in oars.deleted) == ["nancy", "rennes"]


def test_reserve_deletes_all_jobs_on_an_interrupt(oars: Oars) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    oars.wait_until_running = interrupted  # type: ignore[assignment,method-assign]
    with pytest.raises(KeyboardInterrupt):
        oars.reserve()
    assert not oars.live


def test_reserve_uses_the_same_date_on_all_sites(oars: Oars) -> None:
    date = time.time() + 7200
    oars.reserve(start=date)
    assert oars.starts == [date, date]
    assert date <= oars.deadline <= date + 60


def test_reserve_refuses_a_date_in_the_past_before_it_submits(oars: Oars) -> None:
    with pytest.raises(SpecError, match=r"the start 2020-09-13 14:26:40 in Paris is in the past \(it is "):
        oars.reserve(start=1_600_000_000.0)
    assert oars.starts == []


def test_reserve_uses_the_first_slot_of_all_sites(oars: Oars) -> None:
    oars.reserve(start="first")
    assert oars.starts == [None, None], "all is free now"
    oars.calendar = replace(
        oars.calendar, sites={**oars.calendar.sites, "rennes": oars.site("rennes", busy=5000)}
    )
    oars.reserve(start="first")
    first, second = oars.starts[2:]
    assert first is not None
    assert first == second == int(first)
    assert 4990 < first - time.time() < 5010
    assert first <= oars.deadline <= first + 60
    assert oars.notified("slot") == ["nancy"]


def test_reserve_tries_the_next_slot_if_somebody_else_was_faster(oars: Oars) -> None:
    oars.refuse["rennes"] = 2
    granted = oars.reserve(start="first")
    assert sorted(granted.jobs) == ["nancy", "rennes"]
    assert len(oars.starts) == 6
    assert len(oars.live) == 2
    oars.refuse["rennes"] = 3
    with pytest.raises(TestbedError, match="refused"):
        oars.reserve(start="first", job_name="other")
    assert "other" not in oars.live.values()


def test_reserve_without_a_slot_names_what_is_missing(oars: Oars) -> None:
    with pytest.raises(
        TestbedError, match=r"within 28 days there is no slot of 1:00:00 .* \(nancy: 3 of 5 machines\)"
    ):
        oars.reserve(start="first", machines={**SITES, "nancy": 5})
    assert oars.starts == []
    assert oars.bed.first_start(request(machines={**SITES, "nancy": 5})) is None
    assert oars.bed.first_start(request(clusters={"nancy": "d"})) is None


def test_reserve_uses_jobs_of_a_killed_try_again(oars: Oars) -> None:
    oars.live = {("nancy", 7): "job", ("rennes", 9): "job", ("rennes", 4): "another run"}
    granted = oars.reserve(earlier=(("nancy", 7),))
    assert granted.jobs == {"nancy": 7, "rennes": 9}
    assert oars.starts == []
    assert oars.deleted == []
    assert oars.notified("found-again") == ["nancy", "rennes"]
    assert oars.notified("submitted") == ["rennes"], "that one could not be written down"


def test_first_try_ignores_jobs_of_the_same_name(oars: Oars) -> None:
    oars.live = {("nancy", 700): "job", ("rennes", 900): "job"}
    granted = oars.reserve()
    assert oars.deleted == []
    assert 700 not in granted.jobs.values()


@pytest.mark.parametrize(
    ("left", "withdrawn"),
    [
        ({("nancy", 70): "job"}, [("nancy", 70)]),  # the other site was not asked any more
        ({("nancy", 70): "job", ("nancy", 80): "job", ("rennes", 90): "job"}, [("nancy", 80)]),
    ],
)
def test_reserve_deletes_earlier_jobs_that_do_not_match(
    oars: Oars, left: dict[tuple[str, int], str], withdrawn: list[tuple[str, int]]
) -> None:
    oars.live = dict(left)
    oars.reserve(earlier=())
    assert oars.deleted == withdrawn
    assert len(oars.live) == 2


def test_release_skips_reused_job_id(oars: Oars) -> None:
    """A local testbed that was raised anew counts from 1 again."""
    oars.live = {("nancy", 1): "another run", ("rennes", 1): "job"}
    oars.bed.release([("nancy", 1), ("rennes", 1)], "job", [])
    assert oars.live == {("nancy", 1): "another run"}
    assert oars.deleted == [("rennes", 1)]


def test_reserve_deletes_earlier_jobs_of_another_request(oars: Oars) -> None:
    oars.live = {("nancy", 70): "job", ("rennes", 90): "job"}
    oars.reserve(earlier=(("nancy", 70), ("rennes", 90)), walltime=1800)
    assert sorted(oars.deleted) == [("nancy", 70), ("rennes", 90)]
    assert len(oars.starts) == 2


def test_reserve_refuses_what_the_charter_forbids(oars: Oars, monkeypatch: pytest.MonkeyPatch) -> None:
    oars.bed = Bed(oars, charter=True, user="me")
    monday = datetime(2099, 11, 23, 10, 0, tzinfo=PARIS).timestamp()
    spent: list[tuple[float, float, Mapping[str, int]]] = []
    monkeypatch.setattr(charter, "user_jobs", lambda *_: spent)
    monkeypatch.setattr(scheduling, "is_working", lambda day: day.weekday() < 5)
    oars.reserve(start=monday, walltime=3 * 3600)  # two of three machines for three hours
    spent.append((monday, monday + 3600, {"c": 1}))
    with pytest.raises(
        TestbedError, match=r"the usage charter allows 24 core-hours of nancy's cluster c by day"
    ):
        oars.reserve(start=monday, walltime=3 * 3600)
    assert len(oars.starts) == 2
    # the first slot that it allows begins in the evening
    oars.calendar = replace(oars.calendar, start=monday, end=monday + 1e6)
    start = oars.bed.first_start(request(walltime=3 * 3600))
    assert start == datetime(2099, 11, 23, 19, 0, tzinfo=PARIS).timestamp()


def test_jobs_of_the_type_night_start_at_night_and_of_the_type_day_by_day(
    oars: Oars, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "is_working", lambda day: day.weekday() < 5)
    monday = datetime(2099, 11, 23, 10, 0, tzinfo=PARIS).timestamp()
    evening = monday + 9 * 3600
    oars.reserve(start=evening, walltime=3600, job_types=("night", "exotic"))
    oars.reserve(start=monday, walltime=3600, job_types=("day",), job_name="other")
    message = (
        "a job of the type night must not run between 9 and 19 o'clock of a working day, as this one would"
    )
    with pytest.raises(TestbedError, match=f"{message} on 2099-11-23: let start=.first. find"):
        oars.reserve(start=monday, walltime=3600, job_types=("night",))
    with pytest.raises(TestbedError, match=f"{message} on 2099-11-24"):
        oars.reserve(start=evening, walltime=15 * 3600, job_types=("night",))
    with pytest.raises(TestbedError, match="a job of the type day must run between 9 and 19 o'clock of one"):
        oars.reserve(start=evening - 60, walltime=3600, job_types=("day",))
    monkeypatch.setattr(scheduling.time, "time", lambda: monday)
    with pytest.raises(TestbedError, match="a job of the type night must not"):
        oars.reserve(start="now", job_types=("night",))
    assert len(oars.starts) == 4
    closed = closed_times(["night"], monday, monday + 3e6, lambda day: day.weekday() < 5)
    oars.calendar = replace(oars.calendar, start=monday, end=monday + 1e6, closed=closed)
    assert oars.bed.first_start(request(job_types=("night",))) == evening
    monkeypatch.setattr(charter, "user_jobs", lambda *_: [])
    with_charter = Bed(oars, charter=True, user="me")
    assert with_charter.first_start(request(job_types=("night",))) == evening
    with pytest.raises(
        TestbedError,
        match="no time in which a job of the types night may run for 80:00:00: request a shorter",
    ):
        oars.reserve(start="first", walltime=80 * 3600, job_types=("night",))


def test_extension_is_refused_if_the_charter_forbids_it(oars: Oars, monkeypatch: pytest.MonkeyPatch) -> None:
    granted: list[int] = []
    monkeypatch.setattr(walltime, "extend", lambda jobs, seconds, _: granted.append(seconds))
    monkeypatch.setattr(scheduling, "is_working", lambda day: day.weekday() < 5)
    spent: list[tuple[float, float, Mapping[str, int]]] = []
    monkeypatch.setattr(charter, "user_jobs", lambda *_: spent)
    monday = datetime(2099, 11, 23, 10, 0, tzinfo=PARIS).timestamp()
    bed = Bed(oars, charter=True, user="me")
    held = Reservation({"nancy": 1}, HOSTS["nancy"][:2], (), None, None, monday, 3600.0)
    bed.extend(held, 3600)
    with pytest.raises(TestbedError, match=r"cannot be extended: the usage charter .*: extend it by less"):
        bed.extend(held, 5 * 3600)
    with pytest.raises(TestbedError, match="cannot be extended"):
        bed.extend(held, 9 * 3600)  # into the evening
    assert granted == [3600]
    Bed(oars).extend(held, 9 * 3600)  # where there is no charter
    assert granted == [3600, 9 * 3600]


def test_ended_reports_the_job_or_raises_if_the_state_is_unknown(oars: Oars) -> None:
    granted = oars.reserve()
    assert oars.bed.ended(granted) == ""
    error, silence = Answer(("state = Error",), code=0), Answer((), code=0)
    oars.oarstat = lambda site, job, timeout: error if site == "rennes" else silence  # type: ignore[method-assign]
    assert oars.bed.ended(granted).startswith("job 2 at rennes ended")
    oars.oarstat = lambda site, job, timeout: silence  # type: ignore[method-assign]
    with pytest.raises(TestbedError, match="the state of the jobs at nancy, rennes is not known: "):
        oars.bed.ended(granted)
    noise = Answer(noise=("Welcome",), failure='its answer cannot be read: "Welcome"')
    oars.oarstat = lambda site, job, timeout: noise  # type: ignore[method-assign]
    with pytest.raises(TestbedError, match='is not known \\(its answer cannot be read: "Welcome"\\)'):
        oars.bed.ended(granted)
