"""Intervals, differences and tests over repeated measurements. Pure, and the same every time: seeded.

What is repeated is a deployment, a launch or a run, never a VM: the VMs of one deployment share their hosts,
services and links, and are no independent observations of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

__all__ = [
    "CONFIDENCE",
    "FEWEST",
    "Difference",
    "Interval",
    "Statistic",
    "compare_samples",
    "holm",
    "interval",
    "mann_whitney",
    "wilson",
]

Statistic = Literal["median", "mean"]

CONFIDENCE = 0.95
#: Fewer values have no interval: even from the smallest to the largest of four, a range covers the median of
#: their distribution in 1 - 2·0.5⁴ = 87.5 % of all cases, of five in 93.8 %.
FEWEST = 5
_RESAMPLES = 9999
_SEED = 20130117
_EXACT = 40  #: values of both samples together up to which the test counts all arrangements

_Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Interval:
    """A statistic of ``n`` values, and its confidence interval; NaN with fewer than `FEWEST` values."""

    n: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How a sample differs from a reference.

    ``difference``: of their statistics, sample - reference, with its interval (NaN unless both have `FEWEST`
    values); ``effect``: Cliff's delta, from -1 (all values of the sample are smaller) to 1; ``p``: of the
    two-sided Mann-Whitney test, NaN where so few values could not show a difference at 5 %.
    """

    difference: float
    low: float
    high: float
    effect: float
    p: float


def interval(values: Sequence[float] | _Array, statistic: Statistic = "median") -> Interval:
    """The statistic of ``values`` with its 95 % bootstrap interval (percentiles; Efron and Tibshirani, 1993).

    Raises ValueError without values.
    """
    sample = np.asarray(values, dtype=float)
    if not len(sample):
        raise ValueError("there is no value")
    of = _function(statistic)
    value = float(of(sample[np.newaxis])[0])
    if len(sample) < FEWEST:
        return Interval(len(sample), value, math.nan, math.nan)
    return Interval(len(sample), value, *_percentiles(_resampled(sample, of)))


def compare_samples(
    sample: Sequence[float], reference: Sequence[float], statistic: Statistic = "median"
) -> Difference:
    """How ``sample`` differs from ``reference``. Raises ValueError if one of them is empty."""
    one, other = np.asarray(sample, dtype=float), np.asarray(reference, dtype=float)
    if not len(one) or not len(other):
        raise ValueError("there is no value")
    of = _function(statistic)
    difference = float(of(one[np.newaxis])[0] - of(other[np.newaxis])[0])
    low = high = math.nan
    if min(len(one), len(other)) >= FEWEST:
        # Each sample is resampled by itself, with a seed of its own.
        low, high = _percentiles(_resampled(one, of) - _resampled(other, of, _SEED + 1))
    larger = (one[:, np.newaxis] > other).sum() - (one[:, np.newaxis] < other).sum()
    return Difference(
        difference, low, high, float(larger) / (len(one) * len(other)), mann_whitney(one, other)
    )


def mann_whitney(sample: Sequence[float] | _Array, reference: Sequence[float] | _Array) -> float:
    """The two-sided p of the Mann-Whitney test (Mann and Whitney, 1947).

    Exact, ties included, up to 40 values together: all ways to share the ranks out are counted. Beyond, the
    normal approximation with corrections for ties and continuity. NaN where the most extreme arrangement of
    so few values has a p above 5 %: three against three, for instance.
    """
    one, other = np.asarray(sample, dtype=float), np.asarray(reference, dtype=float)
    n, m = len(one), len(other)
    if not n or not m or 2 / math.comb(n + m, n) > 1 - CONFIDENCE:
        return math.nan
    doubled = _doubled_ranks(np.concatenate((one, other)))
    found, expected = int(doubled[:n].sum()), n * (n + m + 1)  # of twice the sum of the sample's ranks
    if n + m <= _EXACT:
        ways = _rank_sums(doubled, n)
        sums = np.arange(len(ways))
        extreme = ways[np.abs(sums - expected) >= abs(found - expected)].sum()
        return min(1.0, float(extreme) / math.comb(n + m, n))
    _, counts = np.unique(doubled, return_counts=True)
    ties = float((counts.astype(float) ** 3 - counts).sum()) / ((n + m) * (n + m - 1))
    deviation = math.sqrt(n * m / 12 * (n + m + 1 - ties))
    if deviation == 0:
        return 1.0
    z = max(abs(found - expected) / 2 - 0.5, 0.0) / deviation
    return math.erfc(z / math.sqrt(2))


def holm(p: Sequence[float]) -> list[float]:
    """The p of several tests, corrected for their number (Holm, 1979); NaN stays, and is not counted."""
    known = sorted((value, place) for place, value in enumerate(p) if not math.isnan(value))
    corrected, largest = [math.nan] * len(p), 0.0
    for rank, (value, place) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - rank)))
        corrected[place] = largest
    return corrected


def wilson(failed: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927): also where none or all failed. NaN for a share of 0."""
    if not of:
        return math.nan, math.nan
    z = 1.959963984540054
    share = failed / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    low = 0.0 if failed == 0 else max(0.0, middle - half)
    return low, 1.0 if failed == of else min(1.0, middle + half)


def _function(statistic: str) -> Callable[[_Array], _Array]:
    """The statistic of each row of an array. Raises ValueError."""
    if statistic == "median":
        return lambda rows: np.median(rows, axis=1)
    if statistic == "mean":
        return lambda rows: np.mean(rows, axis=1)
    raise ValueError(f"statistic must be 'median' or 'mean', not {statistic!r}")


def _resampled(sample: _Array, of: Callable[[_Array], _Array], seed: int = _SEED) -> _Array:
    generator = np.random.default_rng(seed)
    found = np.empty(_RESAMPLES)
    some = max(1, 1_000_000 // len(sample))  # rows at once: bounded memory for any sample
    for first in range(0, _RESAMPLES, some):
        rows = min(some, _RESAMPLES - first)
        found[first : first + rows] = of(sample[generator.integers(0, len(sample), (rows, len(sample)))])
    return found


def _percentiles(found: _Array) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(found, (tail, 1 - tail))
    return float(low), float(high)


def _doubled_ranks(values: _Array) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Twice the rank of each value, from 2; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    doubled: np.ndarray[Any, np.dtype[np.int64]] = (2 * last - counts + 1)[inverse].astype(np.int64)
    return doubled


def _rank_sums(doubled: np.ndarray[Any, np.dtype[np.int64]], n: int) -> _Array:
    """How many choices of ``n`` of the doubled ranks have each sum. Exact: all counts are below 2⁵³."""
    total = int(doubled.sum())
    ways = np.zeros((n + 1, total + 1))
    ways[0, 0] = 1.0
    for rank in map(int, doubled):
        for chosen in range(n, 0, -1):
            ways[chosen, rank:] += ways[chosen - 1, : total + 1 - rank]
    row: _Array = ways[n]
    return row
