"""What the answers of a testbed mean, and that no question goes on for ever or raises."""

from __future__ import annotations

import threading
import time
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest

from g5kvirt.errors import TestbedError
from g5kvirt.inventory import GIB, Host
from g5kvirt.planning.inventories import Inventory, Machine
from g5kvirt.planning.preflight import Row
from g5kvirt.spec.clock import PARIS
from g5kvirt.spec.spec import Spec
from g5kvirt.testbeds.base import Request
from g5kvirt.testbeds.grid5000 import preflight
from g5kvirt.testbeds.grid5000.calendar import RESOURCES
from g5kvirt.testbeds.grid5000.driver import Grid5000, Settings
from g5kvirt.testbeds.grid5000.preflight import (
    ask_api,
    ask_charter,
    ask_frontends,
    ask_start,
    frontend_rows,
    judge_properties,
    resources_of,
)

THERE = "g5kvirt-there\r\n"
PRINTED = "---\r\nname: debian12-min\r\nos: linux\r\ng5kvirt-code 0\r\n"
REFUSED = "[ERROR] The environment x of deploy does not exist\r\ng5kvirt-code 1\r\n"
CLOSED = "Connection to nancy.grid5000.fr closed.\r\n"


def statuses(rows: list[Row]) -> dict[str, str]:
    return {row.what: row.status for row in rows}


# ---- frontends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "err", "expected"),
    [
        (THERE + PRINTED, CLOSED, {"frontend": "ok", "environment": "ok"}),
        (THERE + REFUSED, CLOSED, {"frontend": "ok", "environment": "problem"}),
        # mine is not there, everybody's is
        (THERE + REFUSED.splitlines()[0] + "\r\n" + PRINTED, "", {"frontend": "ok", "environment": "ok"}),
        # an exit code alone proves nothing
        (THERE + "g5kvirt-code 0\r\n", "", {"frontend": "ok", "environment": "problem"}),
        (THERE + "g5kvirt-no-kaenv3\r\n", "", {"frontend": "ok", "environment": "unknown"}),
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
def test_what_a_frontend_s_answer_means(out: str, err: str, expected: dict[str, str]) -> None:
    rows = frontend_rows("nancy", "debian12-min", out, err)
    assert statuses(rows) == expected
    assert all(row.todo for row in rows if row.status == "problem")


def test_the_reason_is_said() -> None:
    [_, environment] = frontend_rows("nancy", "x", THERE + REFUSED, "")
    assert "does not give x (The environment x of deploy does not exist)" in environment.says
    down, _ = frontend_rows("nancy", "x", "", "ssh: connect to host n port 22: Connection refused\r\n")
    assert "Connection refused" in down.says
    assert "nancy.grid5000.fr" in down.todo


def test_frontends_are_asked_side_by_side_and_the_silent_one_is_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()
    together = threading.Barrier(2, timeout=30)

    def frontend(site: str, command: str, timeout: float) -> Any:
        assert "kaenv3 -p 'a b'" in command
        if site == "silent":
            released.wait(30)
        together.wait()
        if site == "broken":
            raise OSError("no ssh here")
        return SimpleNamespace(stdout=THERE + PRINTED, stderr="")

    monkeypatch.setattr(preflight, "frontend", frontend)
    monkeypatch.setattr(preflight, "FRONTEND_LIMIT", -7.0)  # and ten seconds more
    try:
        rows = ask_frontends(Grid5000(Settings()), ["nancy", "broken", "silent"], "a b")
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


def test_where_no_frontend_answers_nothing_is_known_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = SimpleNamespace(stdout="", stderr="ssh: Connection refused")
    monkeypatch.setattr(preflight, "frontend", lambda *_: answer)
    rows = ask_frontends(Grid5000(Settings()), ["nancy"], "x")
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

    monkeypatch.setattr(preflight, "_get", get)


def test_what_the_api_says(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, documents())
    rows, inventory = ask_api(Grid5000(Settings()), {"nancy"})
    assert [row.status for row in rows] == ["ok"]
    assert inventory is not None
    [machine] = inventory.machines["nancy"]
    assert machine.host.cores == 18
    assert (machine.virtual, machine.kavlan, machine.x86, machine.state) == (True, True, True, "Suspected")
    assert inventory.machines["rennes"] == (), "known, so that a wrong name can be told from it"
    assert inventory.largest == {"nancy": 17}
    assert inventory.vlans == {"nancy": 1}


def test_a_silent_api(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, {"sites": OSError("https://me:secret@api: connection refused")})
    rows, inventory = ask_api(Grid5000(Settings()), {"nancy"})
    assert inventory is None
    assert statuses(rows) == {"API": "problem"}
    assert "secret" not in rows[0].says


def test_a_silent_site_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, documents(**{"sites/rennes/clusters": OSError("timed out")}))
    rows, inventory = ask_api(Grid5000(Settings()), set())
    assert inventory is not None
    assert inventory.silent == {"rennes"}
    assert len(inventory.machines["nancy"]) == 1
    assert ("rennes", "problem") in [(row.subject, row.status) for row in rows]


def test_oar_that_does_not_answer_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    known = documents()
    del known[RESOURCES.format("nancy")]
    serve(monkeypatch, known)
    rows, inventory = ask_api(Grid5000(Settings()), {"nancy"})
    assert statuses(rows) == {"API": "ok", "OAR's resources": "unknown"}
    assert inventory is not None
    assert inventory.machines["nancy"][0].state is None
    assert inventory.largest == {}


def test_where_oar_has_no_sub_networks_the_site_s_document_says_how_large_they_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = RESOURCES.format("nancy")
    pool = {"g5ksubnet": {"network": "10.144.0.0/14"}}
    serve(monkeypatch, documents(**{path: {"items": OAR[:2]}, "sites/nancy": pool}))
    _, inventory = ask_api(Grid5000(Settings()), {"nancy"})
    assert inventory is not None
    assert inventory.largest == {"nancy": 16}


def test_a_testbed_that_is_no_grid5000_says_only_its_hosts() -> None:
    host = Host("a", "nancy", "a", 1, GIB)
    rows, inventory = ask_api(SimpleNamespace(name="x", hosts=lambda: {"nancy": [host]}), ())  # type: ignore[arg-type]
    assert inventory is not None
    assert inventory.machines == {"nancy": (Machine(host),)}
    assert rows[0].status == "ok"
    broken: Any = SimpleNamespace(name="x")
    assert ask_api(broken, ())[1] is None


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
def test_the_state_of_a_machine(item: dict[str, Any], state: str) -> None:
    found = resources_of([{"type": "default", "network_address": "n", **item}], now=1e9)
    assert found.properties["n"]["state"] == state


def test_a_site_without_global_kavlans_or_sub_networks() -> None:
    assert resources_of([{"type": "kavlan-local", "vlan": "1"}], 0).vlans == 0
    assert resources_of([], 0).vlans is None
    assert resources_of([{"type": "subnet"}], 0).largest is None


# ---- OAR -----------------------------------------------------------------------------------------------


def inventory_of(*properties: dict[str, Any]) -> Inventory:
    machines = tuple(
        Machine(Host(f"a-{i}", "nancy", "a", 1, GIB), properties=p) for i, p in enumerate(properties)
    )
    return Inventory("test", {"nancy": machines})


def test_properties_are_judged() -> None:
    spec = Spec(sites={"nancy": 1}, vms=1, properties="memnode >= 16384")
    [row], found = judge_properties(spec, inventory_of({"memnode": 4096}, {"memnode": 32768}))
    assert (row.status, found.meeting) == ("ok", {"a-1"})
    [row], found = judge_properties(spec, inventory_of({"memcore": 1}))
    assert (row.status, found.meeting) == ("warning", None)
    [row], found = judge_properties(spec, inventory_of({"memnode": 4096}, {}))
    assert (row.status, found.meeting) == ("unknown", None)
    assert judge_properties(Spec(sites={"nancy": 1}, vms=1), inventory_of({}))[0] == []


REQUEST = Request({"nancy": 2}, {}, 3600, "x")


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
def test_when_all_of_it_is_free(answer: Any, start: Any, status: str) -> None:
    def first_start(_: Request) -> float | None:
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    bed: Any = SimpleNamespace(first_start=first_start)
    request = Request({"nancy": 2}, {}, 3600, "x", start=start)
    row = ask_start(bed, request, now=1000.0)
    assert row.status == status
    if isinstance(answer, float) and answer > 1000:
        assert f"{datetime.fromtimestamp(answer, PARIS):%Y-%m-%d %H:%M} in Paris" in row.says


def test_the_charter(monkeypatch: pytest.MonkeyPatch) -> None:
    def judging(answer: Any) -> None:
        def judge(*_: object) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return lambda _: answer

        monkeypatch.setattr(Grid5000, "judge", judge)

    bed = Grid5000(Settings())
    judging("")
    assert ask_charter(bed, REQUEST, 0.0).status == "ok"
    judging("the usage charter allows 3: start after 19 o'clock")
    row = ask_charter(bed, REQUEST, 0.0)
    assert (row.status, row.todo) == ("problem", "start after 19 o'clock")
    judging(OSError("down"))
    assert ask_charter(bed, REQUEST, 0.0).status == "unknown"
    assert ask_charter(Grid5000(Settings(charter=False)), REQUEST, 0.0).status == "ok"


def test_whatever_hangs_is_left_behind() -> None:
    released = threading.Event()
    began = time.monotonic()
    found = preflight._all(lambda item: released.wait(30) if item else item, [True, False], 1.0)
    released.set()
    assert time.monotonic() - began < 20
    assert isinstance(found[True], TimeoutError)
    assert found[False] is False


def test_a_silent_api_is_no_reason_not_to_ask_the_frontends(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(_: Grid5000) -> None:
        raise TestbedError("the API does not answer")

    monkeypatch.setattr(Grid5000, "connect", connect)
    monkeypatch.setattr(preflight, "_connected", ["grid5000"])
    assert preflight.connect(Grid5000(Settings())) is None
    # but this process speaks to another testbed: its frontends would be asked
    assert preflight.connect(Grid5000(Settings(api_uri="http://elsewhere"))) == "the API does not answer"
