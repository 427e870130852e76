"""Deployments as pandas tables: every step of every VM, macro-steps, summaries, scalability.

Everything is read from the journal's events of the phase ``measure``: micro-steps are one event at their
end, with the ``seconds`` that they took (waits for a window left out); macro-steps are spans (waits for a
window are part of them); ``deployment`` says what became of a VM, and of a deployment as a whole.
All times are seconds since the epoch (UTC), all durations seconds. Columns have their types also when a
table is empty.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd

from g5kvirt.run.journal import Event

__all__ = [
    "MACROS",
    "Measurements",
    "Summary",
    "attempts_frame",
    "column",
    "deployments_frame",
    "macros_frame",
    "measurements_frame",
    "scalability_frame",
    "summary",
]

#: The macro-steps and their micro-steps in their order. A deployment with others says so in its first event.
MACROS: Mapping[str, tuple[str, ...]] = {
    "SetDeploymentEnv": ("reboot", "minimal-system", "partition", "format"),
    "BroadcastEnv": ("broadcast", "image", "postinstall", "bootloader", "sync"),
    "BootNewEnv": ("boot", "reset", "ready"),
}

_OPEN = "unfinished"
_WHOLE = "deployment"
_CONSOLE = "console"
_NAN = float("nan")

_ATTEMPTS = (
    dict.fromkeys(("deployment", "vm", "macro", "step"), "object")
    | {"attempt": "int64", "outcome": "object"}
    | dict.fromkeys(("start", "end", "duration"), "float64")
    | {"reason": "object"}
)
_HEAD = (
    {"deployment": "object", "environment": "object", "asked": "int64", "repetition": "int64"}
    | {"vm": "object", "outcome": "object", "attempts": "int64"}
    | dict.fromkeys(("failed_macro", "failed_at", "reason", "said", "console"), "object")
    | dict.fromkeys(("start", "end", "duration"), "float64")
)
_MACROS = (
    {"deployment": "object", "environment": "object", "macro": "object"}
    | dict.fromkeys(("vms", "tries", "failed"), "int64")
    | dict.fromkeys(("min", "median", "mean", "p95", "max"), "float64")
)
_DEPLOYMENTS = (
    {"deployment": "object", "environment": "object", "repetition": "int64"}
    | dict.fromkeys(("asked", "fresh", "deployed", "failed", "unfinished"), "int64")
    | dict.fromkeys(("start", "end", "duration"), "float64")
)
_SCALABILITY = (
    {"environment": "object", "vms": "int64", "repetition": "int64", "deployment": "object"}
    | dict.fromkeys(("fresh", "deployed", "failed"), "int64")
    | dict.fromkeys(("total", "median_vm", "p95_vm", "vms_per_second", "transfer_bound"), "float64")
)


def column(step: str) -> str:
    """A step's part of a column name: ``minimal-system`` → ``minimal_system``."""
    return step.replace("-", "_")


class _Span(NamedTuple):
    """A micro-step of a VM, or all tries of a macro-step."""

    start: float = _NAN
    end: float = _NAN
    attempt: int = 0
    outcome: str = ""
    duration: float = _NAN


@dataclass
class _VM:
    """One VM in one deployment, while its events are read."""

    name: str
    outcome: str = _OPEN
    macro: str = ""
    at: str = ""
    reason: str = ""
    said: str = ""
    console: str = ""  # the file with the end of its serial console, below the run's directory
    attempts: int = 1
    start: float = _NAN
    end: float = _NAN
    steps: dict[str, _Span] = field(default_factory=dict)  # the last of each
    macros: dict[str, _Span] = field(default_factory=dict)
    tries: Counter[str] = field(default_factory=Counter)
    begun: float = _NAN  # the try of a macro-step that it is in
    rows: list[tuple[str, str, int, str, float, float, str]] = field(default_factory=list)

    def see(self, event: Event, macro_of: Mapping[str, str]) -> None:
        step, status, t, attempt = event.step, event.status, event.t, event.attempt
        if step == _CONSOLE:
            self.console = str(event.detail.get("file", ""))
            return
        self.attempts = max(self.attempts, attempt)
        if math.isnan(self.start):
            self.start = t
        reason = str(event.detail.get("reason", ""))
        if step == _WHOLE:
            self.outcome = "deployed" if status == "ok" else "failed"
            self.macro, self.at = (str(event.detail.get(key, "")) for key in ("macro", "at"))
            self.reason, self.said, self.end = reason, str(event.detail.get("said", "")), t
        elif "seconds" in event.detail:
            seconds = float(event.detail["seconds"])
            start = t - seconds
            self.steps[step] = _Span(start, t, attempt, status, seconds)
            self.rows.append((macro_of.get(step, ""), step, attempt, status, start, t, reason))
        elif status == "start":
            self.tries[step] += 1
            self.begun = t
            before = self.macros.get(step, _Span(t, duration=0.0))
            self.macros[step] = before._replace(end=_NAN, attempt=attempt, outcome=_OPEN)
        elif step in self.macros:
            before = self.macros[step]
            spent = before.duration + t - self.begun
            self.macros[step] = _Span(before.start, t, attempt, status, spent)


@dataclass
class _Deployment:
    """One deployment while its events are read."""

    name: str
    about: Mapping[str, Any] = field(default_factory=dict)
    start: float = _NAN
    end: float = _NAN
    vms: dict[str, _VM] = field(default_factory=dict)

    @property
    def environment(self) -> str:
        return str(self.about.get("environment", ""))

    @property
    def repetition(self) -> int:
        return int(self.about.get("repetition", 1))

    @property
    def fresh(self) -> int:
        return int(self.about.get("fresh", 0))

    @property
    def asked(self) -> int:
        return max(int(self.about.get("asked", 0)), len(self.vms))

    @property
    def macros(self) -> Mapping[str, Sequence[str]]:
        said: Mapping[str, Sequence[str]] = self.about.get("workflow") or MACROS
        return said

    def count(self, outcome: str) -> int:
        return sum(vm.outcome == outcome for vm in self.vms.values())

    def see(self, event: Event) -> None:
        if event.kind == "vm":
            vm = self.vms.setdefault(event.subject, _VM(event.subject))
            vm.see(event, self._macro_of)
        elif event.kind == "run" and event.step == _WHOLE:
            if event.status == "start":
                self.about, self.start = event.detail, event.t
                self.__dict__.pop("_macro_of", None)
            else:
                self.end = event.t

    @cached_property
    def _macro_of(self) -> Mapping[str, str]:
        return {step: macro for macro, steps in self.macros.items() for step in steps}


def _read(events: Iterable[Event]) -> list[_Deployment]:
    found: dict[str, _Deployment] = {}
    for event in events:
        if event.phase == "measure" and "deployment" in event.detail:
            name = str(event.detail["deployment"])
            if name not in found:
                found[name] = _Deployment(name)
            found[name].see(event)
    return list(found.values())


def _named(deployments: Iterable[_Deployment]) -> dict[str, list[str]]:
    """Macro-step → its steps, of all these deployments, the usual ones first."""
    names = {macro: list(steps) for macro, steps in MACROS.items()}
    for deployment in deployments:
        for macro, steps in deployment.macros.items():
            known = names.setdefault(macro, [])
            known += [step for step in steps if step not in known]
    return names


def measurements_frame(events: Iterable[Event]) -> pd.DataFrame:
    """The table `Measurements.vms`."""
    return _measurements(_read(events))


def _measurements(deployments: Sequence[_Deployment]) -> pd.DataFrame:
    named = _named(deployments)
    parts = [part for macro, steps in named.items() for part in (macro, *steps)]
    types = dict(_HEAD)
    for part in parts:
        types |= {f"{column(part)}_{x}": "float64" for x in ("start", "end", "duration")}
        types |= {f"{column(part)}_attempt": "int64", f"{column(part)}_outcome": "object"}
    nothing = _Span()
    rows = []
    for d in deployments:
        for vm in d.vms.values():
            row: list[Any] = [d.name, d.environment, d.asked, d.repetition, vm.name, vm.outcome, vm.attempts]
            row += [vm.macro, vm.at, vm.reason, vm.said, vm.console, vm.start, vm.end, vm.end - vm.start]
            for part in parts:
                known = vm.macros if part in named else vm.steps
                span = known.get(part, nothing)
                took = _NAN if span.outcome == _OPEN else span.duration
                row += [span.start, span.end, took, span.attempt, span.outcome]
            rows.append(row)
    return _frame(rows, types)


def attempts_frame(events: Iterable[Event]) -> pd.DataFrame:
    """The table `Measurements.attempts`."""
    return _attempts(_read(events))


def _attempts(deployments: Iterable[_Deployment]) -> pd.DataFrame:
    rows = [
        (d.name, vm.name, macro, step, attempt, outcome, start, end, end - start, reason)
        for d in deployments
        for vm in d.vms.values()
        for macro, step, attempt, outcome, start, end, reason in vm.rows
    ]
    return _frame(rows, _ATTEMPTS)


def macros_frame(events: Iterable[Event]) -> pd.DataFrame:
    """The table `Measurements.macros`."""
    return _macros(_read(events))


def _macros(deployments: Iterable[_Deployment]) -> pd.DataFrame:
    rows = []
    for d in deployments:
        for macro in d.macros:
            through = [vm.macros[macro] for vm in d.vms.values() if macro in vm.macros]
            took = pd.Series([s.duration for s in through if s.outcome == "ok"], dtype=float)
            tries = sum(vm.tries[macro] for vm in d.vms.values())
            failed = sum(vm.outcome == "failed" and vm.macro == macro for vm in d.vms.values())
            figures = [took.min(), took.median(), took.mean(), took.quantile(0.95), took.max()]
            rows.append([d.name, d.environment, macro, len(took), tries, failed, *figures])
    return _frame(rows, _MACROS)


def deployments_frame(events: Iterable[Event]) -> pd.DataFrame:
    """The table `Measurements.deployments`."""
    return _deployments(_read(events))


def _deployments(deployments: Iterable[_Deployment]) -> pd.DataFrame:
    rows = []
    for d in deployments:
        deployed, failed = d.count("deployed"), d.count("failed")
        numbers = [d.asked, d.fresh, deployed, failed, d.asked - deployed - failed]
        rows.append([d.name, d.environment, d.repetition, *numbers, d.start, d.end, d.end - d.start])
    return _frame(rows, _DEPLOYMENTS)


def scalability_frame(events: Iterable[Event]) -> pd.DataFrame:
    """The table `Measurements.scalability`."""
    return _scalability(_read(events))


def _scalability(deployments: Iterable[_Deployment]) -> pd.DataFrame:
    rows = []
    for d in deployments:
        took = pd.Series([vm.end - d.start for vm in d.vms.values() if vm.outcome == "deployed"], dtype=float)
        total = d.end - d.start
        if len(took) and not math.isnan(total):
            figures = [total, took.median(), took.quantile(0.95), len(took) / total if total > 0 else _NAN]
            figures.append(float(d.about.get("transfer_bound", _NAN)))
            numbers = [d.fresh, len(took), d.count("failed")]
            rows.append([d.environment, d.asked, d.repetition, d.name, *numbers, *figures])
    table = _frame(rows, _SCALABILITY)
    return table.sort_values(["environment", "vms", "repetition"], kind="stable", ignore_index=True)


@dataclass(frozen=True)
class Summary:
    """One deployment, or several together, in numbers."""

    asked: int
    deployed: int
    failed: int
    unfinished: int
    failures: tuple[tuple[str, str, str, str], ...]  #: (deployment, VM, step, reason) of each that failed
    total: float  #: seconds from the first begin to the last end; NaN while one is not over
    macros: Mapping[str, tuple[float, float]]  #: macro-step → median and 95th percentile, seconds
    #: (step, reason) → where one of them left its last words, below the run's directory
    consoles: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @property
    def reasons(self) -> Mapping[tuple[str, str], int]:
        """(step, reason) → how many, most frequent first."""
        return dict(Counter((step, reason) for _, _, step, reason in self.failures).most_common())


def summary(events: Iterable[Event], deployment: str | None = None) -> Summary:
    """Of one deployment, or of all together. Raises KeyError for one that the events do not know."""
    return _summary(_read(events), deployment)


def _summary(deployments: Sequence[_Deployment], name: str | None) -> Summary:
    chosen = [d for d in deployments if name in (None, d.name)]
    if name is not None and not chosen:
        raise KeyError(name)
    asked, deployed = sum(d.asked for d in chosen), sum(d.count("deployed") for d in chosen)
    failures = tuple(
        (d.name, vm.name, vm.at, vm.reason) for d in chosen for vm in d.vms.values() if vm.outcome == "failed"
    )
    lost = [vm for d in chosen for vm in d.vms.values() if vm.outcome == "failed"]
    consoles = {(vm.at, vm.reason): vm.console for vm in lost if vm.console}
    macros = {}
    for macro in dict.fromkeys(macro for d in chosen for macro in d.macros):
        spans = [vm.macros[macro] for d in chosen for vm in d.vms.values() if macro in vm.macros]
        took = pd.Series([s.duration for s in spans if s.outcome == "ok"], dtype=float)
        macros[macro] = (float(took.median()), float(took.quantile(0.95)))
    over = chosen and not any(math.isnan(d.end) for d in chosen)
    total = max(d.end for d in chosen) - min(d.start for d in chosen) if over else _NAN
    open_ = asked - deployed - len(failures)
    return Summary(asked, deployed, len(failures), open_, failures, total, macros, consoles)


def _frame(rows: Sequence[Sequence[Any]], types: Mapping[str, str]) -> pd.DataFrame:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(types)
    return pd.DataFrame(
        {
            name: pd.Series(list(values), dtype=dtype)
            for (name, dtype), values in zip(types.items(), columns, strict=True)
        }
    )


class Measurements:
    """The tables of a run's deployments; its events are read once, each table is made when asked for."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._deployments = _read(events)

    @cached_property
    def vms(self) -> pd.DataFrame:
        """One row a VM and deployment: what became of it, and each step's start, end, attempt and outcome.

        For each step and macro-step, with ``_`` for ``-``: ``X_start``, ``X_end``, ``X_duration``,
        ``X_attempt``, ``X_outcome``. A step's are those of its last attempt (0 and "" where there was none).
        A macro-step starts with its first try and ends with its last; its duration is the sum of its tries,
        since between two of them a VM may be in another macro-step.
        """
        return _measurements(self._deployments)

    @cached_property
    def attempts(self) -> pd.DataFrame:
        """One row a VM, deployment, micro-step and attempt: also those that failed and were done again."""
        return _attempts(self._deployments)

    @cached_property
    def macros(self) -> pd.DataFrame:
        """One row a deployment and macro-step: how many VMs came through it, and how long it took them.

        The durations are of the VMs that came through; ``tries`` counts those of all, ``failed`` the VMs that
        ended in it.
        """
        return _macros(self._deployments)

    @cached_property
    def deployments(self) -> pd.DataFrame:
        """One row a deployment, in their order: ``asked = deployed + failed + unfinished``, always.

        ``fresh``: so many of its VMs stood in their minimal system already, so that their deployment does
        without the first reboot; their times are not to be compared with those of others.
        """
        return _deployments(self._deployments)

    @cached_property
    def scalability(self) -> pd.DataFrame:
        """Time against number of VMs: one row a finished deployment that deployed any, each repetition a row.

        ``total``: from its begin until its last VM was deployed or given up; ``median_vm`` and ``p95_vm``: of
        the times of single deployed VMs. ``fresh`` as in `deployments`; ``transfer_bound``: what the transfer
        of the image takes at the least by the links' rates, NaN if that is not known.
        """
        return _scalability(self._deployments)

    def summary(self, deployment: str | None = None) -> Summary:
        """One deployment, or all together, in numbers. Raises KeyError for one that is not known."""
        return _summary(self._deployments, deployment)
