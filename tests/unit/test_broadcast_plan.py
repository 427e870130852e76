"""The plan of a broadcast, its jobs and its account; and the relay's words, without a network."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.errors import SpecError
from g5kvirt.hostagent import relay
from g5kvirt.inventory import Host
from g5kvirt.provision import broadcast as b

SUM = "ab" * 32
IMAGE = b.Image(SUM, 1000)
HEAD = "http://10.0.0.9:80/images/mini.tar.gz"


def host(site: str, switch: str, number: int) -> Host:
    return Host(f"node-{number}.{site}", site, "node", 4, 1 << 30, switch=switch)


hosts = st.lists(
    st.builds(
        host, st.sampled_from(["nancy", "lyon"]), st.sampled_from(["sw-2", "sw-10"]), st.integers(1, 30)
    ),
    min_size=1,
    max_size=30,
    unique_by=lambda h: h.name,
)


@given(hosts)
def test_every_host_asks_exactly_those_before_it_nearest_first_and_the_head_last(line: list[Host]) -> None:
    plan = b.chain(line, IMAGE, head_url=HEAD, head_name="www")
    names = [s.host.name for s in plan.stops]
    assert sorted(names) == sorted(h.name for h in line)
    for n, stop in enumerate(plan.stops):
        assert [name for name, _ in stop.before] == [*reversed(names[:n]), "www"]
        assert stop.before[-1][1] == HEAD
        assert all(relay.URL.fullmatch(url) for _, url in stop.before)


@given(hosts, st.randoms(use_true_random=False))
def test_the_chain_enters_each_site_and_each_switch_of_it_once(
    line: list[Host], chance: random.Random
) -> None:
    plan = b.order(line, "nancy")
    shuffled = list(line)
    chance.shuffle(shuffled)
    assert b.order(shuffled, "nancy") == plan
    for places in ([h.site for h in plan], [(h.site, h.switch) for h in plan]):
        entries = [p for n, p in enumerate(places) if n == 0 or places[n - 1] != p]
        assert len(entries) == len(set(entries))
    if any(h.site == "nancy" for h in line):
        assert plan[0].site == "nancy"


def test_numbers_sort_as_numbers() -> None:
    assert [h.uid for h in b.order(host("nancy", "sw-2", n) for n in (10, 2, 1))] == [
        "node-1",
        "node-2",
        "node-10",
    ]
    plan = b.order([host("nancy", "sw-10", 1), host("nancy", "sw-2", 2)])
    assert [h.switch for h in plan] == ["sw-2", "sw-10"]


def test_http_asks_only_the_head_and_the_tree_nobody() -> None:
    plan = b.chain([host("nancy", "", n) for n in (1, 2, 3)], IMAGE, head_url=HEAD)
    assert all(stop.before == (("head", HEAD),) for stop in b.http(plan).stops)
    assert b.job(b.http(plan), b.http(plan).stops[0])["listen"] == []
    lone = replace(plan, kind="tree")
    assert b.job(lone, lone.stops[2])["before"] == []


def test_a_job_is_what_the_relay_reads_and_secret() -> None:
    plan = b.chain([host("nancy", "", 1)], IMAGE, head_url=HEAD, open_at={"node-1.nancy": "10.128.0.1"})
    request = b.request(plan, plan.stops[0])
    (file,) = request["files"]
    job: dict[str, Any] = json.loads(file["content"])
    assert file["mode"] == 0o600
    assert job["listen"] == [["node-1.nancy", b.PORT]]
    assert job["open"] == [["10.128.0.1", b.PORT]]
    assert len(job["token"]) == 32
    assert job["token"] not in repr(plan)
    assert job["token"] != b.chain([plan.stops[0].host], IMAGE, head_url=HEAD).token
    assert file["path"] in request["command"]
    assert plan.url(plan.stops[0].host) == f"http://10.128.0.1:{b.PORT}/{SUM}"
    with pytest.raises(KeyError):
        plan.url(host("lyon", "", 7))


@pytest.mark.parametrize(
    "change",
    [
        {"head_url": "https://x/y"},
        {"head_url": "http://x/y"},
        {"limits": {"silnece": 1.0}},
        {"limits": {"silence": 0.0}},
        {"hosts": []},
    ],
)
def test_bad_plans_are_refused_in_one_sentence(change: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"hosts": [host("nancy", "", 1)], "head_url": HEAD, **change}
    with pytest.raises(SpecError) as error:
        b.chain(asked.pop("hosts"), IMAGE, **asked)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("sha256", "size"), [("AB" * 32, 1), ("../" + "a" * 61, 1), (SUM, 0)])
def test_an_image_needs_a_sum_and_a_size(sha256: str, size: int) -> None:
    with pytest.raises(SpecError):
        b.Image(sha256, size)


def report(name: str, **changes: Any) -> str:
    line = {"op": "broadcast", "host": name, "state": "ok", "have": 1000, "size": 1000, "seconds": 1.5}
    line |= {"checked": 2.0, "t": 1e9, "cpu": 0.1, "from": "x", "skipped": ["y"], "reason": ""}
    return json.dumps(line | changes)


def test_reports_are_read_and_anything_else_is_not() -> None:
    said = b.read_report(report("node-1.nancy"))
    assert said is not None
    assert said.ok
    assert said.skipped == ("y",)
    for line in (
        "",
        "Traceback",
        "[]",
        "7",
        '{"op": "follow"}',
        report("x", have="many"),
        report("x", t=None),
    ):
        assert b.read_report(line) is None


def test_every_host_gets_a_result_and_a_reason() -> None:
    plan = b.chain([host("nancy", "", n) for n in (1, 2, 3, 4)], IMAGE, head_url=HEAD)
    names = [s.host.name for s in plan.stops]
    said = {}
    for line in (
        report(names[0]),
        report(names[1], state="receiving", have=400, checked=None),
        report(names[2], state="failed", reason="its SHA-256 is x"),
    ):
        progress = b.read_report(line)
        assert progress is not None
        said[progress.host] = progress
    results = b.account(plan, said, {names[1]: "connection lost", names[2]: "not this"})
    assert list(results) == names
    assert [r.ok for r in results.values()] == [True, False, False, False]
    assert results[names[1]].reason == "connection lost after 400 of 1000 bytes"
    assert results[names[2]].reason == "its SHA-256 is x"
    assert results[names[3]].reason == "its relay did not say how it ended"
    assert all(r.ended for r in results.values())


# ------------------------------------------------------------------------------------------ the relay's words
@pytest.mark.parametrize(
    ("value", "span"),
    [
        (b"bytes=0-", (0, 100)),
        (b"bytes=40-", (40, 100)),
        (b"bytes=40-49", (40, 50)),
        (b"bytes=40-4900", (40, 100)),
        (b"bytes=-5", None),
        (b"bytes=1-2,4-5", None),
        (b"", None),
    ],
)
def test_ranges(value: bytes, span: tuple[int, int] | None) -> None:
    assert relay.wanted(value, 100) == span


def test_an_answer_must_be_our_file() -> None:
    part = b"HTTP/1.1 206 x\r\nContent-Range: bytes 40-99/100\r\n"
    assert relay.first_of(206, part, 100) == 40
    assert relay.first_of(200, b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n", 100) == 0
    for code, header in ((206, part.replace(b"/100", b"/101")), (206, b""), (200, b"Content-Length: 99\r\n")):
        with pytest.raises(ValueError, match="another size"):
            relay.first_of(code, header, 100)


@given(st.binary(max_size=200))
def test_nothing_that_comes_as_a_header_raises(data: bytes) -> None:
    relay.REQUEST.match(data)
    relay.wanted(relay.field(data, b"Range"), 100)
    relay.wanted(data, 100)


@pytest.mark.parametrize(
    "url", ["http://h/x", "https://h:1/x", "http://u@h:1/x", "http://h:1/a b", "http://h:1"]
)
def test_predecessors_need_a_plain_address(url: str) -> None:
    with pytest.raises(ValueError, match="no http URL"):
        relay.Peer({"host": "x", "url": url})


def test_an_ipv6_predecessor() -> None:
    peer = relay.Peer({"host": "x", "url": "http://[fd00::1]:80/x"})
    assert (peer.address, peer.port, peer.path) == ("fd00::1", 80, "/x")
