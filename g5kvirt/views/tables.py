"""The numbers behind the figures and the results, as pandas tables. No matplotlib here."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pandas as pd

from g5kvirt.run.tables import Frames
from g5kvirt.views.palette import STEPS

__all__ = [
    "COLUMN",
    "boot_table",
    "durations_table",
    "map_table",
    "quantiles",
    "rows_of",
    "steps_table",
    "timeline_table",
]

#: Step of a VM → its column in the tables.
COLUMN = {step: step.replace("-", "_") for step in STEPS}

_QUANTILES = {"min": 0.0, "q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}


def rows_of(table: pd.DataFrame) -> Iterable[Any]:
    """The rows of a table as named tuples; of what is in them only the table knows the type."""
    return cast(Iterable[Any], table.itertuples())


def timeline_table(frames: Frames) -> pd.DataFrame:
    """One row a call of a step (``part`` empty), and one a part of its last call.

    ``start`` and ``end`` in seconds since the run began; ``n``: on how many sites, hosts or services the part
    was done, from its first start to its last end.
    """
    phases, spans = frames.phases, frames.spans
    rows: list[tuple[str, str, str, int, float, float]] = []
    if not phases.empty:
        calls = spans[(spans["kind"] == "run") & spans["step"].isin(["phase", ""])]
        zero = calls["start"].min()
        last = max(e.t for e in frames.journal)
        inner = spans[(spans["kind"] != "vm") & ~spans["step"].isin(["phase", "", "release"])]
        for phase in rows_of(phases):
            end = last if pd.isna(phase.end) else phase.end
            for call in rows_of(calls[calls["phase"] == phase.phase]):
                until = last if pd.isna(call.end) else call.end
                rows.append((phase.phase, "", call.status, 1, call.start - zero, until - zero))
            own = inner[(inner["phase"] == phase.phase) & (inner["start"] >= phase.start)]
            for step, group in own.groupby("step", sort=False):
                bad = group["status"].isin(["failed"]).any()
                until = group["end"].fillna(end).max()
                status = "failed" if bad else "ok"
                rows.append(
                    (phase.phase, str(step), status, len(group), group["start"].min() - zero, until - zero)
                )
    table = pd.DataFrame(rows, columns=["phase", "part", "status", "n", "start", "end"])
    table["duration"] = table["end"] - table["start"]
    return table


def boot_table(frames: Frames) -> pd.DataFrame:
    """One row a VM, in the order of power-on: its milestones in seconds since launch began.

    ``asked`` is when its power-on was asked for, ``gave_up`` when it was given up; NaN for what was not.
    """
    launch = frames.phases[frames.phases["phase"] == "launch"]
    vms = frames.vms
    events = frames.events[(frames.events["kind"] == "vm") & (frames.events["phase"] == "launch")]
    zero = float(launch["start"].iloc[0]) if len(launch) else float(events["t"].min()) if len(events) else 0.0
    asked = events[(events["step"] == "power-on") & (events["status"] == "start")]
    gave_up = events[(events["step"] == "launch") & (events["status"] == "failed")]
    table = vms[["name", "host", "site", "state", "attempts", "failed_at", "reason"]].copy()
    table["asked"] = vms["name"].map(asked.groupby("subject")["t"].last()).astype("float64") - zero
    for column in COLUMN.values():
        table[column] = vms[column] - zero
    table["gave_up"] = vms["name"].map(gave_up.groupby("subject")["t"].last()).astype("float64") - zero
    table.loc[table["state"] != "failed", "gave_up"] = np.nan
    # VMs that were powered on at about the same time (a fortieth of the picture's width) lie in the order
    # in which they ended: thousands of lines then make clear edges instead of noise.
    end = table["gave_up"].fillna(table["minimal_system"])
    wide = max(float(end.max()), float(table["power_on"].max()), 1e-9) / 40
    table["_about"], table["_end"] = table["power_on"] // wide, end
    table = table.sort_values(["_about", "_end", "power_on", "name"], ignore_index=True)
    return table.drop(columns=["_about", "_end"])


def durations_table(frames: Frames) -> pd.DataFrame:
    """One row a VM and step that it passed: ``seconds`` since the milestone before; ``step`` "total" is
    from power-on to the minimal system.
    """
    vms = frames.vms
    parts = []
    for before, step in pairwise(STEPS):
        parts.append((step, vms[COLUMN[step]] - vms[COLUMN[before]]))
    parts.append(("total", vms[COLUMN[STEPS[-1]]] - vms[COLUMN[STEPS[0]]]))
    long = [pd.DataFrame({"name": vms["name"], "step": step, "seconds": seconds}) for step, seconds in parts]
    return pd.concat(long, ignore_index=True).dropna(subset=["seconds"]).reset_index(drop=True)


def quantiles(durations: pd.DataFrame) -> pd.DataFrame:
    """One row a step of `durations_table`: ``n``, ``min``, ``q05`` … ``max`` and ``mean``, seconds."""
    rows = {}
    for step in (*STEPS[1:], "total"):
        values = durations.loc[durations["step"] == step, "seconds"]
        if len(values):
            rows[step] = {
                "n": len(values),
                **{name: float(values.quantile(q)) for name, q in _QUANTILES.items()},
                "mean": float(values.mean()),
            }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["n", *_QUANTILES, "mean"])


def steps_table(frames: Frames) -> pd.DataFrame:
    """One row a VM and step that it passed, of `launch` (``macro`` is "launch") and of all deployments.

    ``seconds``: of a deployment's steps the sum of what a VM that was deployed did; steps that were skipped
    do not count. Steps stand in the order in which they were done.
    """
    boots = durations_table(frames)
    boots = boots[boots["step"] != "total"].assign(deployment="", macro="launch")
    known = frames.measurements
    steps, vms = known.attempts, known.vms
    deployed = vms.loc[vms["outcome"] == "deployed", ["deployment", "vm"]]
    steps = steps[steps["outcome"] != "skipped"].merge(deployed, on=["deployment", "vm"])
    key = ["deployment", "vm", "macro", "step"]
    each = steps.groupby(key, sort=False)["duration"].sum().reset_index()
    each = each.rename(columns={"vm": "name", "duration": "seconds"})
    # The order of the workflow is that of the columns of the measurements.
    order = {name: place for place, name in enumerate(vms.columns)}
    at = [order[f"{step.replace('-', '_')}_start"] for step in each["step"]]
    each = each.assign(_at=at).sort_values("_at", kind="stable").drop(columns="_at")
    columns = ["macro", "step", "deployment", "name", "seconds"]
    return pd.concat([boots[columns], each[columns]], ignore_index=True)


def map_table(frames: Frames) -> pd.DataFrame:
    """One row a VM and one a host without any (``name`` empty), by site and host.

    ``boot`` is its seconds from power-on to the minimal system, ``deployment`` those of the last deployment
    that deployed it; NaN where there are none. ``state`` is that of the launch, or what the last deployment
    that it was part of made of it.
    """
    vms = frames.vms
    table = vms[["site", "host", "index", "name", "state", "failed_at", "reason"]].copy()
    table["boot"] = vms["t_minimal_system"]
    measured = frames.measurements.vms
    last = measured.groupby("vm")[["outcome", "failed_at", "reason"]].last()
    outcome = table["name"].map(last["outcome"])
    table["state"] = table["state"].where(outcome.isna(), outcome)
    for name in ("failed_at", "reason"):
        table[name] = table["name"].map(last[name]).where(outcome.notna(), table[name])
    deployed = measured[measured["outcome"] == "deployed"].groupby("vm")["duration"].last()
    table["deployment"] = table["name"].map(deployed).astype("float64")
    hosts = frames.hosts
    serving = frames.events.loc[frames.events["kind"] == "service", "subject"]
    empty = hosts.loc[(hosts["vms"] == 0) & ~hosts["host"].isin(serving), ["site", "host"]]
    table = pd.concat([table, empty.assign(name="", state="")], ignore_index=True)
    table["_host"] = table.groupby("host")["index"].transform("min").fillna(np.inf)
    table = table.sort_values(["site", "_host", "host", "index"], ignore_index=True)
    columns = ["site", "host", "name", "state", "boot", "deployment", "failed_at", "reason"]
    return table[columns].fillna({"failed_at": "", "reason": ""})
