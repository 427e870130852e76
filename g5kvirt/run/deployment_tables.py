"""Deployments as pandas tables: every step of every VM, macro-steps, summaries, scalability.

All times are seconds since the epoch (UTC), all durations seconds. Columns have their types also when a
table is empty.

Only deployments that began alike are compared, or included in a median: VMs that were still in their minimal
system from `launch` (``fresh``) may skip the first reboot, which saves time. See `alike`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from g5kvirt.run.deployment_state import DeploymentState, MacroSpan, StepTry, VMDeployment
from g5kvirt.run.event_types import transfers_of
from g5kvirt.run.events import Event
from g5kvirt.run.frame import make_frame, marked, with_groups
from g5kvirt.run.state import RunState
from g5kvirt.run.virtual_time import is_virtual
from g5kvirt.run.vocabulary import MACROS, UNFINISHED

__all__ = ["Measurements", "Summary", "alike", "column"]

_NAN = float("nan")
_SETTINGS = dict.fromkeys(("environment", "broadcast", "provisioner", "guest"), "object")
_ATTEMPTS = (
    dict.fromkeys(("deployment", "vm", "macro", "step"), "object")
    | {"attempt": "int64", "outcome": "object"}
    | dict.fromkeys(("start", "end", "duration"), "float64")
    | {"reason": "object"}
)
_HEAD = (
    {"deployment": "object", **_SETTINGS, "requested": "int64", "repetition": "int64"}
    | {"vm": "object", "outcome": "object", "attempts": "int64"}
    | dict.fromkeys(("failed_macro", "failed_at", "reason", "last_report", "console"), "object")
    | dict.fromkeys(("start", "end", "duration"), "float64")
)
_MACROS = (
    {"deployment": "object", **_SETTINGS, "macro": "object"}
    | dict.fromkeys(("vms", "tries", "failed"), "int64")
    | dict.fromkeys(("min", "median", "mean", "p95", "max"), "float64")
)
_DEPLOYMENTS = (
    {"deployment": "object", **_SETTINGS, "repetition": "int64"}
    | dict.fromkeys(("requested", "fresh", "deployed", "failed", "unfinished"), "int64")
    | dict.fromkeys(("start", "end", "duration"), "float64")
)
_SCALABILITY = (
    {**_SETTINGS, "vms": "int64", "repetition": "int64", "deployment": "object"}
    | dict.fromkeys(("fresh", "deployed", "failed"), "int64")
    | dict.fromkeys(("total", "median_vm", "p95_vm", "vms_per_second", "transfer_bound"), "float64")
)
_TRANSFERS = (
    dict.fromkeys(("deployment", "vm"), "object")
    | {"t": "float64"}
    | dict.fromkeys(("bytes", "total"), "int64")
    | dict.fromkeys(("percent", "rate"), "float64")
)
_NO_SPAN = (_NAN, _NAN, _NAN, 0, "")


def column(step: str) -> str:
    """A step's part of a column name: ``minimal-system`` → ``minimal_system``."""
    return step.replace("-", "_")


def alike(
    fresh: Sequence[int] | pd.Series[int], requested: Sequence[int] | pd.Series[int]
) -> np.ndarray[Any, Any]:
    """Which of these deployments began alike, and are therefore comparable: a boolean for each.

    Those whose VMs were all rebooted first (``fresh`` is 0), if there are any; else those whose VMs all
    skipped the first reboot (``fresh`` is ``requested``).
    """
    number = np.asarray(fresh, dtype="int64")
    rebooted = number == 0
    mask: np.ndarray[Any, Any] = (
        rebooted if rebooted.any() else number >= np.asarray(requested, dtype="int64")
    )
    return mask


@dataclass(frozen=True)
class Summary:
    """The numbers of one deployment, or of several together."""

    requested: int  #: number of VMs to deploy
    deployed: int  #: number of VMs that were deployed
    failed: int  #: number of VMs that failed
    unfinished: int  #: number of VMs without an outcome
    failures: tuple[tuple[str, str, str, str], ...]  #: (deployment, VM, step, reason) of each VM that failed
    total: float  #: seconds from the first start to the last end; NaN until all have ended
    #: macro-step → median and 95th percentile in seconds, over the deployed VMs of comparable deployments
    macros: Mapping[str, tuple[float, float]]
    #: (step, reason) → the console log of one such VM, relative to the run's directory
    consoles: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @property
    def reasons(self) -> Mapping[tuple[str, str], int]:
        """(step, reason) → number of VMs, most frequent first."""
        return dict(Counter((step, reason) for _, _, step, reason in self.failures).most_common())


class Measurements:
    """The tables of a run's deployments, each created when it is first used."""

    def __init__(
        self, deployments: Iterable[DeploymentState], guest: str = "", groups: Mapping[str, str] | None = None
    ) -> None:
        self.states = tuple(deployments)
        self.guest = guest
        self._groups = groups or {}  # VM → its group

    def __repr__(self) -> str:
        number = len(self.states)
        requested, deployed = sum(d.requested for d in self.states), sum(d.deployed for d in self.states)
        outcome = f"{deployed:,} of {requested:,} VMs deployed, {sum(d.failed for d in self.states):,} failed"
        return f"<Measurements: {number:,} deployment{'s' * (number != 1)}, {outcome}>"

    @property
    def predicted(self) -> bool:
        """Whether they are predictions by a model; each table then has a column ``prediction``."""
        return any(is_virtual(d.start) for d in self.states)

    @classmethod
    def of(cls, events: Iterable[Event]) -> Measurements:
        """The tables of all deployments in a journal."""
        state = RunState.of(events)
        groups = {vm.name: vm.group for vm in state.vms.values() if vm.group}
        return cls(state.deployments.values(), state.guest, groups)

    def only(self, names: Iterable[str]) -> Measurements:
        """The tables of the deployments with these names; unknown names are ignored."""
        chosen = frozenset(names)
        return Measurements((d for d in self.states if d.name in chosen), self.guest, self._groups)

    @cached_property
    def transfers(self) -> pd.DataFrame:
        """The progress of the image on each VM: one row per VM and sample, every few seconds.

        At ``t`` the VM had received ``bytes`` of the (compressed) image's ``total``; ``rate``: bytes per
        second since the previous row of the same VM, NaN in its first. Short transfers have no rows.
        """
        rows: list[tuple[object, ...]] = []
        for state in self.states:
            before: dict[str, tuple[float, int]] = {}
            for event in state.transfers:
                total, _, vms = transfers_of(event)
                for vm, number in vms.items():
                    t, taken = before.get(vm, (event.t, 0))
                    rate = (number - taken) / (event.t - t) if event.t > t and number >= taken else _NAN
                    before[vm] = (event.t, number)
                    rows.append((state.name, vm, event.t, number, total, 100 * number / max(total, 1), rate))
        return marked(make_frame(rows, _TRANSFERS), self.predicted)

    @cached_property
    def vms(self) -> pd.DataFrame:
        """One row per VM and deployment: its outcome, and each step's start, end, attempt and
        outcome.

        For each step and macro-step, with ``_`` for ``-``: ``X_start``, ``X_end``, ``X_duration``,
        ``X_attempt``, ``X_outcome``. Those of a step are of its last attempt (0 and "" if there was none).
        A macro-step starts with its first attempt and ends with its last; its duration is the sum of its
        attempts, because between two of them a VM may be in another macro-step. With groups, the column
        ``group`` follows ``vm``.
        """
        named = _step_names(self.states)
        parts = [part for macro, steps in named.items() for part in (macro, *steps)]
        types = dict(_HEAD)
        for part in parts:
            types |= {f"{column(part)}_{x}": "float64" for x in ("start", "end", "duration")}
            types |= {f"{column(part)}_attempt": "int64", f"{column(part)}_outcome": "object"}

        def rows() -> Iterator[list[object]]:
            for d in self.states:
                head = [d.name, *self._settings(d), d.requested, d.repetition]
                for vm in d.vms.values():
                    row = [*head, vm.vm, vm.outcome, vm.attempts, vm.failed_macro, vm.failed_at, vm.reason]
                    row += [vm.last_report, vm.console, vm.start, vm.end, vm.end - vm.start]
                    for part in parts:
                        row += _macro_cells(vm.macros.get(part)) if part in named else _step_cells(vm, part)
                    yield row

        return marked(with_groups(make_frame(rows(), types), "vm", self._groups), self.predicted)

    @cached_property
    def attempts(self) -> pd.DataFrame:
        """One row per VM, deployment, micro-step and attempt, including failed ones."""
        tries = ((d.name, vm.vm, one) for d in self.states for vm in d.vms.values() for one in vm.steps)
        return marked(make_frame((_try_cells(*one) for one in tries), _ATTEMPTS), self.predicted)

    @cached_property
    def macros(self) -> pd.DataFrame:
        """One row per deployment and macro-step: how many VMs completed it, and how long it took.

        The durations are over the VMs that completed it; ``tries`` is the number of attempts of all VMs,
        ``failed`` the number of VMs that failed in it.
        """
        rows = []
        for d in self.states:
            for macro in d.macros:
                spans = [vm.macros[macro] for vm in d.vms.values() if macro in vm.macros]
                took = _seconds(spans)
                failed = sum(vm.outcome == "failed" and vm.failed_macro == macro for vm in d.vms.values())
                figures = [took.min(), took.median(), took.mean(), took.quantile(0.95), took.max()]
                numbers = [len(took), sum(span.tries for span in spans), failed]
                rows.append([d.name, *self._settings(d), macro, *numbers, *figures])
        return marked(make_frame(rows, _MACROS), self.predicted)

    @cached_property
    def deployments(self) -> pd.DataFrame:
        """One row per deployment, in their order; ``requested = deployed + failed + unfinished``.

        ``fresh``: number of its VMs that were still in their minimal system and skipped the first reboot.
        With groups, ``group`` is the group that was deployed, "" for all VMs.
        """
        rows = []
        for d in self.states:
            numbers = [d.requested, d.fresh, d.deployed, d.failed, d.requested - d.deployed - d.failed]
            times = [d.start, d.end, d.end - d.start]
            rows.append([d.name, *self._settings(d), d.repetition, *numbers, *times])
        return marked(self._with_measured(make_frame(rows, _DEPLOYMENTS)), self.predicted)

    @cached_property
    def scalability(self) -> pd.DataFrame:
        """Time against the number of VMs: one row per finished deployment in which a VM was deployed.

        ``total``: from its start until its last VM was deployed or had failed; ``median_vm`` and ``p95_vm``:
        over the times of the deployed VMs. ``transfer_bound``: the minimum time of the image transfer at the
        link rates, NaN if not known; ``fresh`` and ``group`` as in `deployments`.
        """
        rows = []
        for d in self.states:
            ends = [vm.end - d.start for vm in d.vms.values() if vm.outcome == "deployed"]
            took, total = pd.Series(ends, dtype=float), d.end - d.start
            if len(took) and not math.isnan(total):
                rate = len(took) / total if total > 0 else _NAN
                times = [total, took.median(), took.quantile(0.95), rate, d.transfer_bound]
                numbers = [d.fresh, len(took), d.failed]
                rows.append([*self._settings(d), d.requested, d.repetition, d.name, *numbers, *times])
        table = marked(self._with_measured(make_frame(rows, _SCALABILITY)), self.predicted)
        return table.sort_values(["environment", "vms", "repetition"], kind="stable", ignore_index=True)

    def summary(self, deployment: str | None = None) -> Summary:
        """The numbers of one deployment, or of all together. Raises KeyError for an unknown one."""
        chosen = [d for d in self.states if deployment in (None, d.name)]
        if deployment is not None and not chosen:
            raise KeyError(deployment)
        lost = [(d, vm) for d in chosen for vm in d.vms.values() if vm.outcome == "failed"]
        requested, deployed = sum(d.requested for d in chosen), sum(d.deployed for d in chosen)
        over = bool(chosen) and not any(math.isnan(d.end) for d in chosen)
        return Summary(
            requested,
            deployed,
            len(lost),
            requested - deployed - len(lost),
            tuple((d.name, vm.vm, vm.failed_at, vm.reason) for d, vm in lost),
            max(d.end for d in chosen) - min(d.start for d in chosen) if over else _NAN,
            _macro_figures(chosen),
            {(vm.failed_at, vm.reason): vm.console for _, vm in lost if vm.console},
        )

    def _with_measured(self, table: pd.DataFrame) -> pd.DataFrame:
        """With the groups that were measured, if any was."""
        return with_groups(table, "deployment", {d.name: d.group for d in self.states})

    def _settings(self, d: DeploymentState) -> tuple[str, str, str, str]:
        return d.environment, d.broadcast, d.provisioner, self.guest


def _macro_figures(deployments: Sequence[DeploymentState]) -> dict[str, tuple[float, float]]:
    """Macro-step → median and 95th percentile over the deployed VMs of those deployments that began alike."""
    mask = alike([d.fresh for d in deployments], [d.requested for d in deployments])
    compared = [d for d, is_alike in zip(deployments, mask, strict=True) if is_alike]
    figures = {}
    for macro in dict.fromkeys(macro for d in deployments for macro in d.macros):
        deployed = (vm for d in compared for vm in d.vms.values() if vm.outcome == "deployed")
        took = _seconds(vm.macros[macro] for vm in deployed if macro in vm.macros)
        figures[macro] = (float(took.median()), float(took.quantile(0.95)))
    return figures


def _seconds(spans: Iterable[MacroSpan]) -> pd.Series[float]:
    return pd.Series([span.seconds for span in spans if span.outcome == "ok"], dtype=float)


def _macro_cells(span: MacroSpan | None) -> tuple[object, ...]:
    if span is None:
        return _NO_SPAN
    took = _NAN if span.outcome == UNFINISHED else span.seconds
    return span.start, span.end, took, span.attempt, span.outcome


def _try_cells(deployment: str, vm: str, one: StepTry) -> tuple[object, ...]:
    event, start = one.event, one.start
    key = (deployment, vm, one.macro, event.step, event.attempt, event.status)
    return (*key, start, event.t, event.t - start, event.reason)


def _step_cells(vm: VMDeployment, step: str) -> tuple[object, ...]:
    one = vm.latest.get(step)
    if one is None:
        return _NO_SPAN
    event = one.event
    return event.t - one.seconds, event.t, one.seconds, event.attempt, event.status


def _step_names(deployments: Iterable[DeploymentState]) -> dict[str, list[str]]:
    """Macro-step → its steps, of all these deployments, the usual ones first."""
    names = {macro: list(steps) for macro, steps in MACROS.items()}
    for deployment in deployments:
        for macro, steps in deployment.macros.items():
            known = names.setdefault(macro, [])
            known += [step for step in steps if step not in known]
    return names
