"""The plan of a broadcast: who takes the image from whom."""

from __future__ import annotations

import random
from typing import Any

import pytest
from chainhosts import HEAD, IMAGE, SUM, host
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.broadcast.chain import REACH, Payload, chain, http, limits_for, order
from g5kvirt.errors import SpecError
from g5kvirt.hostagent.onhost.relay.http import URL
from g5kvirt.hostagent.onhost.relay.limits import DEFAULTS
from g5kvirt.inventory import Host

hosts = st.lists(
    st.builds(
        host, st.sampled_from(["nancy", "lyon"]), st.sampled_from(["sw-2", "sw-10"]), st.integers(1, 30)
    ),
    min_size=1,
    max_size=30,
    unique_by=lambda h: h.name,
)


@given(hosts)
def test_predecessors_are_the_nearest_first_and_the_head_last(line: list[Host]) -> None:
    plan = chain(line, IMAGE, head_url=HEAD, head_name="www")
    names = [s.host.name for s in plan.stops]
    assert sorted(names) == sorted(h.name for h in line)
    for n, stop in enumerate(plan.stops):
        near = [name for name in reversed(names[:n]) if name.endswith(stop.host.site)][:REACH]
        far = [name for name in reversed(names[:n]) if not name.endswith(stop.host.site)][:REACH]
        assert [name for name, _ in stop.before] == [*near, *far, "www"]
        assert stop.before[-1][1] == HEAD
        assert stop.before
        assert all(URL.fullmatch(url) for _, url in stop.before)


@given(hosts, st.booleans())
def test_site_with_an_image_server_needs_no_other_site(line: list[Host], first: bool) -> None:
    heads = {"lyon": ("www-lyon", HEAD.replace("10.", "11.", 1))}
    site = "nancy" if first else ""
    plan = chain(line, IMAGE, head_url=HEAD, head_name="www", head_site=site, heads=heads)
    by_site = {s: [stop.host.name for stop in plan.stops if stop.host.site == s] for s in ("lyon", "nancy")}
    for stop in plan.stops:
        before = [name for name, _ in stop.before]
        own = by_site[stop.host.site]
        near = own[: own.index(stop.host.name)][::-1][:REACH]
        assert before[: len(near)] == near
        assert before[-1] == "www", "the last resort, whoever is gone"
        assert len(set(before)) == len(before)
        if stop.host.site == "lyon":
            assert before[len(near)] == "www-lyon"
        else:
            assert "www-lyon" not in before, "nobody turns to another site's server"
        direct = [name for name, _ in next(s for s in http(plan).stops if s.host == stop.host).before]
        assert direct == (["www-lyon", "www"] if stop.host.site == "lyon" else ["www"])


@given(hosts, st.randoms(use_true_random=False))
def test_the_chain_enters_each_site_and_each_switch_of_it_once(
    line: list[Host], chance: random.Random
) -> None:
    plan = order(line, "nancy")
    shuffled = list(line)
    chance.shuffle(shuffled)
    assert order(shuffled, "nancy") == plan
    for places in ([h.site for h in plan], [(h.site, h.switch) for h in plan]):
        entries = [p for n, p in enumerate(places) if n == 0 or places[n - 1] != p]
        assert len(entries) == len(set(entries))
    if any(h.site == "nancy" for h in line):
        assert plan[0].site == "nancy"


def test_hosts_and_switches_are_ordered_by_number() -> None:
    assert [h.uid for h in order(host("nancy", "sw-2", n) for n in (10, 2, 1))] == [
        "node-1",
        "node-2",
        "node-10",
    ]
    plan = order([host("nancy", "sw-10", 1), host("nancy", "sw-2", 2)])
    assert [h.switch for h in plan] == ["sw-2", "sw-10"]


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
def test_invalid_plan_is_refused(change: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"hosts": [host("nancy", "", 1)], "head_url": HEAD, **change}
    with pytest.raises(SpecError) as error:
        chain(arguments.pop("hosts"), IMAGE, **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("sha256", "size"), [("AB" * 32, 1), ("../" + "a" * 61, 1), (SUM, 0)])
def test_payload_needs_a_sum_and_a_size(sha256: str, size: int) -> None:
    with pytest.raises(SpecError):
        Payload(sha256, size)


@given(st.integers(1, 1000), st.none() | st.integers(1, 64))
def test_relays_wait_longer_only_where_many_hosts_share_processors(hosts: int, cores: int | None) -> None:
    limits = {**DEFAULTS, **limits_for(hosts, cores), "deadline": 600.0}
    assert limits["deadline"] == 600
    assert all(limits[name] >= value for name, value in DEFAULTS.items() if name != "deadline")
    if cores is None or hosts <= 10 * cores:
        assert limits == {**DEFAULTS, "deadline": 600.0}
    else:
        assert limits["patience"] > limits["grace"] > limits["answer"]
    assert not limits.keys() - DEFAULTS.keys()
