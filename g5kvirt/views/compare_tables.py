"""The runs of a comparison with their labels, and the numbers behind its figures. No matplotlib here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from g5kvirt.errors import RunError, SpecError
from g5kvirt.run import directory as run_directories
from g5kvirt.run.deployment_tables import alike
from g5kvirt.run.journal import read_events
from g5kvirt.run.tables import Frames
from g5kvirt.spec.spec import Spec
from g5kvirt.views.drawing import SIMULATED, is_simulated
from g5kvirt.views.measure_tables import differing, flat, series_of, settings_of
from g5kvirt.views.tables import durations_table, iter_rows

__all__ = [
    "Labelled",
    "boots_table",
    "compared_only",
    "curve_table",
    "label_runs",
    "macros_table",
    "open_run",
    "over_table",
    "vms_table",
]

#: Keys of a spec in which runs of the same experiment may differ.
_NO_DIFFERENCE = ("job_name", "walltime", "start", "timeouts.", "name")
_LONG = 32  #: characters; instead of a longer label the run's name is used


@dataclass(frozen=True)
class Labelled:
    """One run of a comparison. Runs with the same label are repetitions of each other."""

    label: str
    run: str
    testbed: str
    spec: Mapping[str, Any]  #: flattened: "windows.boot" → 2
    settings: Mapping[str, str]  #: those that all its deployments have in common, such as "broadcast"
    frames: Frames
    given: bool  #: False if the label was derived from the differences

    @property
    def guest(self) -> str:
        """The kind of guest that was launched; "simulated" on a simulated testbed."""
        return self.frames.guest or (SIMULATED if is_simulated(self.testbed) else "")

    @property
    def predicted(self) -> bool:
        """True for a prediction by a model."""
        return self.guest == SIMULATED


def open_run(path: Path, label: str | None) -> Labelled:
    """The run in this directory; raises RunError if there is none that can be read."""
    found = run_directories.find(path.parent, path.name)
    testbed = found.testbed
    spec = flat(_complete(found.spec))
    frames = Frames(read_events(found.journal))
    known = list(settings_of(frames).values())
    common = {key: value for key, value in (known[0] if known else {}).items() if key not in differing(known)}
    return Labelled(label or "", found.name, testbed, spec, common, frames, label is not None)


def _complete(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the defaults of what an older version did not have yet, so that this is no difference."""
    try:
        return Spec.from_dict(spec).to_dict()
    except SpecError:  # one that this version does not take any more is still compared as it is
        return spec


def label_runs(runs: Sequence[Labelled]) -> tuple[Labelled, ...]:
    """Label each run that has no label: with its differences from the others, or else with its name.

    The label of a prediction next to real runs says so.
    """
    words = _differences(runs)
    mixed = len({run.predicted for run in runs}) > 1
    done = []
    for run, word in zip(runs, words, strict=True):
        label = run.label if run.given else word if 0 < len(word) <= _LONG else run.run
        if mixed and run.predicted:
            label = f"{label} (predicted)"
        done.append(replace(run, label=label))
    return tuple(done)


def _differences(runs: Sequence[Labelled], apart_from: str = "") -> list[str]:
    """For each run, as text, the differences of its spec and its deployment settings from the others."""
    shared = set.intersection(*(set(run.settings) for run in runs)) if runs else set()
    documents = [{**run.spec, **{key: run.settings[key] for key in sorted(shared)}} for run in runs]
    keys = [key for key in differing(documents) if not key.startswith(_NO_DIFFERENCE)]
    keys = [key for key in keys if key != apart_from]

    def word(key: str, value: object) -> str:
        alone = isinstance(value, str) and len(keys) == 1
        return value if alone else f"{key} {'auto' if value is None else value}"  # type: ignore[return-value]

    return [", ".join(word(key, one.get(key)) for key in keys) for one in documents]


def boots_table(runs: Sequence[Labelled]) -> pd.DataFrame:
    """One row per VM and step of its boot ("total": from power-on to the minimal system): ``label``, ``run``,
    ``name``, ``step``, ``seconds``.
    """
    parts = [durations_table(run.frames).assign(label=run.label, run=run.run) for run in runs]
    return pd.concat(parts, ignore_index=True)[["label", "run", "name", "step", "seconds"]]


def curve_table(runs: Sequence[Labelled]) -> pd.DataFrame:
    """One row per finished deployment, as `Measurements.scalability`, with ``series`` and ``run`` first.

    ``series`` is the run's label, with the settings in which deployments of one label differ.
    """
    return _concatenated(runs, lambda run: run.frames.measurements.scalability)


def vms_table(runs: Sequence[Labelled]) -> pd.DataFrame:
    """One row per VM that was deployed: ``series``, ``run``, ``deployment``, ``requested``, ``vm``,
    ``seconds`` from the start of the deployment.
    """

    def of(run: Labelled) -> pd.DataFrame:
        known = run.frames.measurements
        vms = known.vms[known.vms["outcome"] == "deployed"]
        begin = known.deployments.set_index("deployment")["start"]
        table = vms[["deployment", "requested", "vm"]].copy()
        table["seconds"] = vms["end"] - vms["deployment"].map(begin)
        return table

    return _concatenated(runs, of)


def macros_table(runs: Sequence[Labelled]) -> pd.DataFrame:
    """One row per deployed VM and macro-step: ``series``, ``run``, ``deployment``, ``requested``, ``vm``,
    ``step``, ``seconds``.
    """

    def of(run: Labelled) -> pd.DataFrame:
        known = run.frames.measurements
        vms = known.vms[known.vms["outcome"] == "deployed"]
        parts = []
        for macro in dict.fromkeys(known.macros["macro"]):
            part = vms[["deployment", "requested", "vm"]].copy()
            part["step"], part["seconds"] = macro, vms[f"{macro}_duration"]
            parts.append(part.dropna(subset=["seconds"]))
        head = ["deployment", "requested", "vm", "step", "seconds"]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=head)

    return _concatenated(runs, of)


def over_table(runs: Sequence[Labelled], parameter: str, vms: int | None = None) -> pd.DataFrame:
    """One row per launch, or with ``vms`` one per deployment on that many: ``series``, ``run``, the
    ``parameter`` of the spec, ``seconds`` until the last VM was up, or deployed.

    ``parameter`` is a number, NaN if it was chosen automatically. ``series`` is the label, or, if each label
    has one value of the parameter, the other differences. Raises RunError for a parameter that no spec has,
    or that is not a number.
    """
    known = {key for run in runs for key in run.spec}
    if parameter not in known:
        there = ", ".join(sorted(known)) or "nothing"
        raise RunError(f"no run has {parameter!r} in its specification, only {there}")
    values: dict[str, set[str]] = {}
    for run in runs:
        values.setdefault(run.label, set()).add(repr(run.spec.get(parameter)))
    named = all(run.given for run in runs) and any(len(own) > 1 for own in values.values())
    words = [run.label for run in runs] if named else _differences(runs, apart_from=parameter)
    whole = curve_table(runs)
    if not whole.empty:
        whole = whole.rename(columns={"vms": "requested"})
    among: dict[str, set[str]] = {run.run: set() for run in runs}
    for row in iter_rows(compared_only(whole) if len(whole) else whole):
        among[row.run].add(row.deployment)
    rows = []
    for run, series in zip(runs, words, strict=True):
        if vms is None:
            launch = run.frames.phases[run.frames.phases["phase"] == "launch"]
            times = launch["duration"].tail(1)
        else:
            curve = run.frames.measurements.scalability
            times = curve.loc[(curve["vms"] == vms) & curve["deployment"].isin(among[run.run]), "total"]
        rows += [(series, run.run, run.spec.get(parameter), float(took)) for took in times]
    table = pd.DataFrame(rows, columns=["series", "run", parameter, "seconds"])
    try:
        table[parameter] = table[parameter].astype("float64")
    except (TypeError, ValueError) as error:
        raise RunError(
            f"{parameter!r} is not a number ({error}): compare the runs by boot() or steps()"
        ) from error
    return table.dropna(subset=["seconds"]).reset_index(drop=True)


def compared_only(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the deployments that are comparable (see `alike`) over all series."""
    return table[alike(table["fresh"], table["requested"])].reset_index(drop=True)


def _concatenated(runs: Sequence[Labelled], table_of: Callable[[Labelled], pd.DataFrame]) -> pd.DataFrame:
    """The concatenated tables of all runs, each row with the series of its deployment."""
    alone = len({run.label for run in runs}) == 1
    parts = []
    for run in runs:
        table = table_of(run)
        if table.empty:
            continue
        own = series_of(run.frames)
        known = run.frames.measurements.deployments.set_index("deployment")
        table = table.assign(fresh=table["deployment"].map(known["fresh"]))
        words = table["deployment"].map(own).fillna("").astype(str)
        series = words.where(words == "", words if alone else f"{run.label}, " + words)
        parts.append(table.assign(series=series.where(series != "", run.label), run=run.run))
    if not parts:
        return pd.DataFrame(columns=["series", "run", "deployment"])
    whole = pd.concat(parts, ignore_index=True)
    head = ["series", "run"]
    return whole[head + [name for name in whole.columns if name not in head]]
