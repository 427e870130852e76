"""The plan of a broadcast, its jobs and its account; and the relay's words, without a network."""

from __future__ import annotations

import json
import random
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.broadcast import chain as b
from g5kvirt.errors import SpecError
from g5kvirt.hostagent.onhost import relay
from g5kvirt.inventory import Host

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
def test_every_host_asks_those_before_it_nearest_first_and_the_head_last(line: list[Host]) -> None:
    plan = b.chain(line, IMAGE, head_url=HEAD, head_name="www")
    names = [s.host.name for s in plan.stops]
    assert sorted(names) == sorted(h.name for h in line)
    for n, stop in enumerate(plan.stops):
        near = [name for name in reversed(names[:n]) if name.endswith(stop.host.site)][: b.REACH]
        far = [name for name in reversed(names[:n]) if not name.endswith(stop.host.site)][: b.REACH]
        assert [name for name, _ in stop.before] == [*near, *far, "www"]
        assert stop.before[-1][1] == HEAD
        assert all(relay.URL.fullmatch(url) for _, url in stop.before)


def test_what_hosts_are_sent_grows_with_their_number_only() -> None:
    line = [host(f"site-{n % 6}", f"sw-{n % 4}", n) for n in range(600)]
    sent = {}
    for number in (300, 600):
        plan = b.chain(line[:number], IMAGE, head_url=HEAD)
        sent[number] = sum(len(json.dumps(b.request(plan, stop))) for stop in plan.stops)
    assert sent[600] < 2.2 * sent[300]


@given(hosts, st.booleans())
def test_a_site_with_an_image_server_of_its_own_needs_no_other_site(line: list[Host], first: bool) -> None:
    heads = {"lyon": ("www-lyon", HEAD.replace("10.", "11.", 1))}
    site = "nancy" if first else ""
    plan = b.chain(line, IMAGE, head_url=HEAD, head_name="www", head_site=site, heads=heads)
    by_site = {s: [stop.host.name for stop in plan.stops if stop.host.site == s] for s in ("lyon", "nancy")}
    for stop in plan.stops:
        before = [name for name, _ in stop.before]
        own = by_site[stop.host.site]
        near = own[: own.index(stop.host.name)][::-1][: b.REACH]
        assert before[: len(near)] == near
        assert before[-1] == "www", "the last resort, whoever is gone"
        assert len(set(before)) == len(before)
        if stop.host.site == "lyon":
            assert before[len(near)] == "www-lyon"
        else:
            assert "www-lyon" not in before, "nobody turns to another site's server"
        direct = [name for name, _ in next(s for s in b.http(plan).stops if s.host == stop.host).before]
        assert direct == (["www-lyon", "www"] if stop.host.site == "lyon" else ["www"])


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


def test_only_another_mark_starts_a_relay_anew() -> None:
    plan = b.chain([host("nancy", "", 1)], IMAGE, head_url=HEAD)
    stop = plan.stops[0]
    assert b.request(plan, stop, mark="a") == b.request(plan, stop, mark="a")
    assert b.request(plan, stop, mark="a")["files"] != b.request(plan, stop, mark="b")["files"]
    other = b.chain([stop.host], b.Image("cd" * 32, 7), head_url=HEAD)
    assert other.service == plan.service, "a later image takes the place of an earlier one, and its port"


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


def test_what_a_killed_relay_left_is_removed_and_the_agents_exit_code_stays(tmp_path: Path) -> None:
    for name in (SUM, f"{SUM}.json", "else"):
        (tmp_path / name).touch()
    words = ["sh", "-c", b._AND_REMOVE, "sh", str(tmp_path / SUM), "sh", "-c", "exit 7"]
    assert subprocess.run(words, check=False, timeout=10).returncode == 7
    assert [path.name for path in tmp_path.iterdir()] == ["else"]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_relay_removes_its_own_file_and_no_other(tmp_path: Path, replaced: bool) -> None:
    image = relay.Image({"size": 10, "sha256": SUM, "store": str(tmp_path)})
    try:
        image.append(memoryview(b"12345"))
        if replaced:  # by a broadcast of another kind
            (tmp_path / "new").write_bytes(b"1234567890")
            (tmp_path / "new").replace(tmp_path / SUM)
    finally:
        image.close(remove=True)
    assert [path.name for path in tmp_path.iterdir()] == ([SUM] if replaced else [])


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


# ------------------------------------------------------------------------------- whom a relay takes for lost
seconds = st.floats(0, 10, allow_nan=False)
limits = st.fixed_dictionaries({"stall": st.floats(0.01, 0.4), "knock": st.floats(0.01, 0.6)})


@given(limits, seconds, seconds, st.booleans())
def test_a_predecessor_that_pauses_no_longer_than_usual_is_left_in_peace(
    limit: dict[str, float], quiet: float, asked: float, connected: bool
) -> None:
    word = relay.verdict(min(quiet, limit["stall"]), limit["stall"], asked, connected, limit["knock"], 0.6)
    assert word == "wait"


@given(limits, seconds, seconds)
def test_whose_kernel_answers_is_never_passed_by_and_whose_does_not_is_bounded(
    limit: dict[str, float], more: float, asked: float
) -> None:
    quiet = limit["stall"] + more + 0.001
    knock = min(limit["knock"], 0.6)
    assert relay.verdict(quiet, limit["stall"], None, False, knock, 0.6) == "ask"
    assert relay.verdict(quiet, limit["stall"], asked, True, knock, 0.6) == (
        "leave" if asked > 0.6 else "wait"
    )
    gone = relay.verdict(quiet, limit["stall"], asked, False, knock, 0.6)
    assert gone == ("leave" if asked > 0.6 else "pass" if asked > knock else "wait")


def flow(pauses: list[float]) -> relay.Flow:
    """What a relay knows after bytes with these pauses between them."""
    known = relay.Flow(0.0, 0.2)
    known.begin(0.0)
    known.came(5.0, 1000)  # the time before the first byte is no pause
    now = 5.0
    for pause in pauses:
        now += pause
        known.came(now, 1000)
    return known


@given(st.lists(st.floats(0.0001, 3.0), min_size=1, max_size=50))
def test_a_pause_as_long_as_the_last_ones_is_usual_and_doubt_has_bounds(pauses: list[float]) -> None:
    known = flow(pauses)
    assert relay.STALL <= known.stall(0.4) <= 0.4
    assert known.stall(0.4) >= 0.999 * min(0.4, 2 * pauses[-1])
    assert known.stall(100.0) >= 1.999 * max(pauses) * 0.5 ** (sum(pauses) / relay.HALF)


def test_bytes_that_lay_there_unnoticed_are_no_pause_and_no_sign_of_life() -> None:
    known = flow([0.001] * 2000)
    last, stall, count = known.last, known.stall(0.4), known.count
    known.found(700)
    assert (known.last, known.stall(0.4), known.count) == (last, stall, count + 700)


def test_where_bytes_flow_fast_a_silence_is_noticed_fast_and_where_they_trickle_slowly() -> None:
    assert flow([0.001] * 2000).stall(0.4) == relay.STALL
    assert flow([0.1] * 20).stall(0.4) == pytest.approx(0.2)
    assert flow([0.001]).stall(0.4) == pytest.approx(0.4, abs=0.01), "little is known yet"
    broken = flow([0.001] * 2000)
    broken.begin(broken.last + 60)
    broken.came(broken.last + 1, 1000)
    assert broken.stall(0.4) == relay.STALL, "an outage is no pause that is usual here"


@given(st.floats(1e4, 1.3e9), st.integers(1, 1 << 30))
def test_a_relay_is_woken_for_a_millisecond_of_bytes(rate: float, left: int) -> None:
    known = relay.Flow(0.0, 0.2)
    for n in range(1, 101):
        known.came(n / 100, int(rate / 100))
    lowat = known.lowat(left)
    assert 1 <= lowat <= min(left, relay.CHUNK)
    assert (
        lowat == left
        or lowat == relay.LEAST
        or abs(lowat / (rate * relay.WAKE) - 1) < 0.05
        or lowat == relay.CHUNK
    )


@pytest.mark.parametrize(
    "url", ["http://h/x", "https://h:1/x", "http://u@h:1/x", "http://h:1/a b", "http://h:1"]
)
def test_predecessors_need_a_plain_address(url: str) -> None:
    with pytest.raises(ValueError, match="no http URL"):
        relay.Peer({"host": "x", "url": url})


def test_an_ipv6_predecessor() -> None:
    peer = relay.Peer({"host": "x", "url": "http://[fd00::1]:80/x"})
    assert (peer.address, peer.port, peer.path) == ("fd00::1", 80, "/x")
