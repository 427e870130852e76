"""Intervals, effects and tests: against counting by hand, and against what they promise."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g5kvirt.views.statistics import compare_samples, holm, interval, mann_whitney, wilson

VALUES = st.lists(st.integers(0, 9).map(float), min_size=4, max_size=6)


@given(VALUES, VALUES)
@settings(max_examples=60, deadline=None)
def test_exact_p_counts_every_arrangement(one: list[float], other: list[float]) -> None:
    """By hand: the share of all ways to choose so many of the values whose U is as far from its mean."""
    every, n = [*one, *other], len(one)

    def distance(chosen: tuple[int, ...]) -> float:
        mine = [every[i] for i in chosen]
        rest = [every[i] for i in range(len(every)) if i not in chosen]
        u = sum((a > b) + 0.5 * (a == b) for a in mine for b in rest)
        return abs(u - len(mine) * len(rest) / 2)

    found = distance(tuple(range(n)))
    ways = [distance(chosen) for chosen in combinations(range(len(every)), n)]
    p = mann_whitney(one, other)
    assert p == pytest.approx(sum(way >= found - 1e-9 for way in ways) / len(ways))
    assert p == pytest.approx(mann_whitney(other, one))


def test_p_of_many_values_is_that_of_the_normal_approximation() -> None:
    # U = 0 of 30 against 30: z = (450 - 0.5) / sqrt(30 · 30 · 61 / 12) = 6.645
    one, other = np.arange(30.0), np.arange(30.0) + 100
    assert mann_whitney(one, other) == pytest.approx(math.erfc(449.5 / math.sqrt(4575) / math.sqrt(2)))
    assert mann_whitney(np.ones(30), np.ones(30)) == 1.0


def test_too_few_values_have_neither_test_nor_interval() -> None:
    assert math.isnan(mann_whitney([1, 2, 3], [4, 5, 6]))  # no arrangement has p below 0.1
    assert mann_whitney([1, 2, 3, 4], [5, 6, 7, 8]) == pytest.approx(2 / 70)
    few, enough = interval([1.0, 2.0, 3.0, 4.0]), interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (few.n, few.value) == (4, 2.5)
    assert math.isnan(few.low)
    assert enough.low < enough.value < enough.high
    difference = compare_samples([1.0, 2.0], [3.0, 4.0, 5.0, 6.0, 7.0])
    assert (difference.difference, difference.effect) == (-3.5, -1.0)
    assert math.isnan(difference.low)
    for refused in ([], [1.0]):
        with pytest.raises(ValueError, match=r"no value|statistic"):
            interval(refused, "mode")  # type: ignore[arg-type]


@pytest.mark.parametrize("statistic", ["median", "mean"])
def test_intervals_cover_what_they_promise(statistic: str) -> None:
    """Of 200 samples of 20 from one distribution, about 95 % of the intervals hold its true value."""
    generator = np.random.default_rng(3)
    true = {"median": 1.0, "mean": math.exp(0.5**2 / 2)}[statistic]
    held = 0
    for sample in np.exp(generator.normal(0, 0.5, (200, 20))):
        one = interval(sample, statistic)  # type: ignore[arg-type]
        held += one.low <= true <= one.high
    assert 0.88 <= held / 200 <= 0.99


def test_interval_is_the_same_every_time_and_of_the_difference_around_it() -> None:
    generator = np.random.default_rng(4)
    slow, fast = generator.normal(20, 1, 12), generator.normal(10, 1, 12)
    assert interval(slow) == interval(slow.copy())
    found = compare_samples(list(slow), list(fast))
    assert found.low < found.difference < found.high
    assert found.low > 8
    assert (found.effect, found.p < 0.001) == (1.0, True)
    assert compare_samples(list(fast), list(fast)).difference == 0


def test_wilson_interval_of_shares() -> None:
    low, high = wilson(3, 40)  # Wilson's formula, worked out by hand
    assert (low, high) == (pytest.approx(0.02584, abs=1e-5), pytest.approx(0.19864, abs=1e-5))
    assert wilson(0, 100) == (0.0, pytest.approx(0.03699, abs=1e-5))
    assert wilson(5, 5)[1] == 1.0
    assert all(map(math.isnan, wilson(0, 0)))


def test_holm_corrects_for_the_number_of_tests() -> None:
    assert holm([0.01, 0.04, math.nan, 0.03]) == [
        pytest.approx(0.03),
        pytest.approx(0.06),
        pytest.approx(math.nan, nan_ok=True),
        pytest.approx(0.06),
    ]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
