"""Requests of the REST API that change something, over fakes of OAR's commands and of Kadeploy."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
from localfakes import FakeDatabase, FakeMachines, job

from g5kvirt.errors import TestbedError
from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local import rest
from g5kvirt.testbeds.local.frontend import Frontend

NODE, OTHER = "graphene-1.nancy.grid5000.fr", "graphene-2.nancy.grid5000.fr"
INTERFACE = "graphene-1-eth0.nancy.grid5000.fr"
REMARK = "[ADMISSION RULE] Modify resource description with type constraints"


@dataclass
class FakeCommands:
    """Frontends that record commands and print what they are told to."""

    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    asked: list[tuple[str, list[str]]] = field(default_factory=list)
    then: Callable[[], None] = lambda: None

    def run(self, site: str, argv: Sequence[str]) -> tuple[int, str]:
        self.asked.append((site, list(argv)))
        if argv[0] not in self.answers:
            raise TestbedError(f"the frontend of {site} does not answer")
        self.then()
        return self.answers[argv[0]]


class SlowMachines(FakeMachines):
    """Machines whose deployment lasts until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def deploy(self, *arguments: Any) -> None:
        assert self.go.wait(10)
        super().deploy(*arguments)


class Bed:
    def __init__(self) -> None:
        self.description = make({"nancy": 3, "rennes": 2})
        self.machines = SlowMachines()
        self.commands = FakeCommands()
        self.databases = {"nancy": FakeDatabase(), "rennes": FakeDatabase()}
        self.nancy = self.databases["nancy"]
        self.nancy.known = [job(1, NODE, vlans=(4,)), job(2, OTHER, user="eve"), job(3, state="Error")]
        frontend = Frontend("nancy", self.description, self.databases.__getitem__, self.machines)
        sock = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{sock.getsockname()[1]}/3.0/sites/nancy"
        self.session = requests.Session()
        self.session.trust_env = False
        self.thread = rest.serve(
            sock,
            self.description,
            self.databases.__getitem__,
            None,
            machines=self.machines,
            commands=self.commands,
            frontends={"nancy": frontend}.__getitem__,
        )

    def ask(self, method: str, path: str, status: int, **more: Any) -> requests.Response:
        answer = self.session.request(method, f"{self.uri}/{path}", timeout=10, **more)
        assert answer.status_code == status, answer.text
        if status >= 400:
            assert set(answer.json()) == {"code", "title", "message"}
            assert answer.json()["code"] == status
        return answer

    def deployment(self, **more: Any) -> dict[str, Any]:
        body = {"environment": "debian12-min", "nodes": [NODE], **more}
        made: dict[str, Any] = self.ask("POST", "deployments", 201, json=body).json()
        return made

    def ended(self, uid: str) -> dict[str, Any]:
        self.machines.go.set()
        deadline = time.monotonic() + 10
        while (made := self.ask("GET", f"deployments/{uid}", 200).json())["status"] == "processing":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        found: dict[str, Any] = made
        return found


@pytest.fixture
def bed() -> Iterator[Bed]:
    made = Bed()
    yield made
    made.machines.go.set()
    made.thread.stop()


# ---- jobs -----------------------------------------------------------------------------------------


def accepted(bed: Bed, number: int) -> None:
    """OAR accepts the next job, as this number."""
    bed.commands.answers["oarsub"] = (0, f"[ADMISSION RULE] a remark\nOAR_JOB_ID={number}\n")
    bed.commands.then = lambda: bed.nancy.known.append(job(number, state="Waiting", start=0))


def test_a_job_is_submitted_as_json(bed: Bed) -> None:
    accepted(bed, 7)
    body = {
        "command": "sleep 1; echo 'a b' \"$HOME\" `id`\n$(reboot)",
        "resources": "nodes=2,walltime=1:00:00",
        "types": ["deploy", "destructive"],
        "properties": "cluster='a' AND memnode > 1",
        "reservation": 1_795_942_800,
        "queue": "default",
        "name": "-x",
        "project": "p q",
        "workdir": "/tmp",
        "site": "ignored",
        "stdout": None,
    }
    answer = bed.ask("POST", "jobs", 201, json=body)
    assert answer.headers["Location"] == "/3.0/sites/nancy/jobs/7"
    assert (answer.json()["uid"], answer.json()["state"]) == (7, "waiting")
    assert "OAR_JOB_ID=7" in answer.headers["X-Oar-Info"]
    ((site, argv),) = bed.commands.asked
    assert (site, argv[0], argv[-2:]) == ("nancy", "oarsub", ["--", body["command"]])
    assert sorted(argv[1:-2]) == sorted(
        [
            "--resource=nodes=2,walltime=1:00:00",
            "--type=deploy",
            "--type=destructive",
            "--property=cluster='a' AND memnode > 1",
            "--reservation=2026-11-29 10:00:00",
            "--queue=default",
            "--name=-x",
            "--project=p q",
            "--directory=/tmp",
        ]
    )


@pytest.mark.parametrize(
    "form",
    [
        "command=sleep+1&resources=nodes%3D1&types=deploy&types=night",
        "command=sleep+1&resources=nodes%3D1&types%5B%5D=deploy&types%5B%5D=night",
    ],
)
def test_a_job_is_submitted_as_a_form(bed: Bed, form: str) -> None:
    accepted(bed, 7)
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    bed.ask("POST", "jobs", 201, data=form, headers=kind)
    words = ["oarsub", "--resource=nodes=1", "--type=deploy", "--type=night", "--", "sleep 1"]
    assert bed.commands.asked == [("nancy", words)]


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"command": ""},
        {"command": ["a"]},
        {"command": {"a": 1}},
        {"command": "a\0b"},
        {"command": "a", "name": True},
        {"command": "a", "types": [None]},
        {"command": "a", "resources": [["nodes=1"]]},
    ],
)
def test_an_invalid_request_for_a_job_reaches_no_shell(bed: Bed, body: Any) -> None:
    accepted(bed, 7)
    bed.ask("POST", "jobs", 400, json=body)
    assert bed.commands.asked == []


def test_oars_reason_is_told(bed: Bed) -> None:
    bed.commands.answers["oarsub"] = (5, f"{REMARK}\nThere are not enough resources\n")
    assert "not enough resources" in bed.ask("POST", "jobs", 400, json={"command": "a"}).json()["message"]
    del bed.commands.answers["oarsub"]
    assert "does not answer" in bed.ask("POST", "jobs", 503, json={"command": "a"}).json()["message"]


def test_one_deletes_ones_own_jobs_only(bed: Bed) -> None:
    bed.commands.answers["oardel"] = (0, "Deleting the job = 1 ...REGISTERED.\nécrit\n")
    answer = bed.ask("DELETE", "jobs/1", 202)
    assert answer.headers["Location"] == "/3.0/sites/nancy/jobs/1"
    assert answer.headers["X-Oar-Info"] == "Deleting the job = 1 ...REGISTERED. ?crit"
    assert answer.content == b""
    assert "belongs to eve" in bed.ask("DELETE", "jobs/2", 403).json()["message"]
    bed.ask("DELETE", "jobs/3", 202)  # it has ended
    for missing in ("99", "x", "-1", "1;reboot", "9" * 30, "²"):
        bed.ask("DELETE", f"jobs/{missing}", 404)
    assert bed.commands.asked == [("nancy", ["oardel", "1"])]
    bed.commands.answers["oardel"] = (1, "no")
    bed.ask("DELETE", "jobs/1", 400)


def test_walltime_of_a_job(bed: Bed) -> None:
    bed.commands.answers["oarwalltime"] = (
        0,
        "Walltime change status for job 1 (job is running):\n"
        "  Current walltime:      0:20:0\n"
        "  Possible increase:  UNLIMITED\n"
        "  Already granted:      +0:10:0\n"
        "  Pending/unsatisfied:    0:0:0\n",
    )
    assert bed.ask("GET", "jobs/1/walltime", 200).json() == {
        "uid": 1,
        "walltime": "0:20:0",
        "possible": "UNLIMITED",
        "granted": "+0:10:0",
        "pending": "0:0:0",
    }
    bed.commands.answers["oarwalltime"] = (0, "Accepted: … it will be handled shortly.\n")
    more = {"walltime": "+0:10", "delay_next_jobs": True, "force": False}
    assert "shortly" in bed.ask("POST", "jobs/1/walltime", 202, json=more).json()["message"]
    assert bed.commands.asked[-1][1] == ["oarwalltime", "--delay-next-jobs", "1", "+0:10"]
    for code, status in ((1, 400), (3, 403), (4, 404)):
        bed.commands.answers["oarwalltime"] = (code, "Forbidden: job 1 is not running.\n")
        answer = bed.ask("POST", "jobs/1/walltime", status, json={"walltime": "-1"})
        assert "is not running" in answer.json()["message"]
    asked = len(bed.commands.asked)
    bed.ask("POST", "jobs/2/walltime", 403, json={"walltime": "1"})
    for wrong in ("", "soon", "--force", "1:2:3:4", "1;reboot", ["1"], None):
        bed.ask("POST", "jobs/1/walltime", 400, json={"walltime": wrong})
    bed.ask("POST", "jobs/99/walltime", 404, json={"walltime": "1"})
    assert len(bed.commands.asked) == asked


# ---- deployments ----------------------------------------------------------------------------------


def test_a_deployment_is_followed_to_its_end(bed: Bed) -> None:
    made = bed.deployment(key="ssh-ed25519 AAAA me", vlan=4)
    assert (made["status"], made["nodes"], made["user_uid"]) == ("processing", [NODE], "g5k")
    assert "result" not in made
    ended = bed.ended(made["uid"])
    assert ended["status"] == "terminated"
    assert ended["result"] == {NODE: {"macro": None, "micro": None, "state": "OK"}}
    assert bed.machines.deployed == {"graphene-1": ("debian12-min", 4, "ssh-ed25519 AAAA me")}
    listed = bed.ask("GET", "deployments", 200).json()
    assert [one["uid"] for one in listed["items"]] == [made["uid"]]
    assert bed.ask("GET", "deployments?status=error", 200).json()["items"] == []


def test_nodes_that_fail_are_ko(bed: Bed) -> None:
    made = bed.deployment(nodes=[NODE, OTHER])  # the other one is eve's
    ended = bed.ended(made["uid"])
    assert {name: one["state"] for name, one in ended["result"].items()} == {NODE: "OK", OTHER: "KO"}
    assert "permission denied" in ended["output"]


def test_deployments_are_listed_newest_first(bed: Bed) -> None:
    bed.machines.go.set()
    made = [bed.deployment()["uid"] for _ in range(3)]
    for uid in made:
        bed.ended(uid)
    page = bed.ask("GET", "deployments?limit=2&offset=0", 200).json()
    assert ([one["uid"] for one in page["items"]], page["total"]) == (made[:0:-1], 3)


def test_a_deployment_is_canceled(bed: Bed) -> None:
    made = bed.deployment()
    answer = bed.ask("DELETE", f"deployments/{made['uid']}", 202)
    assert answer.headers["Location"] == f"/3.0/sites/nancy/deployments/{made['uid']}"
    assert bed.ended(made["uid"])["status"] == "canceled"
    done = bed.deployment()
    assert bed.ended(done["uid"])["status"] == "terminated"
    bed.ask("DELETE", f"deployments/{done['uid']}", 202)
    assert bed.ended(done["uid"])["status"] == "terminated"
    bed.ask("DELETE", "deployments/D-0", 404)
    bed.ask("GET", "deployments/D-0", 404)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"environment": "debian12-min"},
        {"environment": "debian12-min", "nodes": []},
        {"environment": "debian12-min", "nodes": [1]},
        {"environment": "none", "nodes": [NODE]},
        {"environment": "debian12-min@eve", "nodes": [NODE]},
        {"environment": "debian12-min", "nodes": ["graphene-99.nancy.grid5000.fr"]},
        {"environment": "debian12-min", "nodes": [NODE], "vlan": 5},  # in no job of the user
        {"environment": "debian12-min", "nodes": [NODE], "key": "https://example.org/key"},
        ["debian12-min"],
    ],
)
def test_what_kadeploy_refuses_is_not_deployed(bed: Bed, body: Any) -> None:
    bed.ask("POST", "deployments", 400, json=body)
    assert bed.ask("GET", "deployments", 200).json()["items"] == []


# ---- vlans ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [[INTERFACE], {"nodes": [INTERFACE]}])
def test_nodes_of_a_vlan(bed: Bed, body: Any) -> None:
    def uids(vlan: str) -> list[str]:
        return [item["uid"] for item in bed.ask("GET", f"vlans/{vlan}/nodes", 200).json()["items"]]

    assert uids("4") == []
    assert bed.ask("GET", "vlans/4", 200).json()["type"] == "kavlan"
    assert bed.ask("GET", "vlans/DEFAULT", 200).json()["uid"] == "DEFAULT"
    bed.ask("GET", "vlans/99", 404)
    answer = bed.ask("POST", "vlans/4/nodes", 200, json=body).json()
    assert answer[INTERFACE]["status"] == "success"
    assert (uids("4"), INTERFACE in uids("DEFAULT"), len(uids("DEFAULT"))) == ([INTERFACE], False, 2)
    everything = bed.ask("GET", "vlans/nodes", 200).json()["items"]
    assert everything == bed.ask("GET", "vlansnodes", 200).json()["items"]
    assert {item["uid"]: item["vlan"] for item in everything}[INTERFACE] == "4"
    assert bed.ask("GET", f"vlans/nodes/{INTERFACE}", 200).json()["vlan"] == "4"
    some = bed.ask("POST", "vlans/nodes", 200, json=[INTERFACE]).json()["items"]
    assert [(item["uid"], item["vlan"]) for item in some] == [(INTERFACE, "4")]
    bed.ask("POST", "vlans/nodes", 404, json=["nothing"])
    bed.ask("POST", "vlans/nodes", 400, json="nothing")
    for path in ("vlans/99/nodes", "vlans/x/users", "vlans/nodes/nothing"):
        bed.ask("GET", path, 404)


def test_users_of_a_vlan(bed: Bed) -> None:
    bed.databases["rennes"].known = [job(5, user="eve", vlans=(16,))]  # a global one
    assert [u["uid"] for u in bed.ask("GET", "vlans/4/users", 200).json()["items"]] == ["g5k"]
    assert [u["uid"] for u in bed.ask("GET", "vlans/16/users", 200).json()["items"]] == ["eve"]
    assert bed.ask("GET", "vlans/5/users", 200).json()["items"] == []
    everyone = bed.ask("GET", "vlans/users", 200).json()["items"]
    assert {item["uid"]: item["vlans"] for item in everyone} == {"g5k": ["4"], "eve": ["16"]}
    bed.ask("POST", "vlans/4/users", 405)


# ---- status ---------------------------------------------------------------------------------------


def test_status_of_the_nodes(bed: Bed) -> None:
    names = [f"graphene-{n}.nancy.grid5000.fr" for n in (1, 2, 3)]
    bed.nancy.rows = [
        {"resource_id": n, "type": "default", "network_address": name, "state": state, "cluster": "graphene"}
        for n, (name, state) in enumerate(
            [(name, "Alive") for name in names for _ in range(4)] + [(names[2], "Suspected")]
        )
    ]
    bed.nancy.rows.append({"resource_id": 90, "type": "kavlan", "vlan": "4", "state": "Alive"})
    bed.nancy.known.append(job(8, NODE, state="Waiting"))
    found = bed.ask("GET", "status", 200).json()["nodes"]
    assert found == bed.ask("GET", "clusters/graphene/status", 200).json()["nodes"]
    assert list(found) == names
    first = found[NODE]
    assert [job["uid"] for job in first.pop("reservations")] == [1, 8]
    assert first == {
        "hard": "alive",
        "soft": "busy",
        "free_slots": 2,
        "busy_slots": 2,
        "freeable_slots": 0,
    }
    assert (found[names[2]]["hard"], found[names[2]]["soft"]) == ("suspected", "unknown")
    assert "reservations" not in bed.ask("GET", "status?reservations=no", 200).json()["nodes"][NODE]
    bed.ask("GET", "clusters/nothing/status", 404)


def test_a_testbed_that_can_only_be_read() -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    thread = rest.serve(sock, make({"nancy": 1}), {"nancy": FakeDatabase()}.__getitem__, None)
    try:
        uri = f"http://127.0.0.1:{sock.getsockname()[1]}/sites/nancy"
        session = requests.Session()
        session.trust_env = False
        bodies: Mapping[str, Any] = {
            "jobs": {"command": "a"},
            "deployments": {"environment": "a", "nodes": ["b"]},
            "vlans/4/nodes": ["a"],
        }
        for path, body in bodies.items():
            answer = session.post(f"{uri}/{path}", json=body, timeout=10)
            assert (answer.status_code, answer.json()["title"]) == (503, "Service Unavailable")
    finally:
        thread.stop()
