"""Ranks within groups of array elements."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["rank_within"]

Ints = NDArray[np.int64]


def rank_within(group: Ints, order: Ints | None = None) -> Ints:
    """For each element, the number of earlier ones of its group, in ``order`` (positions) or array order."""
    by_group = (
        np.argsort(group, kind="stable") if order is None else order[np.argsort(group[order], kind="stable")]
    )
    ordered = group[by_group]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(group) else np.empty(0, np.int64)
    lengths = np.diff(np.r_[starts, len(ordered)])
    ranks = np.empty(len(group), np.int64)
    ranks[by_group] = np.arange(len(group)) - np.repeat(starts, lengths)
    return ranks
