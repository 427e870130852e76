"""Spans of time: a start, and the event that ends it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from g5kvirt.run.events import Event
from g5kvirt.run.vocabulary import UNFINISHED

__all__ = ["Span", "Spans"]

_Key = tuple[str, str, str, str, int, str]


@dataclass(slots=True)
class Span:
    """From ``start`` to ``end``, None while it has not ended."""

    start: Event
    end: Event | None = None

    @property
    def seconds(self) -> float:
        """Its length; NaN without an end."""
        return math.nan if self.end is None else self.end.t - self.start.t

    @property
    def status(self) -> str:
        """``ok``, ``failed``, ``skipped``, ``retry``, or ``unfinished``."""
        return UNFINISHED if self.end is None else self.end.status


@dataclass
class Spans:
    """All spans of a run in the order of their starts, and those without an end."""

    all: list[Span] = field(default_factory=list)
    _open: dict[_Key, Span] = field(default_factory=dict)
    _started: set[str] = field(default_factory=set)  # steps that ever had a start: most events have none

    def take(self, event: Event) -> None:
        """Process one event."""
        if event.status == "start":
            self._started.add(event.step)
            self._open[_key(event)] = span = Span(event)
            self.all.append(span)
        elif event.step not in self._started:
            return
        elif (open_ := self._open.pop(_key(event), None)) is not None:
            open_.end = event

    @property
    def open(self) -> Iterator[Event]:
        """The start events without an end, in order."""
        return (span.start for span in self._open.values())


def _key(event: Event) -> _Key:
    return event.phase, event.step, event.kind, event.subject, event.attempt, event.deployment
