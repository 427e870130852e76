"""The parts of Grid'5000's driver that decide; the rest runs against real OAR in tests/system."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from g5kvirt import testbeds
from g5kvirt.errors import SpecError, TestbedError
from g5kvirt.inventory import Host, Reservation, SubNetwork, to_plain
from g5kvirt.planning.availability import Agenda, SiteAgenda
from g5kvirt.spec.clock import PARIS
from g5kvirt.testbeds.base import Request
from g5kvirt.testbeds.grid5000 import charter, jobs
from g5kvirt.testbeds.grid5000.driver import Grid5000, Settings
from g5kvirt.testbeds.grid5000.frontends import each, mask


def test_all_sites_are_heard_before_the_first_error_is_raised() -> None:
    done = []

    def ask(site: str) -> str:
        if site == "bad":
            raise TestbedError("no")
        done.append(site)
        return site

    with pytest.raises(TestbedError, match="no"):
        each(ask, ["bad", "nancy", "rennes"])
    assert sorted(done) == ["nancy", "rennes"]


def test_a_password_never_shows() -> None:
    assert mask("GET http://g5k:secret@127.0.0.1:80/stable/sites") == "GET http://127.0.0.1:80/stable/sites"


def test_words_for_testbeds() -> None:
    with pytest.raises(SpecError, match="no testbed called 'grid500'"):
        testbeds.open_testbed("grid500")
    assert isinstance(Grid5000(), testbeds.Testbed)


def test_a_reservation_survives_the_journal() -> None:
    host = Host("graphene-12.nancy.grid5000.fr", "nancy", "graphene", 4, 17 << 30, 1e10, "sgraphene1")
    part = SubNetwork("nancy", IPv4Network("10.144.4.0/22"), IPv4Address("10.147.255.254"))
    one = Reservation({"nancy": 7}, (host,), (part, SubNetwork("x", part.network)), 14, "nancy", 1.0, 3600.0)
    assert Reservation.from_plain(to_plain(one)) == one


# ---- reserving, over OARs that are played -----------------------------------------------------------

SITES = {"nancy": 2, "rennes": 1}
HOSTS = {
    site: [Host(f"c-{i}.{site}.grid5000.fr", site, "c", 4, 16 << 30) for i in range(1, 4)] for site in SITES
}


class Oars:
    """The sites' OARs: what `g5kvirt.testbeds.grid5000.jobs` asks of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.bed = Grid5000(Settings(name="played", charter=False, command_timeout=5, **settings))
        self.live: dict[tuple[str, int], str] = {}  # job → what it was asked for with
        self.starts: list[float | None] = []  # of each submission
        self.refuse: dict[str, int] = {}  # site → how many submissions it refuses still
        self.withdrawn: list[tuple[str, int]] = []
        self.events: list[tuple[str, str, Mapping[str, Any]]] = []
        self.agenda = Agenda(time.time(), time.time() + 1e6, {s: self.site(s) for s in SITES})
        for name in ("submit", "find", "describe", "name_of", "info", "given", "withdraw"):
            monkeypatch.setattr(jobs, name, getattr(self, name))
        monkeypatch.setattr(jobs, "wait", self.wait)
        monkeypatch.setattr(jobs, "remove_keys", lambda *_: None)
        monkeypatch.setattr(Grid5000, "_heard", lambda *_: {})  # the API says nothing of jobs
        monkeypatch.setattr(Grid5000, "hosts", lambda _: HOSTS)
        monkeypatch.setattr(Grid5000, "calendar", lambda *_: self.agenda)

    @staticmethod
    def site(name: str, busy: float = 0) -> SiteAgenda:
        taken = [(0.0, time.time() + busy)] if busy else []
        pool = [IPv4Network("10.144.0.0/22")]
        return SiteAgenda({h.name: taken for h in HOSTS[name]}, {14: []}, {part: [] for part in pool})

    def submit(self, site: str, request: Request, start: float | None) -> int:
        self.starts.append(start)
        if self.refuse.get(site):
            self.refuse[site] -= 1
            raise TestbedError(f"OAR at {site} refused the job: no")
        number = len(self.starts)
        self.live[site, number] = request.job_name
        return number

    def find(self, sites: Collection[str], name: str) -> list[tuple[str, int]]:
        return [one for one, own in self.live.items() if own == name and one[0] in sites]

    def describe(self, site: str, job: int, timeout: float) -> str:
        words = "+".join(jobs.resources(request(), site))
        asked = f"oarsub -l {words},walltime=1:0:0 -t deploy -n job sleep 1"
        return f"name = job\nstate = Waiting\ninitial_request = {asked}\n"

    def name_of(self, site: str, job: int, timeout: float) -> str | None:
        return self.live.get((site, job), "")

    def info(self, site: str, job: int) -> dict[str, Any]:
        return {"state": "Waiting"} if (site, job) in self.live else {"state": "Error"}

    def wait(
        self, held: Mapping[str, int], deadline: float, *_: object, fixed: bool, look: object
    ) -> dict[str, float]:
        self.deadline, self.fixed = deadline, fixed
        assert all((site, job) in self.live for site, job in held.items())
        return dict.fromkeys(held, 1.0)

    def given(self, site: str, job: int, with_vlan: bool) -> jobs.Given:
        names = tuple(h.name for h in HOSTS[site][: SITES[site]])
        return jobs.Given(names, None, 14 if with_vlan else None)

    def withdraw(self, doomed: Iterable[tuple[str, int]], *_: object) -> None:
        for one in doomed:
            if self.live.pop(one, None):
                self.withdrawn.append(one)

    def reserve(self, **words: Any) -> Reservation:
        return self.bed.reserve(request(**words), lambda *event: self.events.append(event))

    def said(self, what: str) -> list[str]:
        return sorted(site for site, word, _ in self.events if word == what)


def request(**words: Any) -> Request:
    known: dict[str, Any] = {"subnetworks": dict.fromkeys(SITES, 22), "vlan_site": "nancy", "walltime": 3600}
    return Request(**{"machines": SITES, "job_name": "job", "start_timeout": 60.0, **known, **words})


@pytest.fixture
def oars(monkeypatch: pytest.MonkeyPatch) -> Oars:
    return Oars(monkeypatch)


def test_all_sites_are_asked_and_waited_for(oars: Oars) -> None:
    granted = oars.reserve()
    assert sorted(granted.jobs) == ["nancy", "rennes"]
    assert (granted.vlan, granted.vlan_site, len(granted.hosts)) == (14, "nancy", 3)
    assert oars.starts == [None, None]
    assert 0 < oars.deadline - time.time() <= 60


def test_a_refusal_gives_everything_back(oars: Oars) -> None:
    oars.refuse["rennes"] = 1
    with pytest.raises(TestbedError, match="OAR at rennes refused"):
        oars.reserve()
    assert not oars.live
    assert [site for site, _ in oars.withdrawn] == ["nancy"]


def test_a_job_that_oarsub_disowned_is_given_back_too(oars: Oars, monkeypatch: pytest.MonkeyPatch) -> None:
    """While OAR's server is down oarsub prints an id and fails; the job runs later all the same."""
    plain = oars.submit

    def disowned(site: str, request: Request, start: float | None) -> int:
        job = plain(site, request, start)
        if site == "rennes":
            raise TestbedError("OAR at rennes refused the job: Connection refused")
        return job

    monkeypatch.setattr(jobs, "submit", disowned)
    with pytest.raises(TestbedError, match="Connection refused"):
        oars.reserve()
    assert not oars.live
    assert sorted(site for site, _ in oars.withdrawn) == ["nancy", "rennes"]


def test_an_interrupt_gives_everything_back(oars: Oars, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        oars.reserve()
    assert not oars.live


def test_a_date_is_asked_of_all_sites_and_waited_for(oars: Oars) -> None:
    date = time.time() + 7200
    oars.reserve(start=date)
    assert oars.starts == [date, date]
    assert date <= oars.deadline <= date + 60


def test_a_date_in_the_past_is_said_before_anything_is_asked(oars: Oars) -> None:
    with pytest.raises(SpecError, match=r"the start 2020-09-13 14:26:40 in Paris is in the past \(it is "):
        oars.reserve(start=1_600_000_000.0)
    assert oars.starts == []


def test_the_first_slot_is_asked_of_all_sites(oars: Oars) -> None:
    oars.reserve(start="first")
    assert oars.starts == [None, None], "all is free now"
    oars.agenda = replace(oars.agenda, sites={**oars.agenda.sites, "rennes": oars.site("rennes", busy=5000)})
    oars.reserve(start="first")
    first, second = oars.starts[2:]
    assert first is not None
    assert first == second == int(first)
    assert 4990 < first - time.time() < 5010
    assert first <= oars.deadline <= first + 60
    assert oars.said("slot") == ["nancy"]


def test_somebody_else_may_be_faster(oars: Oars) -> None:
    oars.refuse["rennes"] = 2
    granted = oars.reserve(start="first")
    assert sorted(granted.jobs) == ["nancy", "rennes"]
    assert len(oars.starts) == 6
    assert len(oars.live) == 2
    oars.refuse["rennes"] = 3
    with pytest.raises(TestbedError, match="refused"):
        oars.reserve(start="first", job_name="other")
    assert "other" not in oars.live.values()


def test_no_slot_says_what_is_missing(oars: Oars) -> None:
    with pytest.raises(
        TestbedError, match=r"no slot of 1:00:00 within 28 days .* \(nancy: 3 of 5 machines\)"
    ):
        oars.reserve(start="first", machines={**SITES, "nancy": 5})
    assert oars.starts == []
    assert oars.bed.first_start(request(machines={**SITES, "nancy": 5})) is None
    assert oars.bed.first_start(request(clusters={"nancy": "d"})) is None


def test_jobs_of_a_killed_try_are_gone_on_with(oars: Oars) -> None:
    oars.live = {("nancy", 7): "job", ("rennes", 9): "job", ("rennes", 4): "another run"}
    granted = oars.reserve(earlier=(("nancy", 7),))
    assert granted.jobs == {"nancy": 7, "rennes": 9}
    assert oars.starts == []
    assert oars.withdrawn == []
    assert oars.said("found-again") == ["nancy", "rennes"]
    assert oars.said("submitted") == ["rennes"], "that one could not be written down"


def test_the_first_try_leaves_jobs_of_the_same_name_alone(oars: Oars) -> None:
    oars.live = {("nancy", 700): "job", ("rennes", 900): "job"}
    granted = oars.reserve()
    assert oars.withdrawn == []
    assert 700 not in granted.jobs.values()


@pytest.mark.parametrize(
    ("left", "withdrawn"),
    [
        ({("nancy", 70): "job"}, [("nancy", 70)]),  # the other site was not asked any more
        ({("nancy", 70): "job", ("nancy", 80): "job", ("rennes", 90): "job"}, [("nancy", 80)]),
    ],
)
def test_what_does_not_fit_is_given_back_first(
    oars: Oars, left: dict[tuple[str, int], str], withdrawn: list[tuple[str, int]]
) -> None:
    oars.live = dict(left)
    oars.reserve(earlier=())
    assert oars.withdrawn == withdrawn
    assert len(oars.live) == 2


def test_an_id_that_is_another_runs_by_now_is_left_alone(oars: Oars) -> None:
    """A local testbed that was raised anew counts from 1 again."""
    oars.live = {("nancy", 1): "another run", ("rennes", 1): "job"}
    oars.bed.release([("nancy", 1), ("rennes", 1)], "job", [])
    assert oars.live == {("nancy", 1): "another run"}
    assert oars.withdrawn == [("rennes", 1)]


def test_other_words_are_another_request(oars: Oars) -> None:
    oars.live = {("nancy", 70): "job", ("rennes", 90): "job"}
    oars.reserve(earlier=(("nancy", 70), ("rennes", 90)), walltime=1800)
    assert sorted(oars.withdrawn) == [("nancy", 70), ("rennes", 90)]
    assert len(oars.starts) == 2


def test_what_the_charter_forbids_is_not_asked_for(oars: Oars, monkeypatch: pytest.MonkeyPatch) -> None:
    oars.bed = Grid5000(Settings(user="me", command_timeout=5))
    monday = datetime(2099, 11, 23, 10, 0, tzinfo=PARIS).timestamp()
    spent: list[tuple[float, float, Mapping[str, int]]] = []
    monkeypatch.setattr(charter, "spent", lambda *_: spent)
    monkeypatch.setattr(charter, "french_working_days", lambda: lambda day: day.weekday() < 5)
    oars.reserve(start=monday, walltime=3 * 3600)  # two of three machines for three hours
    spent.append((monday, monday + 3600, {"c": 1}))
    with pytest.raises(
        TestbedError, match=r"the usage charter allows 24 core-hours of nancy's cluster c by day"
    ):
        oars.reserve(start=monday, walltime=3 * 3600)
    assert len(oars.starts) == 2
    # the first slot that it allows begins in the evening
    oars.agenda = replace(oars.agenda, start=monday, end=monday + 1e6)
    start = oars.bed.first_start(request(walltime=3 * 3600))
    assert start == datetime(2099, 11, 23, 19, 0, tzinfo=PARIS).timestamp()


def test_how_the_jobs_ended(oars: Oars, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Grid5000, "_runs", lambda self, site, job: False)  # the API says nothing
    granted = oars.reserve()
    assert oars.bed.ended(granted) == ""
    monkeypatch.setattr(
        jobs, "describe", lambda site, job, timeout: "state = Error" if site == "rennes" else ""
    )
    assert oars.bed.ended(granted).startswith("job 2 at rennes ended")
    monkeypatch.setattr(jobs, "describe", lambda site, job, timeout: "")
    with pytest.raises(TestbedError, match="nancy, rennes does not say"):
        oars.bed.ended(granted)
