"""OAR's jobs: how they are submitted and found again; when they are polled."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.errors import SpecError, TestbedError
from g5kvirt.spec.spec import Spec
from g5kvirt.testbeds.base import ReservationRequest
from g5kvirt.testbeds.grid5000 import frontends, jobs
from g5kvirt.testbeds.grid5000.answers import Answer
from g5kvirt.testbeds.grid5000.jobs import (
    matches_request,
    polling_delay,
    resources,
    submission,
)

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


def request(**words: Any) -> ReservationRequest:
    known: dict[str, Any] = {
        "machines": {"nancy": 3, "rennes": 2},
        "subnetworks": {"nancy": 22, "rennes": 20},
    }
    return ReservationRequest(**{**known, "walltime": 600, "job_name": "job", "vlan_site": "nancy", **words})


# ---- submitting -------------------------------------------------------------------------------------


def test_resources_of_one_site_have_the_global_kavlan() -> None:
    one = request(clusters={"rennes": "paradent"})
    assert resources(one, "nancy") == ["{type='kavlan-global'}/vlan=1", "slash_22=1", "nodes=3"]
    assert resources(one, "rennes") == ["slash_20=1", "{cluster='paradent'}/nodes=2"]


def test_properties_apply_to_machines_only_and_keep_the_cluster() -> None:
    one = request(clusters={"rennes": "paradent"}, properties="memnode >= 16384 OR host LIKE 'a%'")
    assert resources(one, "nancy")[1:] == ["slash_22=1", "{(memnode >= 16384 OR host LIKE 'a%')}/nodes=3"]
    assert resources(one, "rennes")[1:] == [
        "{cluster='paradent' AND (memnode >= 16384 OR host LIKE 'a%')}/nodes=2"
    ]


@given(st.text("abzAZ09_ .,'=<>!()%+*/:-", min_size=1) | st.text(st.characters(codec="ascii"), min_size=1))
def test_properties_never_leave_their_word_of_the_command(properties: str) -> None:
    """What a Spec accepts stays one word of the command that execo builds for the frontend's shell."""
    oar = pytest.importorskip("execo_g5k.oar", reason="execo is not installed")
    try:
        spec = Spec(sites={"nancy": 2}, vms=1, properties=properties)
    except SpecError:
        return
    assert spec.properties is not None
    one = request(properties=spec.properties, queue="production", project="my-project")
    command = oar.get_oarsub_commandline(submission(one, "nancy", DATE))
    words = shlex.split(command)
    assert words[:3] == ["oarsub", "-l", f"{'+'.join(resources(one, 'nancy'))},walltime=0:10:0"]
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
def test_properties_with_shell_or_sql_syntax_are_refused(properties: str) -> None:
    with pytest.raises(SpecError, match="properties must be"):
        Spec(sites={"nancy": 2}, vms=1, properties=properties)


def test_job_types_are_submitted_besides_deploy() -> None:
    oar = pytest.importorskip("execo_g5k.oar", reason="execo is not installed")
    words = shlex.split(
        oar.get_oarsub_commandline(submission(request(job_types=("exotic", "night")), "nancy", None))
    )
    types = {value for option, value in pairwise(words) if option == "-t"}
    assert types == {"deploy", "exotic", "night", "origin=execo"}


# ---- finding again ----------------------------------------------------------------------------------


def test_job_with_the_same_command_line_is_found() -> None:
    assert matches_request(PRINTED, request(), "nancy")
    assert matches_request(PRINTED.replace("\n", "\r\n"), request(), "nancy")
    assert matches_request(PRINTED, request(start=DATE), "nancy")
    assert matches_request(PRINTED, request(start="first"), "nancy")
    assert matches_request(PRINTED.replace("Waiting", "Running"), request(), "nancy")
    typed = PRINTED.replace("-t deploy", "-t exotic -t deploy -t night")
    assert matches_request(typed, request(job_types=("exotic", "night")), "nancy")
    queued = PRINTED.replace(" -r ", " -q production --project p -r ")
    assert matches_request(queued, request(queue="production", project="p"), "nancy")


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
        (("", ""), {"job_types": ("exotic",)}),
        (("-t deploy", "-t deploy -t night"), {"job_types": ("exotic", "night")}),
        (("-t deploy", "-t deploy -t exotic"), {}),
        (("", ""), {"vlan_site": "rennes"}),
        (("", ""), {"properties": "memnode > 1"}),
        (("", ""), {"machines": {"nancy": 2}}),
    ],
)
def test_job_that_ended_or_differs_is_not_found(change: tuple[str, str], words: dict[str, Any]) -> None:
    printed = PRINTED.replace(*change) if change[0] else PRINTED
    assert not matches_request(printed, request(**words), "nancy")
    assert not matches_request("", request(), "nancy"), "no answer"


# ---- waiting ----------------------------------------------------------------------------------------


def test_polling_delay_is_long_while_starts_are_far_away() -> None:
    assert polling_delay([], 0, 2, 10) == 2
    assert polling_delay([100_000], 0, 2, 10) == 60
    assert polling_delay([110], 0, 2, 10) == 30
    assert polling_delay([50], 0, 2, 10) == 10
    assert polling_delay([5], 0, 2, 10) == 5
    assert polling_delay([-1, 1000], 0, 2, 10) == 2
    assert 0.2 <= polling_delay([0.01], 0, 0.25, 0.5) <= 0.5


@given(st.lists(st.floats(-100, 1e6), max_size=3), st.floats(0.1, 5), st.floats(5, 20))
def test_polling_delay_never_passes_the_next_start(starts: list[float], often: float, seldom: float) -> None:
    nap = polling_delay(starts, 0, often, seldom)
    assert 0 < nap <= 60
    ahead = [s for s in starts if s > 0]
    if ahead and len(ahead) == len(starts):
        assert nap <= max(min(ahead), often)


class Clock:
    """Time that passes only by sleeping, and OAR's answers at each time."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, answer: Callable[[float, str], dict[str, Any]]
    ) -> None:
        self.now = 1000.0
        self.notified: list[tuple[str, str, Mapping[str, Any]]] = []
        self.job_info = lambda site, job: answer(self.now, site)
        monkeypatch.setattr(jobs, "time", SimpleNamespace(time=lambda: self.now, sleep=self.sleep))

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds

    def wait(self, deadline: float, fixed: bool = True) -> None:
        def notify(site: str, what: str, detail: Mapping[str, Any]) -> None:
            self.notified.append((site, what, detail))

        jobs.wait_until_running(
            {"nancy": 7, "rennes": 8}, deadline, 10, 2, notify, fixed=fixed, job_info=self.job_info
        )


def test_waiting_notifies_each_prediction_once_and_ends_when_all_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(now: float, site: str) -> dict[str, Any]:
        start = 8200.0 if site == "nancy" or now > 3000 else 8100.0
        return {"state": "Running" if now >= start else "Waiting", "start_date": start}

    clock = Clock(monkeypatch, answer)
    clock.wait(9000)
    assert 8200 <= clock.now < 8212
    assert [(site, what) for site, what, _ in clock.notified] == [
        ("nancy", "predicted"),
        ("rennes", "predicted"),
        ("rennes", "predicted"),
        ("nancy", "running"),
        ("rennes", "running"),
    ]
    assert clock.notified[2][2] == {"job": 8, "start": 8200.0}


@pytest.mark.parametrize("ended", ["Error", "toError"])
def test_waiting_notices_a_deleted_job_long_before_the_start(
    ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(now: float, site: str) -> dict[str, Any]:
        gone = site == "rennes" and now > 2000
        return {"state": ended if gone else "Waiting", "start_date": 90_000.0}

    clock = Clock(monkeypatch, answer)
    with pytest.raises(TestbedError, match="job 8 at rennes ended before it ran"):
        clock.wait(95_000)
    assert clock.now < 2100


def test_waiting_notices_a_start_earlier_than_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(now: float, site: str) -> dict[str, Any]:
        return {"state": "Running" if now > 1100 else "Waiting", "start_date": 90_000.0}

    clock = Clock(monkeypatch, answer)
    clock.wait(95_000, fixed=False)
    assert clock.now < 1115


def test_waiting_is_bounded_and_tolerates_missing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, lambda now, site: {})
    with pytest.raises(TestbedError, match=r"is not known: neither its API nor its frontend answers"):
        clock.wait(1300)
    assert 1300 <= clock.now < 1310
    clock = Clock(monkeypatch, lambda now, site: {"state": "Waiting", "scheduled_start": DATE})
    with pytest.raises(TestbedError, match=r"\(Waiting, expected at 2026-11-22 19:37:21 in Paris\)"):
        clock.wait(1300)


# ---- deleting ---------------------------------------------------------------------------------------


def test_a_deletion_that_is_lost_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frontend's sshd that is dead for a moment loses oardel, which says nothing."""
    sent: list[str] = []

    def run(site: str, command: str, timeout: float) -> Answer:
        assert 0 < timeout <= 20
        assert command == f"oardel {1 if site == 'nancy' else 2}"
        sent.append(site)
        return Answer(code=0)

    def info(site: str, job: int) -> dict[str, str]:
        reached = sent.count("nancy") >= 2 if site == "nancy" else bool(sent)
        return {"state": "Terminated" if reached else "Running"}

    monkeypatch.setattr(jobs, "run_on_frontend", run)
    monkeypatch.setattr(jobs, "_DELETE_AGAIN", 0.05)
    jobs.delete([("nancy", 1), ("rennes", 2)], 20, 0.01, info)
    assert sorted(sent) == ["nancy", "nancy", "rennes"]
    jobs.delete([], 20, 0.01, info)
    assert len(sent) == 3


@pytest.mark.parametrize(
    ("process", "reason"),
    [
        ({"exit_code": 65280}, "ssh failed without a message"),
        ({"exit_code": 255}, "ssh failed without a message"),
        ({"exit_code": 256}, "exit code 1"),
        ({"exit_code": 15}, "ended by SIGTERM before it answered"),
        ({"exit_code": 35}, "ended by signal 35 before it answered"),
        ({"exit_code": 15, "timeouted": True, "timeout": 30}, "no answer within 30 s"),
        ({"exit_code": None}, "no answer"),
        ({"exit_code": 256, "stderr": "\nNo such job\x1b[1m\n"}, r"No such job\x1b[1m"),
        ({"exit_code": 0, "stdout": "g5kvirt-err:No job\x1b[1m\r\ng5kvirt-end:70\r\n"}, "No job"),
        ({"exit_code": 0, "stdout": "Welcome\r\ng5kvirt-end:70\r\n"}, "exit code 70"),
        ({"exit_code": 0, "stdout": "\x1b[1mWelcome\r\n2 users\r\n"}, 'read: "Welcome / 2 users"'),
        ({"exit_code": 0}, "no answer"),
        (
            {"exit_code": 255, "stderr": "ssh: connect to host f port 22: Connection refused\n"},
            "Connection refused",
        ),
    ],
)
def test_how_a_process_failed_is_told_in_words(process: dict[str, Any], reason: str) -> None:
    one = SimpleNamespace(**({"stdout": "", "stderr": ""} | process))
    assert reason in frontends.answer_of(one).failure


def test_site_that_never_answers_is_not_waited_for_as_long_as_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_SILENT_LIMIT", 0.5)
    deletions: list[str] = []

    def run(site: str, command: str, timeout: float) -> Answer:
        deletions.append(f"{site}: {command}")
        return Answer(code=0) if site == "nancy" else Answer(failure="no answer")

    monkeypatch.setattr(jobs, "run_on_frontend", run)
    begun = time.monotonic()

    def state(site: str, job: int) -> dict[str, str]:
        if site == "rennes":
            return {}
        return {"state": "Running" if time.monotonic() - begun < 1.0 else "Error"}

    monkeypatch.setattr(jobs, "info", state)
    with pytest.raises(TestbedError, match=r"these jobs could not be deleted: 2 at rennes \(no answer\)"):
        jobs.delete([("nancy", 1), ("rennes", 2)], 60.0, 0.05, state)
    assert 1.0 < time.monotonic() - begun < 5.0, "nancy's job was waited for"
    assert sorted(deletions) == ["nancy: oardel 1", "rennes: oardel 2"]
