"""What relays report, and one result for each host of a broadcast. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from g5kvirt.broadcast.chain import ChainPlan

__all__ = ["Progress", "read_report", "results_by_host"]


@dataclass(frozen=True)
class Progress:
    """The last report of a host's relay, or why there is none.

    ``received`` and ``size`` are bytes, ``seconds`` the time from its start to its last byte (so far),
    ``checked`` that until its sum was known. ``source``: from whom it took last; ``skipped``: predecessors
    that it gave up; ``reason``: why it ended without the image.
    """

    host: str
    state: Literal["silent", "waiting", "receiving", "received", "ok", "failed"]
    received: int = 0
    size: int = 0
    seconds: float = 0.0
    checked: float | None = None
    t: float = 0.0  #: when it reported this, seconds since the epoch, its clock
    cpu: float = 0.0
    source: str = ""
    skipped: tuple[str, ...] = ()
    reason: str = ""

    @property
    def ok(self) -> bool:
        """It has the image and its SHA-256 is right."""
        return self.state == "ok"

    @property
    def ended(self) -> bool:
        """Nothing more will come of it."""
        return self.state in ("ok", "failed")


def read_report(line: str) -> Progress | None:
    """Read one line of a relay's output; None for anything else (such as an error message)."""
    try:
        d = json.loads(line)
        if not isinstance(d, dict) or d.get("op") != "broadcast":
            return None
        return Progress(
            host=str(d["host"]),
            state=d["state"],
            received=int(d["have"]),
            size=int(d["size"]),
            seconds=float(d["seconds"]),
            checked=None if d["checked"] is None else float(d["checked"]),
            t=float(d["t"]),
            cpu=float(d["cpu"]),
            source=str(d["from"]),
            skipped=tuple(d["skipped"]),
            reason=str(d["reason"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def results_by_host(
    plan: ChainPlan, reports: Mapping[str, Progress], reasons: Mapping[str, str]
) -> dict[str, Progress]:
    """One result for each host of the plan, in its order: its last report if that is an end, else a failure.

    ``reports``: the last report of each host; ``reasons``: of those that could not be watched to the end.
    """
    results = {}
    for stop in plan.stops:
        name = stop.host.name
        last = reports.get(name, Progress(name, "silent", size=plan.image.size))
        if not last.ended:
            reason = reasons.get(name) or "its relay did not report how it ended"
            part = f" after {last.received} of {plan.image.size} bytes" if last.received else ""
            last = replace(last, state="failed", reason=reason + part)
        results[name] = last
    return results
