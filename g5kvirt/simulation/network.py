"""Links that are shared fairly by the transfers that cross them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from g5kvirt.simulation.sharing import FairShare
from g5kvirt.simulation.timeline import Timeline

__all__ = ["Network", "max_min"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Seconds between two solutions at most, so that thousands of transfers do not cost one each; adds at most
#: 0.1 % to a phase in which all fetch the same (measured).
TICK = 0.25


def max_min(paths: Sequence[Sequence[int]], counts: Ints, capacities: Floats) -> Floats:
    """Max-min fair rate of one transfer of each class.

    ``paths``: the links that transfers of a class cross, by their index; ``counts``: how many transfers each
    class has, shape (classes,); ``capacities`` of the links, shape (links,), in any unit; the result has the
    same unit, and is infinite for a class without links. The rates of all are raised together; those that
    cross a link which becomes full stay at that rate (progressive filling; Bertsekas and Gallager, Data
    Networks, section 6.5.2).
    """
    rates = np.full(len(paths), np.inf)
    width = max(map(len, paths), default=0)
    if not width:
        return rates
    links = len(capacities)
    crossed = np.full((len(paths), width), links)  # the last link is none, and never full
    for row, path in enumerate(paths):
        crossed[row, : len(path)] = path
    left = np.append(capacities.astype(float), np.inf)
    weights = counts.astype(float)
    active = (weights > 0) & (crossed[:, 0] < links)
    while active.any():
        users = np.zeros(links + 1)
        rows = crossed[active]
        np.add.at(users, rows.ravel(), np.repeat(weights[active], width))
        users[links] = 0.0
        with np.errstate(divide="ignore", invalid="ignore"):
            fair = np.where(users > 0, left / users, np.inf)
        # A class is done where its tightest link is also the tightest for all others that cross it.
        tightest = fair[crossed].min(axis=1)
        bound = np.full(links + 1, np.inf)
        np.minimum.at(bound, rows.ravel(), np.repeat(tightest[active], width))
        full = (users > 0) & (fair <= bound * (1 + 1e-12))
        done = active & (full[crossed] & (fair[crossed] <= tightest[:, None] * (1 + 1e-12))).any(axis=1)
        rates[done] = tightest[done]
        used = np.repeat(weights[done] * rates[done], width)
        np.subtract.at(left, crossed[done].ravel(), used)
        left = np.maximum(left, 0.0)
        active &= ~done
    return rates


class Network:
    """Transfers over links; capacities in bytes per second.

    All transfers with the same path form a class and progress alike, so the rates are those of classes, and
    a class keeps one number for what each of its transfers has had.
    """

    def __init__(self, timeline: Timeline, capacities: Sequence[float]) -> None:
        self._timeline = timeline
        self._capacities = np.array(capacities, float)
        self._classes: dict[tuple[int, ...], _Class] = {}
        self._solved = -np.inf
        self._solving = False

    def send(self, path: Sequence[int], size: float, done: Callable[[], object]) -> None:
        """``size`` bytes over the links of ``path``; ``done`` is called when the last one has arrived."""
        key = tuple(path)
        if not key or size <= 0:
            self._timeline.after(0.0, done)
            return
        known = self._classes.get(key)
        if known is None:
            known = self._classes[key] = _Class(self._timeline, self._changed)
        known.add(size, done)
        self._changed()

    def _changed(self) -> None:
        """Solve again: now, or a tick after the last time."""
        if not self._solving:
            self._solving = True
            self._timeline.at(max(self._timeline.now, self._solved + TICK), self._solve)

    def _solve(self) -> None:
        self._solving = False
        self._solved = self._timeline.now
        used = {path: one for path, one in self._classes.items() if len(one)}
        self._classes = used
        counts = np.fromiter((len(one) for one in used.values()), np.int64, len(used))
        for one, rate in zip(used.values(), max_min(list(used), counts, self._capacities), strict=True):
            one.set_rate(float(rate))


class _Class(FairShare):
    """The transfers of one path, of so many bytes each."""

    _rate = 0.0

    @property
    def rate(self) -> float:
        """Bytes per second of each; none before the first solution."""
        return self._rate

    def set_rate(self, rate: float) -> None:
        self._catch_up()
        if rate != self._rate:
            self._rate = rate
            self._plan()
