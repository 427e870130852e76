"""What jobs were given, and the jobs themselves, read through noise: a result or one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network

import pytest
from at_once import AtOnce
from hypothesis import example, given
from hypothesis import strategies as st
from noise import WORDS, connection, ends, finished, noise, prompts

from g5kvirt.errors import TestbedError
from g5kvirt.inventory import SubNetwork
from g5kvirt.testbeds.base import ReservationRequest
from g5kvirt.testbeds.grid5000 import granted, jobs
from g5kvirt.testbeds.grid5000.answers import Answer, read_answer
from g5kvirt.testbeds.grid5000.frontends import answer_of
from g5kvirt.testbeds.grid5000.granted import Allocation, machine_names, subnetwork, vlan_ids

TABLE = [
    "Job id     Name           User           State",
    "---------- -------- ---",
    "7  run  g5k  R",
    "12 x g5k W",
]
JOB = ["id: 7", "    name = run", "    state = Running", "    start_time = 2026-11-22 19:37:21"]
OTHER = ["Job_Id: 12", "    name = other", "    state = Waiting"]
ROW = "10.144.4.0/22\t10.147.255.255\t255.252.0.0\t10.147.255.254\t10.144.0.0\tdns.nancy\t172.16.0.1"
#: What a frontend prints, by a part of the command: the lines, and the exit code.
CLEAN: dict[str, tuple[list[str], int]] = {
    "oarprint": (["gros-2.nancy.grid5000.fr", "gros-10.nancy.grid5000.fr"], 0),
    "g5k-subnets": ([ROW], 0),
    "kavlan -j": (["14"], 0),
    "oarstat -u": (TABLE, 0),
    "oarstat -fj 7": (JOB, 0),
    "oarstat -fj 12": (OTHER, 0),
    "oarsub": (["[ADMISSION RULE] Modify", "OAR_JOB_ID=7"], 0),
    "oardel": (["Deleting the job = 7 ...REGISTERED."], 0),
}
GIVEN = Allocation(
    ("gros-10.nancy.grid5000.fr", "gros-2.nancy.grid5000.fr"),
    SubNetwork("nancy", IPv4Network("10.144.4.0/22"), IPv4Address("10.147.255.254")),
    14,
)
REQUEST = ReservationRequest({"nancy": 2}, {"nancy": 22}, 600, "run", vlan_site="nancy")

Patch = pytest.MonkeyPatch


def install(patch: Patch, print_: Callable[[list[str], int], str]) -> None:
    """The frontend: ``print_`` makes what comes over the connection, of the clean answer."""

    def run(site: str, command: str, timeout: float | None = None) -> Answer:
        clean = next((answer for part, answer in CLEAN.items() if part in command), ([], 0))
        return answer_of(finished(print_(*clean)))

    patch.setattr(granted, "run_on_frontend", run)
    patch.setattr(jobs, "run_on_frontend", run)


@given(noise, prompts, ends)
def test_answers_are_read_through_any_noise(noisy: Sequence[Sequence[str]], prompt: str, end: str) -> None:
    noisy = [[re.sub("[\r\n]", " ", line) for line in part] for part in noisy]
    with Patch.context() as patch:
        install(patch, lambda lines, code: connection(lines, code, noisy, prompt, end, ["perl: warning"]))
        assert granted.allocation("nancy", 7, True) == GIVEN
        assert jobs.find(["nancy"], "run") == [("nancy", 7)]
        assert jobs.info("nancy", 7) == {"name": "run", "state": "Running", "start_date": 1795372641.0}
        assert jobs.job_name("nancy", 12, 5) == "other"
        assert jobs.submit("nancy", REQUEST, None) == 7


BROKEN = st.lists(st.sampled_from(WORDS) | st.text(max_size=20), max_size=4)


@given(BROKEN, st.sampled_from((0, 1, 70, 255, None)), st.booleans())
@example(["\x1b]0;g5k@fnancy: ~\x07"], 70, True)  # a terminal's title is nothing that was printed
def test_any_answer_is_a_result_or_one_sentence(words: list[str], code: int | None, instead: bool) -> None:
    """Also where the noise is amid the answer, or takes its place."""
    words = [re.sub("[\r\n]", " ", word) for word in words]
    calls: list[Callable[[], object]] = [
        lambda: granted.allocation("nancy", 7, True),
        lambda: jobs.find(["nancy"], "run"),
        lambda: jobs.submit("nancy", REQUEST, None),
        lambda: jobs.delete([("nancy", 7)], 0.0, 0.0, jobs.info),
        lambda: jobs.info("nancy", 7),
    ]
    with Patch.context() as patch:
        install(
            patch, lambda lines, _: connection(words if instead else [*lines[:1], *words, *lines[1:]], code)
        )
        told = [_told(call) for call in calls]
    for text in told:
        assert "\n" not in text
        assert len(text) < 600
        assert "exit code 70" not in text or not any(_is_visible(word) for word in words)
        assert "has no KaVLAN" not in text or "no vlan found" in words


def _is_visible(word: str) -> bool:
    """Whether anything of it is left without what is for the terminal."""
    read = read_answer(word)
    return bool(read.noise or read.lines or read.errors)


def _told(call: Callable[[], object]) -> str:
    """The sentence of an error, or nothing."""
    try:
        call()
    except TestbedError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("oarprint", 'cannot be read (the answer about its machines cannot be read: "some words'),
        ("g5k-subnets", 'the answer about its sub-network cannot be read: "some words'),
        ("kavlan -j", 'the answer about its KaVLAN cannot be read: "some words'),
    ],
)
def test_unreadable_answer_is_quoted(part: str, words: str, monkeypatch: Patch) -> None:
    clean = dict(CLEAN)
    monkeypatch.setitem(CLEAN, part, (["some \x1b[1mwords"], 0))
    install(monkeypatch, connection)
    with pytest.raises(TestbedError) as told:
        granted.allocation("nancy", 7, True)
    assert words in str(told.value)
    monkeypatch.setitem(CLEAN, part, ([], 70))
    with pytest.raises(TestbedError, match=r"exit code 70"):
        granted.allocation("nancy", 7, True)
    assert clean != CLEAN


def test_listing_that_cannot_be_read_hides_no_job(monkeypatch: Patch) -> None:
    install(monkeypatch, connection)
    monkeypatch.setitem(CLEAN, "oarstat -fj 12", (["database is down"], 0))
    with pytest.raises(TestbedError, match=r'left at nancy cannot be listed .*"database is down"'):
        jobs.find(["nancy"], "run")
    monkeypatch.setitem(CLEAN, "oarstat -u", (["database is down"], 0))
    with pytest.raises(TestbedError, match=r'left at nancy cannot be listed .*"database is down"'):
        jobs.find(["nancy"], "run")
    monkeypatch.setitem(CLEAN, "oarstat -u", ([], 0))
    assert jobs.find(["nancy"], "run") == []


def test_user_with_many_jobs_does_not_flood_the_frontend(monkeypatch: Patch) -> None:
    """sshd refuses logins beyond MaxStartups, ten by default."""
    busy = AtOnce()

    def run(site: str, command: str, timeout: float | None = None) -> Answer:
        if "-u" in command:
            return Answer(("Job id S User", *(f"{job} R me" for job in range(1, 61))), code=0)
        busy.stay(0.005)
        job = command.split()[-1]
        return Answer(
            (f"Job_Id: {job}", f"    name = {'run' if job == '60' else 'other'}", "    state = Running"),
            code=0,
        )

    monkeypatch.setattr(jobs, "run_on_frontend", run)
    assert jobs.find(["nancy"], "run") == [("nancy", 60)]
    assert 1 < busy.most <= 5


def test_answer_about_another_job_is_none(monkeypatch: Patch) -> None:
    monkeypatch.setitem(CLEAN, "oarstat -fj 7", (OTHER, 0))
    install(monkeypatch, connection)
    assert jobs.job_name("nancy", 7, 5) is None
    assert "cannot be read" in jobs.info("nancy", 7)["failure"]


def test_vlans_machines_and_subnetworks_as_printed() -> None:
    assert vlan_ids(["14"]) == (14,)
    assert vlan_ids(["no vlan found"]) == ()
    assert machine_names(["b-1.nancy.grid5000.fr", "b-1.nancy.grid5000.fr"]) == ("b-1.nancy.grid5000.fr",)
    two = [ROW, ROW.replace("10.144.4.0", "10.144.0.0")]
    assert subnetwork("nancy", two) == SubNetwork("nancy", IPv4Network("10.144.0.0/21"))
    assert subnetwork("nancy", []) is None
    bad: list[tuple[Callable[[Sequence[str]], object], list[str]]] = [
        (vlan_ids, []),
        (vlan_ids, ["14", "12 users"]),
        (machine_names, []),
        (machine_names, ["# ERROR: no job"]),
        (lambda lines: subnetwork("nancy", lines), ["12 users"]),
        (lambda lines: subnetwork("nancy", lines), ["10.144.4.0/99\tx"]),
    ]
    for read, lines in bad:
        with pytest.raises(ValueError, match=r"no |bits|mask"):
            read(lines)


def test_refusal_gives_the_reason_that_counts_or_what_was_printed(monkeypatch: Patch) -> None:
    install(monkeypatch, connection)
    remarks = ["# Set walltime", "[ADMISSION_RULE] Modify"]
    monkeypatch.setitem(CLEAN, "oarsub", ([*remarks, "There are not enough resources.", "# Filtering"], 1))
    with pytest.raises(TestbedError, match="nancy refused the job: There are not enough resources"):
        jobs.submit("nancy", REQUEST, None)
    monkeypatch.setitem(CLEAN, "oarsub", (remarks, 3))
    words = 'it gave no reason, only "# Set walltime / .ADMISSION_RULE. Modify"'
    with pytest.raises(TestbedError, match=words):
        jobs.submit("nancy", REQUEST, None)
