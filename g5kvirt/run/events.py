"""Events, the lines of a journal.

An event's ``detail`` is free JSON; `g5kvirt.run.event_types` has the kinds of events on which the meaning of
a run depends, each with its constructor and its reader.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from sys import intern
from typing import Any, Final

from g5kvirt.run.vocabulary import LOAD, PHASE, PHASES, RELEASE, Kind, Status

__all__ = ["Event"]

#: Seconds since the epoch, and attempts, that no run comes to: what is beyond is no event.
_LATEST = 1e12
_MOST_ATTEMPTS = 1_000_000


@dataclass(slots=True)
class Event:
    """Something happened to ``subject`` at ``t`` (seconds since the epoch, UTC).

    A span of time is a ``start`` event and a later ``ok``, ``failed`` or ``skipped`` one of the same
    phase, step, subject and attempt; an ``ok`` without a ``start`` is a milestone.

    Its fields never change. The type checker enforces that, because a frozen dataclass takes three times as
    long to create, and a large journal has a million of them.
    """

    phase: Final[str]
    step: Final[str]
    kind: Final[Kind]
    subject: Final[str]
    status: Final[Status]
    t: Final[float]
    attempt: Final[int] = 1
    detail: Final[Mapping[str, Any]] = field(default_factory=dict)

    @property
    def deployment(self) -> str:
        """The name of the deployment that it belongs to; empty outside one."""
        return str(self.detail.get("deployment", "")) if self.phase == "measure" else ""

    @property
    def reason(self) -> str:
        """Why something failed or was begun again; empty if none was given."""
        return str(self.detail.get("reason", ""))

    @property
    def is_phase(self) -> bool:
        """True for the start or the end of one try of a whole phase."""
        return self.kind == "run" and self.step in (PHASE, "") and self.phase in PHASES

    @property
    def is_release(self) -> bool:
        """True for the start or the end of a release of the machines."""
        return self.step == RELEASE and self.kind == "run"

    @property
    def is_load(self) -> bool:
        """True for a look at how busy the machines are, which is no progress."""
        return self.step == LOAD and self.kind == "run"

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
    def from_json(cls, line: str | bytes) -> Event:
        """Read one line; raises ValueError, KeyError or TypeError if it is not an event."""
        try:
            d = json.loads(line)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        return cls.from_plain(d)

    @classmethod
    def from_plain(cls, d: Mapping[str, Any]) -> Event:
        """Read one object of JSON; raises ValueError, KeyError or TypeError if it is not an event."""
        try:
            t, attempt, detail = float(d["t"]), float(d.get("attempt", 1)), d.get("detail") or {}
        except OverflowError as error:
            raise ValueError("a number is too large") from error
        if not isinstance(detail, dict):
            raise TypeError("its detail is not a mapping")
        if not -_LATEST < t < _LATEST or not 0 <= attempt < _MOST_ATTEMPTS:  # nor NaN
            raise ValueError("no time, or no number of an attempt")
        # The same few strings again and again: kept once, a large journal takes less than half the memory.
        kept = {intern(k): intern(v) if type(v) is str else v for k, v in detail.items()}
        return cls(
            intern(d["phase"]),
            intern(d["step"]),
            intern(d["kind"]),  # type: ignore[arg-type]
            intern(d["subject"]),
            intern(d["status"]),  # type: ignore[arg-type]
            t,
            int(attempt),
            kept,
        )


# json.dumps with separators makes an encoder for every call
_encode = json.JSONEncoder(separators=(",", ":")).encode
