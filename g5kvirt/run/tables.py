"""The journal as pandas tables, and the account of the outcome of every VM.

All times are seconds since the epoch (UTC), all durations seconds. Columns have their types also when
a table is empty, so that code which reads them needs no special case.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd

from g5kvirt.run.deployment_tables import Measurements
from g5kvirt.run.events import Event
from g5kvirt.run.frame import frame_of_columns, make_frame, marked, with_groups
from g5kvirt.run.link_tables import links_table
from g5kvirt.run.load_tables import load_table, service_load_table
from g5kvirt.run.spans import Span
from g5kvirt.run.state import RunState
from g5kvirt.run.virtual_time import is_virtual
from g5kvirt.run.vm_state import VMState
from g5kvirt.run.vocabulary import BOOT_STEPS

__all__ = ["Account", "Frames", "account"]

_NAN = float("nan")
_COLUMN = {step: step.replace("-", "_") for step in BOOT_STEPS}
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
    "tries": "int64",
}
_VMS = (
    {"index": "int64", "name": "object", "host": "object", "site": "object", "ip": "object", "mac": "object"}
    | {"state": "object", "attempts": "int64", "failed_at": "object", "reason": "object"}
    | dict.fromkeys(_COLUMN.values(), "float64")
    | dict.fromkeys(_DURATION.values(), "float64")
)
_HOSTS = {"host": "object", "site": "object"} | dict.fromkeys(("vms", "up", "failed", "unfinished"), "int64")


@dataclass(frozen=True)
class Account:
    """The outcomes of all VMs; ``requested = up + failed + unfinished``."""

    requested: int  #: number of VMs
    up: int  #: number of VMs that are up
    failed: int  #: number of VMs that failed
    unfinished: int  #: number of VMs that are still booting or were interrupted
    failures: tuple[tuple[str, str, str], ...] = ()  #: (VM, step, reason) of each VM that failed
    #: (step, reason) → the console log of one such VM, relative to the run's directory
    consoles: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @property
    def reasons(self) -> Mapping[tuple[str, str], int]:
        """(step, reason) → number of VMs, most frequent first."""
        return dict(Counter((step, reason) for _, step, reason in self.failures).most_common())


class Frames:
    """A run's tables, each computed once when it is first used.

    ``events`` are those of a journal, in their order.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        self.journal = tuple(events)  #: the events that the tables are made from

    def __repr__(self) -> str:
        number = len(self.journal)
        return (
            f"<Frames of {number:,} event{'s' * (number != 1)}: "
            "events, spans, phases, hosts, vms, account, measurements, load>"
        )

    @cached_property
    def state(self) -> RunState:
        """The state after all events; the tables are views of it."""
        return RunState.of(self.journal)

    @cached_property
    def events(self) -> pd.DataFrame:
        """All events, one row per event, as in the journal."""
        columns = ([getattr(event, name) for event in self.journal] for name in _EVENTS)
        return marked(frame_of_columns(columns, _EVENTS), self.predicted)

    @cached_property
    def spans(self) -> pd.DataFrame:
        """One row per step of a phase, host, service, site or VM, in the order of their start.

        ``status`` is ``ok``, ``failed``, ``skipped``, ``retry``, or ``unfinished`` (then ``end`` and
        ``duration`` are NaN).
        """
        return marked(make_frame(map(_span_cells, self.state.spans.all), _SPANS), self.predicted)

    @cached_property
    def phases(self) -> pd.DataFrame:
        """One row per started phase, in the order of the experiment.

        ``duration`` is the total duration of all ``tries``, NaN until the last one has ended; ``start`` is
        that of the first, ``end`` and ``status`` are those of the last.
        """
        rows = []
        for phase in self.state.phases.values():
            if phase.tries:
                status = phase.tries[-1].status
                rows.append((phase.name, phase.start, phase.end, phase.seconds(), status, len(phase.tries)))
        return marked(make_frame(rows, _PHASES), self.predicted)

    @cached_property
    def vms(self) -> pd.DataFrame:
        """One row per VM: where it was placed, its state, and when its last boot reached each step.

        ``power_on`` … ``minimal_system`` are epoch seconds, ``t_dhcp`` … ``t_minimal_system`` seconds since
        the start of its QEMU process; NaN for steps that it did not reach. ``attempts``: number of power-ons.
        With groups, the column ``group`` follows the name.
        """
        table = make_frame(map(_vm_cells, count(1), self.state.launched()), _VMS)
        return marked(with_groups(table, "name", self._groups), self.predicted)

    @cached_property
    def _groups(self) -> dict[str, str]:
        """VM → its group; empty without groups."""
        return {vm.name: vm.group for vm in self.state.vms.values() if vm.group}

    @cached_property
    def hosts(self) -> pd.DataFrame:
        """One row per host: the number of its VMs by outcome."""
        hosts: dict[str, list[Any]] = {
            name: [name, site, 0, 0, 0, 0] for name, site in self.state.hosts.items()
        }
        for vm in self.state.launched():
            if vm.host:
                row = hosts.setdefault(vm.host, [vm.host, vm.site, 0, 0, 0, 0])
                row[2] += 1
                row[{"up": 3, "failed": 4}.get(vm.state, 5)] += 1
        return marked(make_frame(list(hosts.values()), _HOSTS), self.predicted)

    @cached_property
    def load(self) -> pd.DataFrame:
        """The load of processors and links while VMs were launched and deployed: one row per host and
        sampling interval."""
        return load_table(self.journal)

    @cached_property
    def service_load(self) -> pd.DataFrame:
        """The cores that each service used meanwhile: one row per service, host and sampling interval."""
        return service_load_table(self.journal)

    @property
    def predicted(self) -> bool:
        """Whether the run is a prediction by a model; each table then has a column ``prediction``."""
        return bool(self.journal) and is_virtual(self.journal[0].t)

    @property
    def guest(self) -> str:
        """The kind of guest: ``tcg``, ``kvm``, …; empty before the launch."""
        return self.state.guest

    @cached_property
    def measurements(self) -> Measurements:
        """The tables of the deployments: `g5kvirt.run.deployment_tables.Measurements`."""
        return Measurements(self.state.deployments.values(), self.guest, self._groups)

    @cached_property
    def links(self) -> pd.DataFrame:
        """The links between VMs: one row per direction each time they were set, and one per measurement."""
        return links_table(self.journal)

    @cached_property
    def account(self) -> Account:
        """The outcome of every VM in `launch`."""
        return account(self.state)

    def export(self, directory: str | Path) -> list[Path]:
        """Write all tables as CSV into ``directory`` (created if needed); returns the paths.

        The files are ``vms.csv`` and so on; those of `measurements` are ``measure-vms.csv`` and so on. Times
        have microseconds; the events' detail is JSON.
        """
        tables = {name: getattr(self, name) for name in ("events", "spans", "phases", "hosts", "vms")}
        tables["events"] = self.events.assign(
            detail=[json.dumps(detail, sort_keys=True) for detail in self.events["detail"]]
        )
        if len(self.links):
            tables["links"] = self.links
        if len(self.measurements.deployments):
            names = ("deployments", "vms", "attempts", "macros", "scalability")
            tables |= {f"measure-{name}": getattr(self.measurements, name) for name in names}
        if len(self.load):
            tables |= {"load": self.load, "service-load": self.service_load}
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name, table in tables.items():
            written.append(folder / f"{name}.csv")
            table.to_csv(written[-1], index=False, float_format="%.6f")
        return written


def _vm_cells(number: int, vm: VMState) -> list[object]:
    steps = vm.boots[-1].steps if vm.boots else {}
    times = [event.t if (event := steps.get(step)) is not None else _NAN for step in BOOT_STEPS]
    plan = vm.plan or {"index": number, "name": vm.name}
    place = [plan.get("index", number), *(plan.get(key, "") for key in ("name", "host", "site", "ip", "mac"))]
    since = [t - times[0] for t in times[1:]]
    return [*place, vm.state, vm.attempts, vm.failed_at, vm.reason, *times, *since]


def _span_cells(span: Span) -> tuple[object, ...]:
    start, end = span.start, _NAN if span.end is None else span.end.t
    key = (start.phase, start.step, start.kind, start.subject, start.attempt, start.t)
    return (*key, end, end - start.t, span.status)


def account(state: RunState) -> Account:
    """The outcome of every VM that was placed, or has events of `launch`."""
    vms = list(state.launched())
    up = sum(vm.up for vm in vms)
    lost = [vm for vm in vms if vm.state == "failed"]
    failures = tuple((vm.name, vm.failed_at, vm.reason) for vm in lost)
    consoles = {(vm.failed_at, vm.reason): vm.console for vm in lost if vm.console}
    return Account(len(vms), up, len(lost), len(vms) - up - len(lost), failures, consoles)
