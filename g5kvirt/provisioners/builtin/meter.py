"""How long a step takes, and the time-out that follows from what was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Self

__all__ = ["Meter", "TimeoutRange"]


@dataclass(frozen=True)
class TimeoutRange:
    """Seconds that a step may take: ``first`` until enough VMs have shown how long it takes, then what
    they took times a factor, but never below ``least`` nor above ``most`` (see `Meter`)."""

    first: float
    least: float
    most: float

    def __post_init__(self) -> None:
        if not 0 < self.least <= self.first <= self.most:
            raise ValueError(f"least, first and most must rise from above 0: {self}")

    def at_least(self, seconds: float | None) -> Self:
        """This range with all of it raised to ``seconds``, if that is more."""
        low = seconds or 0.0
        return type(self)(max(self.first, low), max(self.least, low), max(self.most, low))


@dataclass
class Meter:
    """Durations of one step, and the time-out that follows from them. Constant time and memory a duration.

    Until ``enough`` were seen, `TimeoutRange.first` holds. Then the time-out is the 95th percentile of what
    was seen × ``factor``, and × (VMs active now / VMs active on average when those were seen) where that is
    more: a VM that shares cores and links with more others takes longer, and the first VMs shared with few.
    It is never below the first bound until a third of the VMs that are active now were seen: the first ones
    of a crowd are through a link before the others have come to it.
    """

    bounds: TimeoutRange
    factor: float = 4.0
    enough: int = 3
    quantile: float = 0.95
    seen: int = 0
    _load: float = 0.0
    _bins: dict[int, int] = field(default_factory=dict)  # powers of _BASE: at most some tens
    _cached: float | None = None

    _BASE = math.log(1.2)

    def record(self, seconds: float, load: int) -> None:
        """A VM took ``seconds`` while ``load`` VMs were active."""
        place = math.ceil(math.log(max(seconds, 1e-3)) / self._BASE)
        self._bins[place] = self._bins.get(place, 0) + 1
        self.seen += 1
        self._load += load
        self._cached = None

    def timeout(self, load: int) -> float:
        """Seconds to wait now that ``load`` VMs are active."""
        if self.seen < self.enough:
            return self.bounds.first
        if self._cached is None:
            left = self.quantile * self.seen
            for place in sorted(self._bins):
                left -= self._bins[place]
                if left <= 0:
                    break
            self._cached = math.exp(place * self._BASE)
        crowd = max(1.0, load * self.seen / max(self._load, 1.0))
        least = self.bounds.first if self.seen < load / 3 else self.bounds.least
        return min(max(self._cached * self.factor * crowd, least), self.bounds.most)
