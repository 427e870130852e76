"""OAR's resources and the jobs that hold them; documents of the API are read once."""

from __future__ import annotations

import threading
from ipaddress import IPv4Network
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

import pytest
from at_once import AtOnce

from g5kvirt.testbeds.grid5000.calendar import Reader, busy_times
from g5kvirt.testbeds.grid5000.resources import RESOURCES, parse_resources

NOW = 1_800_000_000.0


def host(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "default", "network_address": name, "state": "Alive", "maintenance": "NO", **more}


def test_machines_that_oar_gives_to_no_job_are_not_usable() -> None:
    rows = [
        host("a"),
        host("suspected"),
        {**host("suspected"), "state": "Suspected"},  # one core of it is enough
        host("dead", state="Dead"),
        host("repaired", maintenance="YES"),
        host("away", state="Absent", available_upto=0),
        host("asleep", state="Absent", available_upto=2**31 - 1),
        host("exotic", exotic="YES"),  # for jobs of that type only
        host("usual", exotic="NO", deploy="YES"),
        host("never-deployed", exotic="YES", deploy="NO"),
        host("disks-only", type="disk", disk="sda.disks-only"),  # a disk that can be reserved is no machine
    ]
    usual = {"a", "asleep", "usual"}
    assert parse_resources(rows, NOW).usable == usual
    assert parse_resources(rows, NOW, ("day", "destructive")).usable == usual
    assert parse_resources(rows, NOW, ("exotic", "night")).usable == {*usual, "exotic"}


def test_busy_times_of_kavlans_and_subnetworks() -> None:
    rows = [
        {"type": "kavlan-global", "vlan": "14", "state": "Alive"},
        {"type": "kavlan", "vlan": "4", "state": "Alive"},
        *({"type": "subnet", "subnet_address": f"10.144.{n}.0", "state": "Alive"} for n in (0, 4, 8)),
    ]
    jobs: list[dict[str, Any]] = [
        {"started_at": 100, "walltime": 60, "resources_by_type": {"vlans": ["4", "14"], "subnets": []}},
        {
            "started_at": 0,
            "scheduled_at": 500,
            "walltime": 60,
            "resources_by_type": {"subnets": ["10.144.0.0/21"]},
        },
        {"started_at": 0, "scheduled_at": None, "walltime": 60, "resources_by_type": {"vlans": ["14"]}},
        {
            "started_at": 700,
            "walltime": 60,
            "resources_by_type": {"subnets": ["10.144.8.0"], "vlans": ["99"]},
        },
    ]
    vlans, subnets = busy_times(parse_resources(rows, NOW), jobs)
    assert vlans == {14: [(100, 281)]}
    assert subnets == {
        IPv4Network("10.144.0.0/22"): [(500, 681)],
        IPv4Network("10.144.4.0/22"): [(500, 681)],
        IPv4Network("10.144.8.0/22"): [(700, 881)],
    }


def test_reader_reads_each_document_once_and_few_at_a_time() -> None:
    pytest.importorskip("execo_g5k", reason="execo is not installed")
    busy = AtOnce()

    def get(path: str) -> dict[str, str]:
        busy.stay(0.01)
        return {"path": path}

    reader = Reader(get)
    paths = [f"/sites/nancy/jobs/{n}" for n in range(50)] + ["/sites/rennes/jobs/7"]
    threads = [threading.Thread(target=reader, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert 1 < busy.most <= 16
    assert len(list(reader.jobs("nancy"))) == 50
    assert [job["path"] for job in reader.jobs("rennes")] == ["/sites/rennes/jobs/7"]


def test_reader_gives_an_empty_document_for_a_job_that_is_gone() -> None:
    api_utils = pytest.importorskip("execo_g5k.api_utils", reason="execo is not installed")

    def get(path: str) -> Any:
        status = 404 if path.endswith(("/7", "/clusters")) else 500
        answer = SimpleNamespace(status_code=status, reason="", text="")
        raise api_utils.APIException(path, "GET", response=answer)

    reader = Reader(get)
    assert reader("/sites/nancy/jobs/7") == {}
    assert list(reader.jobs("nancy")) == []
    for path in ("/sites/nancy/jobs/8", "/sites/nancy/clusters"):
        with pytest.raises(api_utils.APIException):
            reader(path)


def test_reader_pages_through_a_sites_jobs_and_requests_none_that_the_list_describes() -> None:
    pytest.importorskip("execo_g5k", reason="execo is not installed")
    all_jobs: list[dict[str, Any]] = [
        {"uid": n, "links": [], "assigned_nodes": ["a"], "resources_by_type": {"cores": ["a/0"]}}
        for n in range(1300, 0, -1)
    ]
    all_jobs[0].pop("assigned_nodes")  # as an older API describes it
    paths: list[str] = []

    def get(path: str) -> dict[str, Any]:
        paths.append(path)
        if "?" not in path:
            return {"asked": path}
        query = dict(parse_qsl(path.partition("?")[2]))
        assert query["state"] == "waiting,launching,running"
        offset = int(query["offset"])
        return {"items": all_jobs[offset:][:500], "total": 1300}

    reader = Reader(get)
    found = reader("/sites/nancy/jobs?limit=1073741824&state=waiting,launching,running")
    assert [job["uid"] for job in found["items"]] == list(range(1300, 0, -1))
    assert len(paths) == 3
    assert reader("/sites/nancy/jobs/7")["assigned_nodes"] == ["a"]
    assert reader("/sites/nancy/jobs/1300")["asked"] == "/sites/nancy/jobs/1300"
    assert len(paths) == 4
    assert len(list(reader.jobs("nancy"))) == 1300


def test_reader_fills_in_what_the_api_leaves_out_and_refuses_what_is_none() -> None:
    """execo's planning leaves out a job without ``started_at``, and a site with a resource without state."""
    pytest.importorskip("execo_g5k", reason="execo is not installed")
    documents: dict[str, Any] = {
        "/sites/nancy/jobs/1": {"scheduled_at": 500, "started_at": None, "walltime": 60},
        "/sites/nancy/jobs/2": {"scheduled_at": "soon"},
        RESOURCES.format("nancy"): {"items": [{"network_address": "a", "type": "default"}]},
    }
    reader = Reader(documents.__getitem__)
    assert reader("/sites/nancy/jobs/1") | {
        "started_at": 0,
        "scheduled_at": 500,
        "assigned_nodes": [],
    } == reader("/sites/nancy/jobs/1")
    assert (
        reader.resources("nancy")[0] | {"state": "unknown", "maintenance": "NO"}
        == reader.resources("nancy")[0]
    )
    with pytest.raises(ValueError, match="scheduled_at is 'soon'"):
        reader("/sites/nancy/jobs/2")
    assert list(reader.problems) == ["/sites/nancy/jobs/2"]
