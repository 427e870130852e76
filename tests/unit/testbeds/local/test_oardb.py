from __future__ import annotations

from typing import Any

import pg8000.exceptions
import pytest

from g5kvirt.errors import TestbedError
from g5kvirt.testbeds.local.oardb import Database, JobFilter, connector, parse_jobs


class Connection:
    """A connection to a database with one resource, which can be broken."""

    def __init__(self) -> None:
        self.columns = [{"name": "resource_id"}, {"name": "type"}]
        self.dead = False
        self.closed = False

    def run(self, sql: str, **values: Any) -> list[list[object]]:
        if self.dead:
            raise pg8000.exceptions.InterfaceError("connection is closed")
        return [[1, "default"]]

    def close(self) -> None:
        if self.dead:
            raise pg8000.exceptions.InterfaceError("connection is closed")
        self.closed = True


def test_connections_are_reused_and_broken_ones_replaced() -> None:
    made: list[Connection] = []

    def connect() -> Connection:
        made.append(Connection())
        return made[-1]

    database = Database(connect)
    for _ in range(3):
        assert database.resources() == [{"resource_id": 1, "type": "default"}]
    assert len(made) == 1
    made[0].dead = True
    assert len(database.resources()) == 1
    assert len(made) == 2
    database.close()
    assert made[1].closed


def test_unreachable_database_raises_testbed_error(tmp_path: Any) -> None:
    database = Database(connector(tmp_path / "nothing"))
    with pytest.raises(TestbedError, match="database does not respond"):
        database.resources()


def test_broken_new_connection_is_not_retried() -> None:
    made: list[Connection] = []

    def connect() -> Connection:
        made.append(Connection())
        made[-1].dead = True
        return made[-1]

    with pytest.raises(TestbedError):
        Database(connect).resources()
    assert len(made) == 1


def test_invalid_job_ids_are_not_queried() -> None:
    def connect() -> Connection:
        raise AssertionError("unexpected connection")

    assert Database(connect).job(2**40) is None
    assert Database(connect).job(0) is None


def test_jobs_are_assembled_from_database_rows() -> None:
    common = {
        "job_user": "g5k",
        "job_name": None,
        "project": "default",
        "queue_name": "default",
        "job_type": "PASSIVE",
        "command": None,
        "properties": None,
        "launching_directory": "/home/g5k",
        "message": "",
        "submission_time": 90,
        "stop_time": 0,
        "exit_code": None,
        "types": ["deploy", "origin=execo"],
    }
    running = {**common, "job_id": 7, "state": "Running", "start_time": 100, "assigned_moldable_job": 12}
    waiting = {**common, "job_id": 5, "state": "Waiting", "start_time": 0, "assigned_moldable_job": 0}
    found = parse_jobs(
        [
            {**running, "moldable_id": 11, "moldable_walltime": 50, "scheduled": None},
            {**running, "moldable_id": 12, "moldable_walltime": 60, "scheduled": 100},
            {**waiting, "moldable_id": 13, "moldable_walltime": 50, "scheduled": None},
            {**waiting, "moldable_id": 14, "moldable_walltime": 70, "scheduled": 500},
        ],
        [
            {"moldable_job_id": 12, "type": "default", "network_address": "b", "cpuset": "1"},
            {"moldable_job_id": 12, "type": "default", "network_address": "a", "cpuset": "0"},
            {"moldable_job_id": 12, "type": "default", "network_address": "b", "cpuset": "0"},
            {"moldable_job_id": 12, "type": "disk", "disk": "sda.b", "host": "b.nancy.grid5000.fr"},
            {"moldable_job_id": 12, "type": "kavlan-global", "network_address": "", "vlan": "14"},
            {
                "moldable_job_id": 12,
                "type": "subnet",
                "network_address": "",
                "subnet_address": "10.144.0.0",
                "subnet_prefix": 22,
            },
        ],
    )
    first, second = found
    assert (first.id, first.walltime, first.scheduled, first.assigned.nodes) == (5, 70, 500, ())
    assert (second.id, second.walltime, second.start) == (7, 60, 100)
    assert second.assigned.cores == ("b/1", "a/0", "b/0")
    assert second.assigned.nodes == ("b", "a")  # in OAR's order, the head node first
    assert second.assigned.disks == ("sda.b.nancy.grid5000.fr",)
    assert (first.exit_code, second.exit_code) == (None, None)
    assert second.assigned.vlans == (14,)
    assert [str(subnet) for subnet in second.assigned.subnets] == ["10.144.0.0/22"]
    assert second.deploy


def test_a_filter_passes_every_value_as_a_parameter() -> None:
    chosen = JobFilter(states=("Running", "toLaunch"), user="o'neill", name="x; DROP TABLE jobs", queue="q")
    found = chosen.conditions()
    assert {key: value for key, (_, value) in found.items()} == {
        "states": ["running", "tolaunch"],
        "user": "o'neill",
        "name": "x; DROP TABLE jobs",
        "queue": "q",
    }
    assert not any(str(value) in condition for condition, value in found.values() if isinstance(value, list))
    assert all("DROP" not in condition and f":{key}" in condition for key, (condition, _) in found.items())
    assert JobFilter().conditions() == {}


def test_a_page_of_jobs_is_newest_first() -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    class Pages(Database):
        def _rows(self, sql: str, **values: Any) -> list[dict[str, Any]]:
            asked.append((sql, values))
            return [{"jobs": 7}] if "count" in sql else [{"job_id": 9}, {"job_id": 4}]

        def _jobs(self, where: str, values: Any) -> list[Any]:
            return sorted(values["ids"])

    jobs, total = Pages(lambda: None).job_page(JobFilter(user="jo"), 5, 2)
    assert (jobs, total) == ([9, 4], 7)
    (_, first), (sql, second) = asked
    assert (first, second) == ({"user": "jo"}, {"user": "jo", "limit": 2, "offset": 5})
    assert "ORDER BY j.job_id DESC LIMIT :limit OFFSET :offset" in sql
