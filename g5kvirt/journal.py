"""The journal of a run: one source of truth, append-only, one event a line.

``runs/<name>/journal.jsonl`` holds everything that happened, ``run.json`` what was asked. Timings,
states, progress, frames, figures and the final account are all read from here; nothing measures
twice. A crash loses at most a torn last line, which `Journal.open` cuts off.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from g5kvirt.errors import RunError

__all__ = ["PHASES", "Event", "Journal", "Kind", "Listener", "Status", "read_events"]

Kind = Literal["run", "site", "host", "service", "vm"]
Status = Literal["start", "ok", "failed", "skipped", "retry"]

#: The steps of an experiment, in their order.
PHASES = ("reserve", "deploy", "configure", "place", "launch", "measure")


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to ``subject`` at ``t`` (seconds since the epoch, UTC).

    A span of time is a ``start`` event and a later ``ok``, ``failed`` or ``skipped`` one of the same
    phase, step, subject and attempt; an ``ok`` without a ``start`` is a milestone.
    """

    phase: str
    step: str
    kind: Kind
    subject: str
    status: Status
    t: float
    attempt: int = 1
    detail: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line of JSON, without its newline."""
        return _encode(
            {
                "t": round(self.t, 6),
                "phase": self.phase,
                "step": self.step,
                "kind": self.kind,
                "subject": self.subject,
                "status": self.status,
                "attempt": self.attempt,
                "detail": self.detail,
            }
        )

    @classmethod
    def from_json(cls, line: str) -> Event:
        """Read one line; raises ValueError, KeyError or TypeError if it is not an event."""
        d = json.loads(line)
        return cls(
            phase=d["phase"],
            step=d["step"],
            kind=cast(Kind, d["kind"]),
            subject=d["subject"],
            status=cast(Status, d["status"]),
            t=float(d["t"]),
            attempt=int(d.get("attempt", 1)),
            detail=d.get("detail") or {},
        )


Listener = Callable[[Event], None]

# json.dumps with separators makes an encoder for every call
_encode = json.JSONEncoder(separators=(",", ":")).encode


class Journal:
    """The open journal of one run. Appends are flushed and safe from several threads."""

    def __init__(self, path: Path, events: list[Event]) -> None:
        self.path = path
        self._events = events
        self._listeners: list[Listener] = []
        self._lock = threading.RLock()
        self._file = path.open("a", encoding="utf-8")

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Open ``path`` for appending, creating it if needed, and repair a torn last line.

        Raises RunError if a line other than the last cannot be read.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            events, sound = _read(path)
            if sound < path.stat().st_size:
                os.truncate(path, sound)
        else:
            events = []
        return cls(path, events)

    def append(
        self,
        phase: str,
        step: str,
        kind: Kind,
        subject: str,
        status: Status,
        *,
        t: float | None = None,
        attempt: int = 1,
        **detail: Any,
    ) -> Event:
        """Write one event down and tell the listeners. ``t`` defaults to now."""
        event = Event(phase, step, kind, subject, status, time.time() if t is None else t, attempt, detail)
        self.extend([event])
        return event

    def extend(self, events: Iterable[Event]) -> None:
        """Write several events with one flush."""
        batch = list(events)
        with self._lock:
            self._file.write("".join(e.to_json() + "\n" for e in batch))
            self._file.flush()
            self._events.extend(batch)
            listeners = tuple(self._listeners)
        for listener in listeners:
            for event in batch:
                listener(event)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with every event from now on; returns a function that ends it."""
        with self._lock:
            self._listeners.append(listener)

        def unsubscribe() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return unsubscribe

    def __iter__(self) -> Iterator[Event]:
        with self._lock:
            return iter(tuple(self._events))

    def __len__(self) -> int:
        return len(self._events)

    def close(self) -> None:
        """Close the file; the events stay readable."""
        with self._lock:
            self._file.close()


def read_events(path: Path) -> list[Event]:
    """All events of a journal that may still be written to; a torn last line is left out.

    Raises RunError if the file is missing or a line other than the last cannot be read.
    """
    if not path.exists():
        raise RunError(f"there is no journal at {path}: is this the directory of a run?")
    return _read(path)[0]


def _read(path: Path) -> tuple[list[Event], int]:
    """The events, and up to which byte the file is sound."""
    data = path.read_bytes()
    events: list[Event] = []
    sound = 0
    lines = data.split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):  # the last piece has no newline: torn or empty
        try:
            events.append(Event.from_json(line.decode()))
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) - 1 and lines[-1] == b"":
                break
            raise RunError(
                f"{path}, line {number} is not an event ({error}): mend or remove that line"
            ) from error
        sound += len(line) + 1
    return events, sound
