"""Cores that are shared fairly by what runs on them."""

from __future__ import annotations

from g5kvirt.simulation.sharing import FairShare
from g5kvirt.simulation.timeline import Timeline

__all__ = ["Processors"]


class Processors(FairShare):
    """``cores`` under processor sharing: each job has the same share, and at most one core.

    The work of a job is in seconds of a core.
    """

    def __init__(self, timeline: Timeline, cores: float) -> None:
        super().__init__(timeline)
        self._cores = cores

    @property
    def rate(self) -> float:
        """The share of a core that each job has."""
        return min(1.0, self._cores / len(self)) if len(self) else 1.0
