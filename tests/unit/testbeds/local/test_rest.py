from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import requests
from localfakes import FakeDatabase, FakeMachines, job

from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local import rest

NODE = "graphene-1.nancy.grid5000.fr"
INTERFACE = "graphene-1-eth0.nancy.grid5000.fr"


class Bed:
    """A REST API over fakes."""

    def __init__(self, password: str | None) -> None:
        self.description = make({"nancy": 3, "rennes": 2})
        self.machines = FakeMachines()
        self.databases = {
            "nancy": FakeDatabase(
                [
                    job(1, NODE, vlans=(4, 14), subnets=("10.144.4.0/22",)),
                    job(2, "graphene-2.nancy.grid5000.fr", user="eve", state="toLaunch"),
                    job(3, "graphene-2.nancy.grid5000.fr", state="Waiting"),
                    job(4, "graphene-2.nancy.grid5000.fr", state="Terminated"),
                ],
                [{"resource_id": 1, "type": "default", "network_address": NODE, "state": "Alive"}],
            ),
            "rennes": FakeDatabase(),
        }
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self.sock.getsockname()[1]}/3.0"
        self.session = requests.Session()
        self.session.trust_env = False
        if password:
            self.session.auth = ("g5k", password)
        self.thread = rest.serve(
            self.sock, self.description, self.databases.__getitem__, password, machines=self.machines
        )

    def get(self, path: str, status: int = 200) -> Any:
        answer = self.session.get(f"{self.uri}/{path}", timeout=10)
        assert answer.status_code == status, answer.text
        return answer.json()

    def post(self, path: str, data: object, status: int = 200) -> Any:
        text = data if isinstance(data, str) else json.dumps(data)
        answer = self.session.post(f"{self.uri}/{path}", data=text, timeout=10)
        assert answer.status_code == status, answer.text
        return answer.json()


@pytest.fixture
def bed() -> Iterator[Bed]:
    made = Bed(None)
    yield made
    made.thread.stop()


@pytest.fixture
def locked() -> Iterator[Bed]:
    made = Bed("s3cret: with colon")
    yield made
    made.thread.stop()


def test_documents_under_several_spellings_of_the_path(bed: Bed) -> None:
    assert bed.get("")["version"] == bed.description.version
    assert [site["uid"] for site in bed.get("sites")["items"]] == ["nancy", "rennes"]
    assert bed.get("/sites/nancy/network_equipments/") == bed.get("sites/nancy/network_equipments")
    plain = bed.uri.removesuffix("/3.0")
    assert bed.session.get(f"{plain}/sites/nancy", timeout=10).json() == bed.get("sites/nancy")
    for unknown in (
        "sites/lyon",
        "sites/nancy/clusters/none",
        "sites/nancy/jobs/x",
        "nothing",
        "sites/lyon/jobs",
    ):
        assert bed.get(unknown, 404)["code"] == 404


def test_jobs_by_state_user_and_page(bed: Bed) -> None:
    def uids(query: str = "") -> list[int]:
        return [item["uid"] for item in bed.get(f"sites/nancy/jobs{query}")["items"]]

    assert uids() == [4, 3, 2, 1]  # in any state, newest first
    # toLaunch is a kind of launching
    assert uids("?limit=1073741824&state=waiting,launching,running") == [3, 2, 1]
    assert uids("?state=terminated") == [4]
    assert uids("?user=eve") == [2]
    assert uids("?name=job3") == [3]
    assert uids("?queue=besteffort") == []
    assert uids("?project=default&user=g5k&state=running") == [1]
    page = bed.get("sites/nancy/jobs?limit=1&offset=1")
    assert ([item["uid"] for item in page["items"]], page["total"], page["offset"]) == ([3], 4, 1)
    bed.get("sites/nancy/jobs?limit=many", 400)
    assert bed.get("sites/rennes/jobs")["items"] == []


def test_a_list_has_fifty_jobs_and_at_most_five_hundred(bed: Bed) -> None:
    bed.databases["rennes"].known = [job(number) for number in range(1, 621)]
    for query, first, length in (
        ("", 620, 50),
        ("?limit=1073741824", 620, 500),
        ("?limit=500&offset=500", 120, 120),
        ("?offset=-3&limit=2", 620, 2),
    ):
        page = bed.get(f"sites/rennes/jobs{query}")
        assert (page["items"][0]["uid"], len(page["items"]), page["total"]) == (first, length, 620)


def test_a_list_has_resources_on_request(bed: Bed) -> None:
    plain = bed.get("sites/nancy/jobs?state=running")["items"][0]
    assert not {"assigned_nodes", "resources_by_type", "events"} & set(plain)
    full = bed.get("sites/nancy/jobs?state=running&resources=yes")["items"][0]
    assert full == plain | {
        "assigned_nodes": [NODE],
        "resources_by_type": bed.get("sites/nancy/jobs/1")["resources_by_type"],
    }


def test_what_is_not_known_of_a_job_is_left_out(bed: Bed) -> None:
    bed.databases["nancy"].known.append(
        replace(job(7, state="Waiting", start=0), name="", command="", scheduled=0)
    )
    found = bed.get("sites/nancy/jobs/7")
    assert not {"name", "command", "scheduled_at", "stopped_at", "exit_code"} & set(found)
    assert None not in found.values()
    assert (found["started_at"], found["resources_by_type"], found["assigned_nodes"]) == (0, {}, [])
    bed.databases["nancy"].known[-1] = replace(job(7, state="Error"), stop=1_700_000_100, exit_code=256)
    ended = bed.get("sites/nancy/jobs/7")
    assert (ended["stopped_at"], ended["exit_code"], ended["state"]) == (1_700_000_100, 256, "error")
    assert ended["events"][0]["type"] == "FRAG_JOB_REQUEST"


def test_job_lists_its_resources(bed: Bed) -> None:
    found = bed.get("sites/nancy/jobs/1")
    assert found["assigned_nodes"] == [NODE]
    assert found["resources_by_type"] == {
        "cores": [f"{NODE}/0", f"{NODE}/1"],
        "vlans": ["4", "14"],
        "subnets": ["10.144.4.0/22"],
    }
    assert (found["state"], found["walltime"]) == ("running", 3600)
    assert found["started_at"] == found["scheduled_at"] == 1_700_000_000
    waiting = bed.get("sites/nancy/jobs/3")
    assert (waiting["started_at"], waiting["scheduled_at"]) == (0, 1_700_000_000)
    bed.get("sites/nancy/jobs/99", 404)


def test_resources(bed: Bed) -> None:
    (item,) = bed.get("sites/nancy/internal/oarapi/resources/details.json?limit=1073741824")["items"]
    assert (item["id"], item["network_address"], item["state"]) == (1, NODE, "Alive")


def test_post_moves_nodes_to_a_vlan(bed: Bed) -> None:
    answer = bed.post("sites/nancy/vlans/14", {"nodes": [INTERFACE]})
    assert answer[INTERFACE]["status"] == "success"
    assert bed.machines.vlans == {"graphene-1": 14}
    bed.post("sites/nancy/vlans/DEFAULT", {"nodes": [INTERFACE]})
    assert bed.machines.vlans == {"graphene-1": None}


def test_nodes_and_vlans_need_a_running_job_of_the_user(bed: Bed) -> None:
    bed.post("sites/nancy/vlans/5", {"nodes": [INTERFACE]}, 403)  # in no job
    bed.post("sites/nancy/vlans/16", {"nodes": [INTERFACE]}, 403)  # global, in no job of rennes
    bed.post("sites/nancy/vlans/99", {"nodes": [INTERFACE]}, 403)
    bed.post("sites/nancy/vlans/4", {"nodes": ["graphene-2-eth0.nancy.grid5000.fr"]}, 403)  # not running
    bed.post("sites/nancy/vlans/4", {"nodes": ["graphene-1-eth1.nancy.grid5000.fr"]}, 403)
    bed.post("sites/nancy/vlans/4", {"nodes": ["paradent-1-eth0.rennes.grid5000.fr"]}, 403)
    assert bed.machines.vlans == {}
    bed.databases["rennes"].known.append(job(1, vlans=(16,)))
    bed.post("sites/nancy/vlans/16", {"nodes": [INTERFACE]})
    both = bed.post("sites/nancy/vlans/4", {"nodes": [INTERFACE, "graphene-2-eth0.nancy.grid5000.fr"]})
    assert [result["status"] for result in both.values()] == ["success", "failure"]


@pytest.mark.parametrize("body", ["", "[", "[]", "{}", '{"nodes": []}', '{"nodes": [1]}', '{"nodes": "x"}'])
def test_invalid_bodies_are_rejected(bed: Bed, body: str) -> None:
    bed.post("sites/nancy/vlans/4", body, 400)


def test_other_posts_are_rejected(bed: Bed) -> None:
    bed.post("sites/nancy/nothing", {}, 404)
    bed.post("sites/lyon/vlans/4", {"nodes": [INTERFACE]}, 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "sites", "GET"),
        ("PUT", "sites/nancy/jobs", "GET, POST"),
        ("DELETE", "sites/nancy/jobs", "GET, POST"),
        ("PATCH", "sites/nancy/vlans/4", "GET, POST"),
        ("POST", "sites/nancy/jobs/1", "DELETE, GET"),
        ("OPTIONS", "sites/nancy/status", "GET"),
    ],
)
def test_an_unsupported_method_is_answered_in_json(bed: Bed, method: str, path: str, allowed: str) -> None:
    answer = bed.session.request(method, f"{bed.uri}/{path}", timeout=10)
    assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)
    assert answer.headers["Content-Type"].startswith("application/json")
    assert (answer.json()["code"], answer.json()["title"]) == (405, "Method Not Allowed")
    assert method in answer.json()["message"]


def test_a_malformed_request_is_answered_in_json(bed: Bed, locked: Bed) -> None:
    """Each ended its connection without an answer, and with a traceback on the testbed's side."""
    deep = bed.session.post(f"{bed.uri}/sites/nancy/jobs", data=b"[" * 100_000, timeout=10)
    assert (deep.status_code, deep.json()["code"]) == (400, 400)
    word = bed.session.get(f"{locked.uri}/sites", headers={"Authorization": "Basic \xff"}, timeout=10)
    assert word.status_code == 401
    with socket.create_connection(bed.sock.getsockname(), timeout=10) as raw:
        raw.sendall(b"GET http://[x/3.0/sites HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert raw.recv(65536).startswith(b"HTTP/1.1 400 ")


def test_errors_of_http_itself_are_json_too(bed: Bed) -> None:
    answer = bed.session.request("BREW", f"{bed.uri}/sites", timeout=10)
    assert (answer.status_code, answer.json()["code"]) == (501, 501)
    assert answer.headers["Connection"] == "close"
    head = bed.session.head(f"{bed.uri}/sites", timeout=10)
    assert (head.status_code, head.content) == (405, b"")
    large = bed.session.post(f"{bed.uri}/sites/nancy/jobs", data=b"x" * ((1 << 20) + 1), timeout=10)
    assert large.status_code == 413
    for length in ("9" * 5000, "-1", "x"):
        refused = bed.session.post(
            f"{bed.uri}/sites/nancy/jobs", headers={"Content-Length": length}, timeout=10
        )
        assert refused.status_code == 413
    assert bed.get("sites/nowhere", 404)["title"] == "Not Found"


def test_database_down_is_503_on_its_site_only(bed: Bed) -> None:
    bed.databases["nancy"].down = True
    assert "does not respond" in bed.get("sites/nancy/jobs", 503)["message"]
    bed.get("sites/nancy")
    bed.get("sites/rennes/jobs")


def test_every_request_needs_the_password(locked: Bed) -> None:
    locked.get("sites")
    locked.post("sites/nancy/vlans/14", {"nodes": [INTERFACE]})
    for auth in (None, ("g5k", "wrong"), ("eve", "s3cret: with colon"), ("", "")):
        locked.session.auth = auth
        locked.get("sites", 401)
        locked.get("nothing", 401)
        locked.post("sites/nancy/vlans/DEFAULT", {"nodes": [INTERFACE]}, 401)
    for header in ("Basic", "Basic ###", "Bearer x", "Basic /w=="):
        locked.session.headers["Authorization"] = header
        locked.get("sites", 401)
    assert locked.machines.vlans == {"graphene-1": 14}
