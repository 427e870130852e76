"""OAR's jobs: the words they are asked for with, found again by and refused with; when they are looked at."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Network
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.errors import SpecError, TestbedError
from g5kvirt.inventory import SubNetwork
from g5kvirt.spec.spec import Spec
from g5kvirt.testbeds.base import Request
from g5kvirt.testbeds.grid5000 import jobs
from g5kvirt.testbeds.grid5000.frontends import refusal
from g5kvirt.testbeds.grid5000.jobs import fits, pause, resources, submission, subnetwork

DATE = 1795372641.0  # 2026-11-22 19:37:21 in Paris

#: What OAR 2.5.9 prints of an advance reservation.
PRINTED = """Job_Id: 1
    job_array_id = 1
    name = job
    project = default
    owner = g5k
    state = Waiting
    wanted_resources = -l "{type='kavlan-global'}/vlan=1+{type = 'subnet'}/slash_22=1"
    types = deploy, origin=execo
    queue = default
    command = sleep 31536000
    reservation = Scheduled
    walltime = 0:10:0
    startTime = 2026-11-22 19:37:21
    initial_request = oarsub -l {type='kavlan-global'}/vlan=1+slash_22=1+nodes=3,walltime=0:10:0 -t deploy \
-t origin=execo -r 2026-11-22 19:37:21 -n job sleep 31536000
    message = R=8,W=0:10:0,J=R,N=job,T=deploy|origin=execo
"""


def request(**words: Any) -> Request:
    known: dict[str, Any] = {
        "machines": {"nancy": 3, "rennes": 2},
        "subnetworks": {"nancy": 22, "rennes": 20},
    }
    return Request(**{**known, "walltime": 600, "job_name": "job", "vlan_site": "nancy", **words})


# ---- asking -----------------------------------------------------------------------------------------


def test_one_site_holds_the_global_kavlan() -> None:
    asked = request(clusters={"rennes": "paradent"})
    assert resources(asked, "nancy") == ["{type='kavlan-global'}/vlan=1", "slash_22=1", "nodes=3"]
    assert resources(asked, "rennes") == ["slash_20=1", "{cluster='paradent'}/nodes=2"]


def test_a_filter_is_for_the_machines_alone_and_keeps_to_the_cluster() -> None:
    asked = request(clusters={"rennes": "paradent"}, properties="memnode >= 16384 OR host LIKE 'a%'")
    assert resources(asked, "nancy")[1:] == ["slash_22=1", "{(memnode >= 16384 OR host LIKE 'a%')}/nodes=3"]
    assert resources(asked, "rennes")[1:] == [
        "{cluster='paradent' AND (memnode >= 16384 OR host LIKE 'a%')}/nodes=2"
    ]


@given(st.text("abzAZ09_ .,'=<>!()%+*/:-", min_size=1) | st.text(st.characters(codec="ascii"), min_size=1))
def test_no_filter_gets_out_of_its_word(properties: str) -> None:
    """What a Spec lets through stays one word of the command that execo builds for the frontend's shell."""
    oar = pytest.importorskip("execo_g5k.oar", reason="execo is not installed")
    try:
        spec = Spec(sites={"nancy": 2}, vms=1, properties=properties)
    except SpecError:
        return
    assert spec.properties is not None
    asked = request(properties=spec.properties, queue="production", project="my-project")
    command = oar.get_oarsub_commandline(submission(asked, "nancy", DATE))
    words = shlex.split(command)
    assert words[:3] == ["oarsub", "-l", f"{'+'.join(resources(asked, 'nancy'))},walltime=0:10:0"]
    assert spec.properties in words[2]
    # within double quotes a shell still expands these
    assert not set(words[2]) & set("$`\\\n")
    assert words[words.index("-q") + 1 :][0] == "production"
    assert words[words.index("--project") + 1 :][0] == "my-project"
    assert words[words.index("-r") + 1] == "2026-11-22 19:37:21"
    assert words[-3:] == ["-n", "job", "sleep 31536000"]


@pytest.mark.parametrize(
    "properties",
    [
        'memnode" ; reboot ; "',
        "$(reboot)",
        "`reboot`",
        "a\\",
        "x}/nodes=9{y",
        "a\nb",
        "a;b",
        "a|b",
        "1=1) OR (1=1",
        "(a",
        "a='b",
    ],
)
def test_filters_that_would_be_more_than_a_filter(properties: str) -> None:
    with pytest.raises(SpecError, match="properties must be"):
        Spec(sites={"nancy": 2}, vms=1, properties=properties)


def process(stdout: str, stderr: str = "") -> Any:
    return SimpleNamespace(stdout=stdout, stderr=stderr, exit_code=8)


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        (
            "[ADMISSION RULE] Modify resource description with type constraints\nOAR_JOB_ID=-5\n"
            "There are not enough resources for your request\n"
            "[ERROR] Oarsub failed, please verify your request syntax.\n",
            "There are not enough resources for your request",
        ),
        (
            'Bad resource request (ERROR:  column "nonsense" does not exist\nLINE 4:  (nonsense >= 999...\n'
            "                        ^)\n[ERROR] Oarsub failed, please verify your request syntax.\n",
            'column "nonsense" does not exist',
        ),
        (
            "OAR_JOB_ID=2\nReservation mode: waiting validation...\n"
            "Reservation not valid --> KO (This reservation could run at 2026-11-22 19:47:23)\n"
            "Connection to nancy.grid5000.fr closed.\n",
            "not at that time: This reservation could run at 2026-11-22 19:47:23",
        ),
        ("ERROR : The queue nono does not exist\n", "The queue nono does not exist"),
        (
            "[ADMISSION RULE] Error: no slash_17 here: ask for slash_18 to slash_22\n",
            "no slash_17 here: ask for slash_18 to slash_22",
        ),
        (
            "# Filtering out exotic resources (vianden).\n# Set walltime to default (3600 s).\n"
            "There are not enough resources for your request\nOAR_JOB_ID=-5\n"
            "Oarsub failed: please verify your request syntax or ask for support to your admin.\n",
            "There are not enough resources for your request",
        ),
        (
            "# Filtering out exotic resources (pyxis, neowise).\n"
            "# Warning: your reservation starts very soon, you might get less nodes than what you required!\n"
            "OAR_JOB_ID=1894417\n# Advance reservation request: waiting for validation...\n"
            "# Reservation not valid --> KO (This reservation could run at 2026-11-22 19:47:23)\n",
            "not at that time: This reservation could run at 2026-11-22 19:47:23",
        ),
        ("# Some remark.\nWhat is wrong\n", "What is wrong"),
        ("", "exit code 8"),
    ],
)
def test_refusals_as_oar_words_them(printed: str, words: str) -> None:
    assert refusal(SimpleNamespace(processes=[process(printed)])) == words
    assert refusal(SimpleNamespace(processes=[process("", printed.replace("\n", "\r\n"))])) == words


# ---- finding again ----------------------------------------------------------------------------------


def test_a_job_that_was_asked_for_in_these_words_fits() -> None:
    assert fits(PRINTED, request(), "nancy")
    assert fits(PRINTED.replace("\n", "\r\n"), request(), "nancy")
    assert fits(PRINTED, request(start=DATE), "nancy")
    assert fits(PRINTED, request(start="first"), "nancy")
    assert fits(PRINTED.replace("Waiting", "Running"), request(), "nancy")
    queued = PRINTED.replace(" -r ", " -q production --project p -r ")
    assert fits(queued, request(queue="production", project="p"), "nancy")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("state = Waiting", "state = Error"), {}),
        (("state = Waiting", "state = Finishing"), {}),
        (("name = job", "name = job2"), {}),
        (("nodes=3", "nodes=33"), {}),
        (("initial_request", "other"), {}),
        (("", ""), {"walltime": 601}),
        (("", ""), {"start": DATE + 1}),
        (("", ""), {"queue": "production"}),
        (("-t deploy", "-q production -t deploy"), {}),
        (("", ""), {"project": "p"}),
        (("", ""), {"vlan_site": "rennes"}),
        (("", ""), {"properties": "memnode > 1"}),
        (("", ""), {"machines": {"nancy": 2}}),
    ],
)
def test_a_job_that_ended_or_was_asked_for_otherwise_does_not(
    change: tuple[str, str], words: dict[str, Any]
) -> None:
    printed = PRINTED.replace(*change) if change[0] else PRINTED
    assert not fits(printed, request(**words), "nancy")
    assert not fits("", request(), "nancy"), "nobody answered"


# ---- waiting ----------------------------------------------------------------------------------------


def test_jobs_are_looked_at_seldom_while_they_are_far() -> None:
    assert pause([], 0, 2, 10) == 2
    assert pause([100_000], 0, 2, 10) == 60
    assert pause([110], 0, 2, 10) == 30
    assert pause([50], 0, 2, 10) == 10
    assert pause([5], 0, 2, 10) == 5
    assert pause([-1, 1000], 0, 2, 10) == 2
    assert 0.2 <= pause([0.01], 0, 0.25, 0.5) <= 0.5


@given(st.lists(st.floats(-100, 1e6), max_size=3), st.floats(0.1, 5), st.floats(5, 20))
def test_a_pause_never_sleeps_past_the_next_start(starts: list[float], often: float, seldom: float) -> None:
    nap = pause(starts, 0, often, seldom)
    assert 0 < nap <= 60
    ahead = [s for s in starts if s > 0]
    if ahead and len(ahead) == len(starts):
        assert nap <= max(min(ahead), often)


class Clock:
    """Time that passes only by sleeping, and what OAR says at which time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, told: Callable[[float, str], dict[str, Any]]) -> None:
        self.now = 1000.0
        self.heard: list[tuple[str, str, Mapping[str, Any]]] = []
        self.look = lambda site, job: told(self.now, site)
        monkeypatch.setattr(jobs, "time", SimpleNamespace(time=lambda: self.now, sleep=self.sleep))

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds

    def wait(self, deadline: float, fixed: bool = True) -> None:
        def notify(site: str, what: str, detail: Mapping[str, Any]) -> None:
            self.heard.append((site, what, detail))

        jobs.wait({"nancy": 7, "rennes": 8}, deadline, 10, 2, notify, fixed=fixed, look=self.look)


def test_waiting_tells_each_prediction_once_and_ends_when_all_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(now: float, site: str) -> dict[str, Any]:
        start = 8200.0 if site == "nancy" or now > 3000 else 8100.0
        return {"state": "Running" if now >= start else "Waiting", "start_date": start}

    clock = Clock(monkeypatch, told)
    clock.wait(9000)
    assert 8200 <= clock.now < 8212
    assert [(site, what) for site, what, _ in clock.heard] == [
        ("nancy", "predicted"),
        ("rennes", "predicted"),
        ("rennes", "predicted"),
        ("nancy", "running"),
        ("rennes", "running"),
    ]
    assert clock.heard[2][2] == {"job": 8, "start": 8200.0}


def test_a_job_deleted_meanwhile_is_noticed_long_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(now: float, site: str) -> dict[str, Any]:
        gone = site == "rennes" and now > 2000
        return {"state": "Error" if gone else "Waiting", "start_date": 90_000.0}

    clock = Clock(monkeypatch, told)
    with pytest.raises(TestbedError, match="job 8 at rennes ended before it ran"):
        clock.wait(95_000)
    assert clock.now < 2100


def test_a_job_that_waits_in_the_queue_may_start_earlier_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(now: float, site: str) -> dict[str, Any]:
        return {"state": "Running" if now > 1100 else "Waiting", "start_date": 90_000.0}

    clock = Clock(monkeypatch, told)
    clock.wait(95_000, fixed=False)
    assert clock.now < 1115


def test_waiting_is_bounded_and_survives_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, lambda now, site: {})
    with pytest.raises(TestbedError, match=r"did not start in time \(nobody answers\)"):
        clock.wait(1300)
    assert 1300 <= clock.now < 1310
    clock = Clock(monkeypatch, lambda now, site: {"state": "Waiting", "scheduled_start": DATE})
    with pytest.raises(TestbedError, match=r"\(Waiting, expected at 2026-11-22 19:37:21 in Paris\)"):
        clock.wait(1300)


# ---- what they got ----------------------------------------------------------------------------------


def test_a_sub_network_from_its_parameters_or_from_its_addresses() -> None:
    parameters = {"ip_prefix": "10.144.4.0/22", "gateway": "10.147.255.254"}
    assert subnetwork("nancy", [], parameters) == SubNetwork(
        "nancy", IPv4Network("10.144.4.0/22"), IPv4Address("10.147.255.254")
    )
    # several parts in one job: execo gives no parameters then
    addresses = [(str(ip), "mac") for ip in IPv4Network("10.144.8.0/21").hosts()]
    assert subnetwork("nancy", addresses, {}) == SubNetwork("nancy", IPv4Network("10.144.8.0/21"))
    assert subnetwork("nancy", [], {}) is None
