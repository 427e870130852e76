"""Which nodes are cleaned and when, and when scheduling is triggered for a reservation."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.testbeds.local import watch
from g5kvirt.testbeds.local.spawner import Container
from g5kvirt.testbeds.local.watch import Owner, plan_cleanup, reservation_due, watch_site

NODES = st.sampled_from(["a-1", "a-2", "b-1"])
NUMBERS = st.integers(1, 3)


def test_node_is_cleaned_after_the_end_of_its_job() -> None:
    clean, owners = plan_cleanup({"a-1": 1}, {}, {"a-1": 7})
    assert not clean
    clean, owners = plan_cleanup({"a-1": 1}, owners, {"a-1": 7})
    assert (clean, owners) == ({}, {"a-1": Owner(7, 1)})
    clean, owners = plan_cleanup({"a-1": 1}, owners, {})
    assert (clean, owners) == ({"a-1": 1}, {})


def test_next_job_gets_a_clean_node() -> None:
    clean, _ = plan_cleanup({"a-1": 1}, {"a-1": Owner(7, 1)}, {"a-1": 8})
    assert clean == {"a-1": 1}


def test_deployment_of_the_next_job_is_kept() -> None:
    clean, owners = plan_cleanup({"a-1": 2}, {"a-1": Owner(7, 1)}, {"a-1": 8})
    assert (clean, owners) == ({}, {"a-1": Owner(8, 2)})


@given(
    st.dictionaries(NODES, NUMBERS),
    st.dictionaries(NODES, st.builds(Owner, NUMBERS, NUMBERS)),
    st.dictionaries(NODES, NUMBERS),
)
def test_every_dirty_node_is_cleaned_or_owned_by_its_current_job(
    dirty: dict[str, int], owners: dict[str, Owner], active: dict[str, int]
) -> None:
    clean, kept = plan_cleanup(dirty, owners, active)
    assert clean.keys() | kept.keys() == dirty.keys()
    assert not clean.keys() & kept.keys()
    assert all(owner == Owner(active[node], dirty[node]) for node, owner in kept.items())
    assert all(node not in active for node in clean if node not in owners)


def test_reservation_is_due_only_at_its_start() -> None:
    assert not reservation_due([], 100)
    assert not reservation_due([101], 100)
    assert reservation_due([100, 500], 100.5)
    assert not reservation_due([100], 1000)


def test_container_that_was_killed_just_now_is_not_alive() -> None:
    ours, theirs = socket.socketpair()
    container = Container("graphene-1", ours)
    assert container.alive
    ours.close()  # in the middle of `kill`, in another thread
    assert not container.alive
    container.kill()
    assert not container.alive
    theirs.close()


def test_watching_a_site_goes_on_after_an_unexpected_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch, "INTERVAL", 0.0)
    cleaned: list[str] = []
    rounds = iter([ValueError("negative file descriptor"), {"a-1": 1}, {"a-2": 1}, {"a-2": 1}])

    def dirty(site: str) -> dict[str, int]:
        result = next(rounds)
        if isinstance(result, Exception):
            raise result
        return result

    def clean(node: str, generation: int) -> None:
        if node == "a-1":
            raise RuntimeError("a bug")
        cleaned.append(node)

    remaining = iter([True] * 4 + [False])
    watch_site(
        "nancy",
        cast(Any, SimpleNamespace(node=lambda name: name)),
        cast(Any, SimpleNamespace(reservation_starts=lambda: [], active_nodes=lambda: {})),
        cast(Any, SimpleNamespace(dirty=dirty, clean=clean)),
        lambda: None,
        lambda: next(remaining),
    )
    assert cleaned == ["a-2", "a-2"]
    assert "negative file descriptor" in caplog.text
    assert "a-1: cleaning failed" in caplog.text
