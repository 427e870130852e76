"""Pages of jobs: complete although jobs come and go meanwhile, and although an API has no offset."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.testbeds.grid5000.job_lists import PAGE, cores_by_host, job_pages, resources_known


class Api:
    """Jobs, newest first; after each answer some of the newest end and some are new."""

    def __init__(self, number: int, ending: int = 0, new: int = 0, total: bool = True) -> None:
        self.jobs = [{"uid": n} for n in range(number, 0, -1)]
        self.ending, self.new, self.total = ending, new, total
        self.asked: list[dict[str, str]] = []

    def get(self, path: str) -> dict[str, Any]:
        query = dict(parse_qsl(path.partition("?")[2]))
        self.asked.append(query)
        offset, limit = int(query["offset"]), int(query["limit"])
        answer: dict[str, Any] = {"items": self.jobs[offset:][:limit]}
        if self.total:
            answer["total"] = len(self.jobs)
        del self.jobs[: self.ending]
        self.jobs[:0] = [{"uid": 10**6 + len(self.asked) * 100 + n} for n in range(self.new, 0, -1)]
        return answer


@given(st.integers(0, 4 * PAGE), st.integers(0, 25), st.integers(0, 30), st.booleans())
def test_every_job_that_stays_is_listed_once(number: int, ending: int, new: int, total: bool) -> None:
    api = Api(number, ending, new, total)
    before = {job["uid"] for job in api.jobs}
    found = [job["uid"] for page in job_pages(api.get, "nancy", {"state": "running"}) for job in page]
    assert len(found) == len(set(found))
    assert before & {job["uid"] for job in api.jobs} <= set(found)


def test_an_api_without_an_offset_ends_too() -> None:
    pages = list(job_pages(lambda _: {"items": [{"uid": 1}, {"uid": 2}]}, "nancy", {}))
    assert [[job["uid"] for job in page] for page in pages] == [[1, 2]]


def test_a_job_that_stands_twice_on_a_page_is_one_job() -> None:
    pages = list(job_pages(lambda _: {"items": [{"uid": 1}, {"uid": "1"}, {"uid": 2}]}, "nancy", {}))
    assert [[job["uid"] for job in page] for page in pages] == [[1, 2]]


def test_conditions_are_quoted() -> None:
    api = Api(1)
    list(job_pages(api.get, "nancy", {"user": "a&b=c", "state": "waiting,running"}))
    assert api.asked[0] | {"user": "a&b=c", "state": "waiting,running", "resources": "yes"} == api.asked[0]


@pytest.mark.parametrize(
    ("job", "cores"),
    [
        ({"resources_by_type": {"cores": ["a/0", "a/1", "b/0"]}}, {"a": 2, "b": 1}),
        ({"resources_by_type": {"cores": ["a", "a", "b"]}}, {"a": 2, "b": 1}),
        ({"resources_by_type": {}, "assigned_nodes": ["a", "gone"]}, {"a": 4}),
        ({"assigned_nodes": ["a"]}, {"a": 4}),
        ({"resources_by_type": {"cores": []}}, {}),
        ({}, {}),
    ],
)
def test_cores_by_host(job: dict[str, Any], cores: dict[str, int]) -> None:
    assert cores_by_host(job, {"a": 4, "b": 8}) == cores


def test_resources_are_known_if_nodes_and_cores_are_listed() -> None:
    assert resources_known({"resources_by_type": {}, "assigned_nodes": []})
    assert not resources_known({"assigned_nodes": []})
    assert not resources_known({})
