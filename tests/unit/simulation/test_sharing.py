"""Processors and links of the model: what is shared, and that everything ends when it must."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.simulation.network import Network, max_min
from g5kvirt.simulation.processors import Processors
from g5kvirt.simulation.timeline import Timeline


def test_actions_of_one_moment_keep_their_order() -> None:
    timeline, done = Timeline(), []
    for name, t in (("late", 2.0), ("first", 1.0), ("second", 1.0)):
        timeline.at(t, lambda name=name: done.append((timeline.now, name)))
    timeline.run(1.5)
    assert (done, timeline.now) == ([(1.0, "first"), (1.0, "second")], 1.5)
    timeline.run(9.0, lambda: bool(done[2:]))
    assert (done[2:], timeline.now) == ([(2.0, "late")], 2.0), "ends with what was waited for"


@given(
    st.lists(st.tuples(st.floats(0, 50), st.floats(0.01, 20)), min_size=1, max_size=30),
    st.integers(1, 8),
)
def test_cores_are_shared_fairly(jobs: list[tuple[float, float]], cores: int) -> None:
    timeline = Timeline()
    processors, ends = Processors(timeline, cores), dict[int, float]()
    for number, (start, work) in enumerate(jobs):

        def begin(number: int = number, work: float = work) -> None:
            processors.add(work, lambda: ends.setdefault(number, timeline.now))

        timeline.at(start, begin)
    timeline.run(1e6)
    assert ends == pytest.approx(_shared(jobs, cores), rel=1e-6, abs=1e-6)


def _shared(jobs: Sequence[tuple[float, float]], cores: int) -> dict[int, float]:
    """When each job ends, by going from event to event."""
    left = {number: work for number, (_, work) in enumerate(jobs)}
    ends: dict[int, float] = {}
    now = 0.0
    while left:
        active = [n for n in left if jobs[n][0] <= now + 1e-12]
        coming = [jobs[n][0] for n in left if jobs[n][0] > now + 1e-12]
        share = min(1.0, cores / len(active)) if active else 1.0
        until = min([now + left[n] / share for n in active] + coming)
        for n in active:
            left[n] -= (until - now) * share
            if left[n] < 1e-9:
                ends[n] = until
                del left[n]
        now = until
    return ends


PLATFORMS = st.integers(1, 6).flatmap(
    lambda links: st.tuples(
        st.lists(st.floats(1.0, 100.0), min_size=links, max_size=links),
        st.lists(
            st.tuples(
                st.lists(st.integers(0, links - 1), min_size=1, max_size=3, unique=True), st.integers(1, 9)
            ),
            min_size=1,
            max_size=12,
        ),
    )
)


@given(PLATFORMS)
def test_rates_are_max_min_fair(platform: tuple[list[float], list[tuple[list[int], int]]]) -> None:
    capacities, classes = platform
    paths, counts = [path for path, _ in classes], np.array([count for _, count in classes])
    rates = max_min(paths, counts, np.array(capacities))
    load = np.zeros(len(capacities))
    for path, count, rate in zip(paths, counts, rates, strict=True):
        load[path] += count * rate
    assert (load <= np.array(capacities) * (1 + 1e-9)).all()
    # The definition: each transfer crosses a full link on which no other is faster.
    for path, rate in zip(paths, rates, strict=True):
        assert any(
            load[link] >= capacities[link] * (1 - 1e-9)
            and all(rate >= other * (1 - 1e-9) for p, other in zip(paths, rates, strict=True) if link in p)
            for link in path
        )


def test_a_class_without_links_or_transfers() -> None:
    assert max_min([(), (0,)], np.array([1, 0]), np.array([5.0]))[0] == math.inf
    assert list(max_min([], np.array([], int), np.array([5.0]))) == []


def test_transfers_share_a_link_and_the_rest_of_another() -> None:
    timeline = Timeline()
    network, ends = Network(timeline, [10.0, 100.0]), dict[str, float]()
    for name, path, size in (("a", (0, 1), 100), ("b", (0, 1), 100), ("c", (1,), 950)):
        network.send(path, size, lambda name=name: ends.setdefault(name, timeline.now))
    network.send((), 5, lambda: ends.setdefault("here", timeline.now))
    timeline.run(1e6)
    # a and b have 5 each until 20 s; c has 90 meanwhile, so it is over before them
    assert ends == {"here": 0.0, "a": pytest.approx(20), "b": pytest.approx(20), "c": pytest.approx(950 / 90)}
