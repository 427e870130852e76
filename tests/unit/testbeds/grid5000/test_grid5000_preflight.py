"""Findings about Grid'5000 before anything is reserved: what answers mean; everything is bounded."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest

from g5kvirt.errors import TestbedError
from g5kvirt.inventory import GIB, Host
from g5kvirt.planning.availability import Calendar, SiteCalendar
from g5kvirt.planning.preflight import Finding
from g5kvirt.spec.clock import PARIS
from g5kvirt.testbeds.base import ReservationRequest
from g5kvirt.testbeds.grid5000 import api, connection, preflight, scheduling
from g5kvirt.testbeds.grid5000.answers import Answer
from g5kvirt.testbeds.grid5000.charter import Breach
from g5kvirt.testbeds.grid5000.driver import Grid5000, Settings
from g5kvirt.testbeds.grid5000.frontends import answer_of
from g5kvirt.testbeds.grid5000.preflight import (
    charter_finding,
    find_environment,
    frontend_findings,
    inventory,
    start_finding,
)
from g5kvirt.testbeds.grid5000.resources import RESOURCES, parse_resources

THERE = "g5kvirt-out:g5kvirt-shell bash\r\n"
PRINTED = "g5kvirt-out:---\r\ng5kvirt-out:name: debian12-min\r\ng5kvirt-out:os: linux\r\n"
MISSING = "g5kvirt-out:[ERROR] The environment x of deploy does not exist\r\n"
GOOD, BAD = "g5kvirt-end:0\r\n", "g5kvirt-end:1\r\n"
REFUSED = "ssh: connect to host n port 22: Connection refused\r\n"
CLOSED = "Connection to nancy.grid5000.fr closed.\r\n"


def answer(out: str, err: str = "") -> Answer:
    """What `run_on_frontend` makes of it."""
    code = 255 if err and err != CLOSED else 0
    return answer_of(SimpleNamespace(stdout=out, stderr=err, exit_code=code, timeouted=False, timeout=30))


def statuses(findings: Sequence[Finding]) -> dict[str, str]:
    return {finding.what: finding.status for finding in findings}


# ---- frontends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "err", "expected"),
    [
        (THERE + PRINTED + GOOD, CLOSED, {"frontend": "ok", "environment": "ok"}),
        (THERE + MISSING + BAD, CLOSED, {"frontend": "ok", "environment": "problem"}),
        # mine is not there, everybody's is
        (THERE + MISSING + PRINTED + GOOD, "", {"frontend": "ok", "environment": "ok"}),
        # an exit code alone is not enough
        (THERE + GOOD, "", {"frontend": "ok", "environment": "problem"}),
        (
            THERE + "g5kvirt-out:g5kvirt-no-kaenv3\r\n" + GOOD,
            "",
            {"frontend": "ok", "environment": "unknown"},
        ),
        (THERE, "", {"frontend": "ok", "environment": "unknown"}),  # cut short in kaenv3
        ("", "", {"frontend": "problem", "environment": "unknown"}),
        (
            "",
            "ssh: connect to host nancy.grid5000.fr port 22: Connection refused",
            {"frontend": "problem", "environment": "unknown"},
        ),
        (
            "",
            "Warning: Permanently added 'nancy' (ED25519) to the list of known hosts.\r\n"
            "g5k@nancy: Permission denied (publickey).\r\n",
            {"frontend": "ok", "ssh key": "problem", "environment": "unknown"},
        ),
    ],
)
def test_frontend_findings(out: str, err: str, expected: dict[str, str]) -> None:
    rows = frontend_findings("nancy", "debian12-min", answer(out, err))
    assert statuses(rows) == expected
    with_advice = {row.what for row in rows if row.advice}
    assert with_advice == {what for what, status in expected.items() if status == "problem"}


def test_frontend_findings_have_the_reason_and_a_code() -> None:
    [_, environment] = frontend_findings("nancy", "x", answer(THERE + MISSING + BAD))
    assert environment.code == "unknown-environment"
    assert (
        "Kadeploy3 has no environment x (The environment x of deploy does not exist)" in environment.message
    )
    down, _ = frontend_findings("nancy", "x", answer("", REFUSED))
    assert "Connection refused" in down.message
    assert "nancy.grid5000.fr" in down.advice


def test_noisy_login_shell_is_a_warning_and_hides_nothing() -> None:
    noise = "Welcome to \x1b[1mnancy, 12 users\r\nname: motd\r\n> "
    out = noise + THERE + PRINTED.replace("\r\n", "\r\nmail!\r\n") + GOOD + "bye\r\n"
    findings = frontend_findings("nancy", "debian12-min", answer(out.replace("bash", "fish"), CLOSED))
    assert statuses(findings) == {"frontend": "ok", "login shell": "warning", "environment": "ok"}
    assert findings[0].message == "answers, login shell fish"
    assert r'"Welcome to nancy, 12 users / name: motd / > / mail!' in findings[1].message
    assert "print nothing" in findings[1].advice


def test_frontend_that_runs_no_command_is_quoted() -> None:
    [first, _] = frontend_findings("nancy", "x", answer("This account is closed.\r\n", CLOSED))
    assert first.status == "problem"
    assert 'does not run our commands (its answer cannot be read: "This account is closed."' in first.message


def test_environment_named_like_an_error_is_not_taken_for_unknown() -> None:
    out = THERE + "g5kvirt-out:[ERROR] x-unknown: connection refused\r\n" + BAD
    [_, environment] = frontend_findings("nancy", "x-unknown", answer(out))
    assert (environment.status, environment.code) == ("problem", "unusable")


def test_find_environment_is_parallel_and_does_not_wait_for_a_silent_frontend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()
    together = threading.Barrier(2, timeout=30)

    def run(site: str, command: str, timeout: float) -> Any:
        assert "kaenv3 -p 'a b'" in command
        if site == "silent":
            released.wait(30)
        together.wait()
        if site == "broken":
            raise OSError("no ssh here")
        return answer(THERE + PRINTED + GOOD)

    monkeypatch.setattr(preflight, "run_on_frontend", run)
    monkeypatch.setattr(preflight, "FRONTEND_LIMIT", -7.0)  # and ten seconds more
    try:
        rows = find_environment("a b", ["nancy", "broken", "silent"])
    finally:
        released.set()
        together.abort()
    assert [(r.subject, r.status) for r in rows if r.what == "frontend"] == [
        ("nancy", "ok"),
        ("broken", "problem"),
        ("silent", "problem"),
    ]
    assert [r.status for r in rows if r.what == "ssh key"] == ["ok"]
    assert "no ssh here" in str(rows)


def test_ssh_key_is_unknown_if_no_frontend_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "run_on_frontend", lambda *_: answer("", REFUSED))
    rows = find_environment("x", ["nancy"])
    assert statuses(rows) == {"frontend": "problem", "ssh key": "unknown", "environment": "unknown"}


# ---- the API -------------------------------------------------------------------------------------------

NODE = {
    "uid": "gros-1",
    "architecture": {"nb_cores": 18, "platform_type": "x86_64"},
    "main_memory": {"ram_size": 96 * GIB},
    "supported_job_types": {"deploy": True, "virtual": "ivt", "queues": ["default"]},
    "network_adapters": [
        {"mounted": True, "kavlan": True, "rate": 25e9, "network_address": "gros-1.nancy.grid5000.fr"}
    ],
}
OAR = [
    {
        "type": "default",
        "network_address": "gros-1.nancy.grid5000.fr",
        "state": "Suspected",
        "memnode": 98304,
    },
    {"type": "kavlan-global", "vlan": "14", "state": "Alive"},
    {"type": "subnet", "slash_22": 1, "slash_17": 1, "slash_16": None},
]


def documents(**changed: Any) -> dict[str, Any]:
    return {
        "sites": {"items": [{"uid": "nancy"}, {"uid": "rennes"}]},
        "sites/nancy/clusters": {"items": [{"uid": "gros"}]},
        "sites/nancy/clusters/gros/nodes": {"items": [NODE]},
        RESOURCES.format("nancy"): {"items": OAR},
        "sites/rennes/clusters": {"items": []},
    } | changed


def serve(monkeypatch: pytest.MonkeyPatch, known: dict[str, Any]) -> None:
    def get(path: str) -> Any:
        if path not in known:
            raise OSError(f"404 {path}")
        if isinstance(known[path], Exception):
            raise known[path]
        return known[path]

    monkeypatch.setattr(api, "get", get)


def test_inventory_is_read_from_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, documents())
    found, rows = inventory("test", {"nancy"})
    assert [row.status for row in rows] == ["ok"]
    assert found is not None
    [machine] = found.machines["nancy"]
    assert machine.host.cores == 18
    assert (machine.virtual, machine.kavlan, machine.x86, machine.state) == (True, True, True, "Suspected")
    assert found.machines["rennes"] == (), "listed, so that a misspelt name gets a suggestion"
    assert found.largest == {"nancy": 17}
    assert found.vlans == {"nancy": 1}


def test_silent_api_is_a_problem_without_password(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, {"sites": OSError("https://me:secret@api: connection refused")})
    found, rows = inventory("test", {"nancy"})
    assert found is None
    assert statuses(rows) == {"API": "problem"}
    assert "secret" not in rows[0].message


def test_silent_site_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, documents(**{"sites/rennes/clusters": OSError("timed out")}))
    found, rows = inventory("test", set())
    assert found is not None
    assert found.unanswered == {"rennes"}
    assert len(found.machines["nancy"]) == 1
    assert ("rennes", "problem") in [(row.subject, row.status) for row in rows]


def test_inventory_without_oar_has_no_states(monkeypatch: pytest.MonkeyPatch) -> None:
    known = documents()
    del known[RESOURCES.format("nancy")]
    serve(monkeypatch, known)
    found, rows = inventory("test", {"nancy"})
    assert statuses(rows) == {"API": "ok", "OAR's resources": "unknown"}
    assert found is not None
    assert found.machines["nancy"][0].state is None
    assert found.largest == {}


def test_largest_subnetwork_is_read_from_the_site_if_oar_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = RESOURCES.format("nancy")
    pool = {"g5ksubnet": {"network": "10.144.0.0/14"}}
    serve(monkeypatch, documents(**{path: {"items": OAR[:2]}, "sites/nancy": pool}))
    found, _ = inventory("test", {"nancy"})
    assert found is not None
    assert found.largest == {"nancy": 16}


@pytest.mark.parametrize(
    ("item", "state"),
    [
        ({"state": "Alive"}, "Alive"),
        ({"state": "Dead"}, "Dead"),
        ({"state": "Absent"}, "Absent"),
        ({"state": "Absent", "available_upto": 0}, "Absent"),
        ({"state": "Absent", "available_upto": 2147483646}, "Alive"),  # asleep: a job wakes it
        ({"state": "Alive", "maintenance": "YES"}, "in maintenance"),
    ],
)
def test_state_of_a_machine(item: dict[str, Any], state: str) -> None:
    found = parse_resources([{"type": "default", "network_address": "n", **item}], now=1e9)
    assert found.properties["n"]["state"] == state


def test_resources_without_global_kavlans_or_subnetworks() -> None:
    assert parse_resources([{"type": "kavlan-local", "vlan": "1"}], 0).vlan_count == 0
    assert parse_resources([], 0).vlan_count is None
    assert parse_resources([{"type": "subnet"}], 0).largest is None


# ---- the request ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "start", "status"),
    [
        (1000.0, "now", "ok"),
        (90_000.0, "now", "warning"),
        (90_000.0, "first", "ok"),
        (90_000.0, 95_000.0, "ok"),
        (90_000.0, 80_000.0, "warning"),
        (None, "now", "warning"),
        (OSError("down"), "now", "unknown"),
    ],
)
def test_start_finding(answer: Any, start: Any, status: str) -> None:
    finding = start_finding(ReservationRequest({"nancy": 2}, {}, 3600, "x", start=start), answer, now=1000.0)
    assert finding.status == status
    if isinstance(answer, float) and answer > 1000:
        assert f"{datetime.fromtimestamp(answer, PARIS):%Y-%m-%d %H:%M} (Paris time)" in finding.message


@pytest.mark.parametrize(
    ("answer", "status", "advice"),
    [
        (None, "ok", ""),
        (Breach("the usage charter allows 3", "start after 19 o'clock"), "problem", "start after 19 o'clock"),
        (OSError("down"), "unknown", "check your jobs by hand (oarstat -u)"),
    ],
)
def test_charter_finding(answer: Any, status: str, advice: str) -> None:
    finding = charter_finding(answer)
    assert (finding.status, finding.advice) == (status, advice)


class Sites:
    """A testbed with one machine for all jobs and an exotic one, both free."""

    def hosts(self) -> Any:
        return {"nancy": [Host(f"a-{n}", "nancy", "a", 4, GIB) for n in (1, 2)]}

    def select(self, properties: str, sites: Any) -> Any:
        raise AssertionError("no properties")

    def calendar(self, sites: Any, queue: str | None = None, job_types: Any = ()) -> Calendar:
        names = ["a-1", *(["a-2"] if "exotic" in job_types else [])]
        return Calendar(time.time(), time.time() + 1e6, {"nancy": SiteCalendar(dict.fromkeys(names, ()))})


def test_preflight_of_a_testbed_without_charter_only_looks_for_a_slot() -> None:
    findings = preflight.preflight(Sites(), ReservationRequest({"nancy": 1}, {}, 3600, "x"), None)
    assert statuses(findings) == {"usage charter": "ok", "start": "ok"}
    too_many = preflight.preflight(Sites(), ReservationRequest({"nancy": 2}, {}, 3600, "x"), None)
    assert statuses(too_many) == {"usage charter": "ok", "start": "warning"}
    exotic = ReservationRequest({"nancy": 2}, {}, 3600, "x", job_types=("exotic",))
    assert statuses(preflight.preflight(Sites(), exotic, None)) == {"usage charter": "ok", "start": "ok"}


def test_a_login_shell_of_any_length_is_shown_in_short() -> None:
    found, *_ = preflight.frontend_findings("nancy", "debian12-min", Answer((f"g5kvirt-shell {'9' * 5000}",)))
    assert found.message.startswith("answers, login shell 999")
    assert len(found.message) < 100


def test_preflight_says_when_a_type_may_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "is_working", lambda day: day.weekday() < 5)
    noon = datetime(2099, 11, 23, 12, 0, tzinfo=PARIS).timestamp()
    for start, status in ((noon, "problem"), (noon + 8 * 3600, "ok"), ("first", "ok")):
        asked = ReservationRequest({"nancy": 1}, {}, 3600, "x", start=start, job_types=("night",))
        (finding, _) = preflight.preflight(Sites(), asked, None)
        assert (finding.what, finding.status) == ("usage charter", status)
    assert finding.message


def test_a_silent_api_does_not_keep_the_frontends_from_being_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, {})
    monkeypatch.setattr(connection, "_configured", ["grid5000"])
    testbed = Grid5000(Settings(jump=""))
    found, findings = testbed.inventory(["nancy"])
    assert found is None
    assert statuses(findings) == {"API": "problem"}
    # but this process uses another testbed, whose frontends would answer
    with pytest.raises(TestbedError, match="already uses the testbed at grid5000"):
        Grid5000(Settings(api_uri="http://elsewhere", jump="")).inventory(["nancy"])
