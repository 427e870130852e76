"""The journal as pandas tables, and the account of what became of every VM.

All times are seconds since the epoch (UTC), all durations seconds. Columns have their types also when
a table is empty, so that code which reads them never meets a special case.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pandas as pd

from g5kvirt.inventory import VM
from g5kvirt.run.deployment_tables import Measurements
from g5kvirt.run.journal import PHASES, Event

__all__ = [
    "MILESTONES",
    "STATES",
    "Account",
    "Boot",
    "Frames",
    "account",
    "events_frame",
    "hosts_frame",
    "phases_frame",
    "placed_vms",
    "spans_frame",
    "vms_frame",
]

#: The steps of a boot in their order; with ``_`` for ``-`` these are the columns of the vms table.
MILESTONES = ("power-on", "dhcp", "script", "kernel", "initrd", "minimal-system")

#: What may become of a VM: ``placed`` and ``booting`` are unfinished.
STATES = ("placed", "booting", "up", "failed")

_OPEN = "unfinished"
_COLUMN = {milestone: milestone.replace("-", "_") for milestone in MILESTONES}
_DURATION = {c: f"t_{c}" for c in list(_COLUMN.values())[1:]}

_EVENTS = {
    "t": "float64",
    "phase": "object",
    "step": "object",
    "kind": "object",
    "subject": "object",
    "status": "object",
    "attempt": "int64",
    "detail": "object",
}
_SPANS = {
    "phase": "object",
    "step": "object",
    "kind": "object",
    "subject": "object",
    "attempt": "int64",
    "start": "float64",
    "end": "float64",
    "duration": "float64",
    "status": "object",
}
_PHASES = {
    "phase": "object",
    "start": "float64",
    "end": "float64",
    "duration": "float64",
    "status": "object",
} | {"tries": "int64"}
_VMS = (
    {"index": "int64", "name": "object", "host": "object", "site": "object", "ip": "object", "mac": "object"}
    | {"state": "object", "attempts": "int64", "failed_at": "object", "reason": "object"}
    | dict.fromkeys(_COLUMN.values(), "float64")
    | dict.fromkeys(_DURATION.values(), "float64")
)
_HOSTS = {"host": "object", "site": "object"} | dict.fromkeys(("vms", "up", "failed", "unfinished"), "int64")


@dataclass(frozen=True)
class Account:
    """What became of every VM asked for: ``asked = up + failed + unfinished``, always."""

    asked: int
    up: int
    failed: int
    unfinished: int
    failures: tuple[tuple[str, str, str], ...] = ()  #: (VM, step, reason) of each that failed
    #: (step, reason) → where one of them left its last words, below the run's directory
    consoles: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @property
    def reasons(self) -> Mapping[tuple[str, str], int]:
        """(step, reason) → how many VMs, most frequent first."""
        return dict(Counter((step, reason) for _, step, reason in self.failures).most_common())


@dataclass
class Boot:
    """What is known of one VM while its events of the phase ``launch`` are read."""

    plan: dict[str, Any]
    state: str = "placed"
    attempt: int = 0  #: the attempt whose times are kept
    power_ons: int = 0
    failed_at: str = ""
    reason: str = ""
    console: str = ""  #: where the end of its serial console is kept, below the run's directory
    times: dict[str, float] = field(default_factory=dict)
    began: set[float] = field(default_factory=set)  #: when its processes began
    asked: bool = False  #: to be there, and no answer yet

    def see(self, event: Event) -> None:
        if event.step == "console":
            self.console = str(event.detail.get("file", ""))
            return
        if event.step == "launch":
            if event.status == "failed":
                self.state = "failed"
                self.failed_at = str(event.detail.get("at", event.step))
                self.reason = str(event.detail.get("reason", "no reason was given"))
            return
        if event.step not in _COLUMN:
            return
        switched_on = (event.step, event.status) == (MILESTONES[0], "start")
        self.power_ons += switched_on
        self.asked = self.asked or switched_on
        if (event.step, event.status) == (MILESTONES[0], "ok") and self.asked:
            self.asked = False
            self.power_ons -= round(event.t, 3) in self.began  # it was there: a later process asked, too
            self.began.add(round(event.t, 3))
        # switched on again, perhaps by a later process that counts from 1: what was before does not count
        if event.attempt > self.attempt or (switched_on and self.state == "failed"):
            self.attempt = event.attempt
            self.state, self.failed_at, self.reason = "booting", "", ""
            self.times = {}
        elif event.attempt < self.attempt:
            return  # a late word from before
        if event.status == "ok":
            # DHCP and files may be asked for twice (iPXE, then the minimal system): the first counts
            self.times.setdefault(event.step, event.t)
            if event.step == MILESTONES[-1]:
                self.state, self.failed_at, self.reason = "up", "", ""


def _placed(events: Iterable[Event]) -> list[dict[str, Any]]:
    """The rows of the last plan that the place phase wrote down."""
    rows: list[dict[str, Any]] = []
    for event in events:
        if event.phase == "place" and event.step == "plan" and event.kind == "run" and "vms" in event.detail:
            rows = list(event.detail["vms"])
    return rows


def placed_vms(events: Iterable[Event]) -> list[VM]:
    """The VMs as the place phase planned them; none before that."""
    return [
        VM(r["index"], r["name"], r["host"], r["site"], IPv4Address(r["ip"]), r["mac"])
        for r in _placed(events)
    ]


def _boots(events: Sequence[Event]) -> list[Boot]:
    boots = {row["name"]: Boot(row) for row in _placed(events)}
    for event in events:
        if event.kind != "vm" or event.phase != "launch":
            continue
        if event.subject not in boots:  # a journal without its plan still shows what it saw
            unknown = {
                "index": len(boots) + 1,
                "name": event.subject,
                "host": "",
                "site": "",
                "ip": "",
                "mac": "",
            }
            boots[event.subject] = Boot(unknown)
        boots[event.subject].see(event)
    return list(boots.values())


def account(events: Iterable[Event], asked: int | None = None) -> Account:
    """What became of every VM. ``asked``: how many were asked for, where that is more than were placed."""
    boots = _boots(list(events))
    up = sum(b.state == "up" for b in boots)
    failures = tuple((b.plan["name"], b.failed_at, b.reason) for b in boots if b.state == "failed")
    consoles = {(b.failed_at, b.reason): b.console for b in boots if b.state == "failed" and b.console}
    total = max(len(boots), asked or 0)
    return Account(total, up, len(failures), total - up - len(failures), failures, consoles)


def events_frame(events: Iterable[Event]) -> pd.DataFrame:
    """The table `Frames.events`."""
    return _frame(
        [(e.t, e.phase, e.step, e.kind, e.subject, e.status, e.attempt, e.detail) for e in events], _EVENTS
    )


def spans_frame(events: Iterable[Event]) -> pd.DataFrame:
    """The table `Frames.spans`."""
    rows: list[list[Any]] = []
    running: dict[tuple[str, str, str, str, int], int] = {}
    for e in events:
        key = (e.phase, e.step, e.kind, e.subject, e.attempt)
        if e.status == "start":
            running[key] = len(rows)
            rows.append([*key, e.t, float("nan"), float("nan"), _OPEN])
        elif (position := running.pop(key, None)) is not None:
            row = rows[position]
            row[6:] = [e.t, e.t - row[5], e.status]
    return _frame(rows, _SPANS)


def phases_frame(events: Iterable[Event]) -> pd.DataFrame:
    """The table `Frames.phases`."""
    return _phases(spans_frame(events))


def _phases(spans: pd.DataFrame) -> pd.DataFrame:
    whole = spans[(spans["kind"] == "run") & spans["step"].isin(["phase", ""])]
    rows = []
    for phase in PHASES:
        own = whole[whole["phase"] == phase]
        if len(own):
            last = own.iloc[-1]
            rows.append((phase, last["start"], last["end"], last["duration"], last["status"], len(own)))
    return _frame(rows, _PHASES)


def vms_frame(events: Iterable[Event]) -> pd.DataFrame:
    """The table `Frames.vms`."""
    rows = []
    for boot in _boots(list(events)):
        times = [boot.times.get(milestone, float("nan")) for milestone in MILESTONES]
        since = [t - times[0] for t in times[1:]]
        plan = [boot.plan[key] for key in ("index", "name", "host", "site", "ip", "mac")]
        rows.append(
            [
                *plan,
                boot.state,
                max(boot.attempt, boot.power_ons),
                boot.failed_at,
                boot.reason,
                *times,
                *since,
            ]
        )
    return _frame(rows, _VMS)


def hosts_frame(events: Iterable[Event]) -> pd.DataFrame:
    """The table `Frames.hosts`."""
    known = list(events)
    hosts: dict[str, list[Any]] = {}
    for event in known:
        if event.kind == "host":
            hosts.setdefault(event.subject, [event.subject, _site_of(event.subject), 0, 0, 0, 0])
    for boot in _boots(known):
        if name := boot.plan["host"]:
            row = hosts.setdefault(name, [name, boot.plan["site"], 0, 0, 0, 0])
            row[2] += 1
            row[{"up": 3, "failed": 4}.get(boot.state, 5)] += 1
    return _frame(list(hosts.values()), _HOSTS)


def _site_of(host: str) -> str:
    """``graphene-1.nancy.grid5000.fr`` → ``nancy``."""
    return host.split(".")[1] if "." in host else ""


def _frame(rows: Sequence[Sequence[Any]], types: Mapping[str, str]) -> pd.DataFrame:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(types)
    made = {
        name: pd.Series(list(column), dtype=dtype)
        for (name, dtype), column in zip(types.items(), columns, strict=True)
    }
    return pd.DataFrame(made)


class Frames:
    """A run's tables, each computed once when it is first asked for."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.journal = tuple(events)  #: the events that the tables are made from

    @cached_property
    def events(self) -> pd.DataFrame:
        """All events, one row each, as they stand in the journal."""
        return events_frame(self.journal)

    @cached_property
    def spans(self) -> pd.DataFrame:
        """Spans of time, in the order in which they began.

        ``status`` is ``ok``, ``failed``, ``skipped``, ``retry``, or ``unfinished`` (then ``end`` and
        ``duration`` are NaN).
        """
        return spans_frame(self.journal)

    @cached_property
    def phases(self) -> pd.DataFrame:
        """One row a phase that was begun, in the experiment's order: its last try, and how many tries."""
        return _phases(self.spans)

    @cached_property
    def vms(self) -> pd.DataFrame:
        """One row a VM: where it is, its state, and when its last attempt reached each milestone.

        ``power_on`` … ``minimal_system`` are epoch seconds, ``t_dhcp`` … ``t_minimal_system`` seconds since
        its QEMU process was there; NaN where it did not get so far.
        """
        return vms_frame(self.journal)

    @cached_property
    def hosts(self) -> pd.DataFrame:
        """One row a host that carries VMs or was heard of: how many it has, and what became of them."""
        return hosts_frame(self.journal)

    @cached_property
    def guest(self) -> str:
        """The kind of guest that was launched: ``tcg``, ``kvm``, …; empty before that."""
        found = [e.detail["guest"] for e in self.journal if (e.phase, e.step) == ("launch", "guests")]
        return str(found[-1]) if found else ""

    @cached_property
    def measurements(self) -> Measurements:
        """The tables of the deployments, see `g5kvirt.run.deployment_tables.Measurements`."""
        return Measurements(self.journal)

    @cached_property
    def account(self) -> Account:
        """What became of every VM when it was launched."""
        return account(self.journal)

    def export(self, directory: str | Path) -> list[Path]:
        """Write all tables as CSV into ``directory`` (made if needed); returns the files.

        ``vms.csv`` and so on; those of `measurements` as ``measure-vms.csv`` and so on, once something was
        deployed. Times keep microseconds; the events' detail is JSON.
        """
        tables = {name: getattr(self, name) for name in ("events", "spans", "phases", "hosts", "vms")}
        tables["events"] = self.events.assign(
            detail=[json.dumps(detail, sort_keys=True) for detail in self.events["detail"]]
        )
        if len(self.measurements.deployments):
            names = ("deployments", "vms", "attempts", "macros", "scalability")
            tables |= {f"measure-{name}": getattr(self.measurements, name) for name in names}
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name, table in tables.items():
            written.append(folder / f"{name}.csv")
            table.to_csv(written[-1], index=False, float_format="%.6f")
        return written
