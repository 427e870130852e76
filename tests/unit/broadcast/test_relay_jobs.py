"""What each relay reads, and how it is run."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from chainhosts import HEAD, IMAGE, SUM, host

from g5kvirt.broadcast import jobs
from g5kvirt.broadcast.chain import PORT, Payload, chain, http


def test_size_of_the_jobs_is_linear_in_the_number_of_hosts() -> None:
    line = [host(f"site-{n % 6}", f"sw-{n % 4}", n) for n in range(600)]
    sent = {}
    for number in (300, 600):
        plan = chain(line[:number], IMAGE, head_url=HEAD)
        sent[number] = sum(len(json.dumps(jobs.service_request(plan, stop))) for stop in plan.stops)
    assert sent[600] < 2.2 * sent[300]


def test_http_takes_from_the_head_alone_and_a_tree_from_none() -> None:
    plan = chain([host("nancy", "", n) for n in (1, 2, 3)], IMAGE, head_url=HEAD)
    assert [stop.before for stop in http(plan).stops] == [(("head", HEAD),)] * 3
    assert jobs.relay_job(http(plan), http(plan).stops[0])["listen"] == []
    lone = replace(plan, kind="tree")
    assert jobs.relay_job(lone, lone.stops[2])["before"] == []


def test_relay_is_restarted_only_with_another_mark() -> None:
    plan = chain([host("nancy", "", 1)], IMAGE, head_url=HEAD)
    stop = plan.stops[0]
    assert jobs.service_request(plan, stop, mark="a") == jobs.service_request(plan, stop, mark="a")
    assert (
        jobs.service_request(plan, stop, mark="a")["files"]
        != jobs.service_request(plan, stop, mark="b")["files"]
    )
    other = chain([stop.host], Payload("cd" * 32, 7), head_url=HEAD)
    assert other.service == plan.service, "a later image takes the place of an earlier one, and its port"


def test_job_is_secret_and_has_the_addresses_of_its_host() -> None:
    plan = chain([host("nancy", "", 1)], IMAGE, head_url=HEAD, open_at={"node-1.nancy": "10.128.0.1"})
    request = jobs.service_request(plan, plan.stops[0])
    (file,) = request["files"]
    job: dict[str, Any] = json.loads(file["content"])
    assert file["mode"] == 0o600
    assert job["listen"] == [["node-1.nancy", PORT]]
    assert job["open"] == [["10.128.0.1", PORT]]
    assert len(job["token"]) == 32
    assert job["token"] not in repr(plan)
    assert job["token"] != chain([plan.stops[0].host], IMAGE, head_url=HEAD).token
    assert file["path"] in request["command"]
    assert plan.url(plan.stops[0].host) == f"http://10.128.0.1:{PORT}/{SUM}"
    with pytest.raises(KeyError):
        plan.url(host("lyon", "", 7))
