"""The numbers behind the figures and the results, as pandas tables. No matplotlib here."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pandas as pd

from g5kvirt.run.tables import Frames
from g5kvirt.run.vocabulary import BOOT_STEPS
from g5kvirt.views.measure_tables import in_vms

__all__ = [
    "COLUMN",
    "boot_table",
    "durations_table",
    "iter_rows",
    "map_table",
    "quantiles",
    "steps_table",
    "timeline_table",
]

#: Boot step → its column in the tables.
COLUMN = {step: step.replace("-", "_") for step in BOOT_STEPS}

_QUANTILES = {"min": 0.0, "q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}


def iter_rows(table: pd.DataFrame) -> Iterable[Any]:
    """The rows of a table as named tuples, whose types are not known statically."""
    return cast(Iterable[Any], table.itertuples())


def timeline_table(frames: Frames) -> pd.DataFrame:
    """One row per call of a phase (``part`` empty), and one per part of its last call.

    ``start`` and ``end`` in seconds since the run began, of a part from its first start to its last end;
    ``n``: the number of its sites, hosts or services.
    """
    state, spans = frames.state, frames.spans
    begun = [phase for phase in state.phases.values() if phase.tries]
    zero = min((phase.start for phase in begun), default=0.0)
    inner = spans[(spans["kind"] != "vm") & ~spans["step"].isin(["phase", "", "release"])]
    rows: list[tuple[str, str, str, int, float, float]] = []
    for phase in begun:
        ends = [state.latest if math.isnan(one.end) else one.end for one in phase.tries]
        for one, end in zip(phase.tries, ends, strict=True):
            rows.append((phase.name, "", one.status, 1, one.start - zero, end - zero))
        own = inner[(inner["phase"] == phase.name) & (inner["start"] >= phase.tries[-1].start)]
        for step, group in own.groupby("step", sort=False):
            bad = group["status"].isin(["failed"]).any()
            status = "failed" if bad else "unfinished" if group["end"].isna().any() else "ok"
            start, until = group["start"].min(), group["end"].fillna(ends[-1]).max()
            rows.append((phase.name, str(step), status, len(group), start - zero, until - zero))
    table = pd.DataFrame(rows, columns=["phase", "part", "status", "n", "start", "end"])
    table["duration"] = table["end"] - table["start"]
    return table


def boot_table(frames: Frames) -> pd.DataFrame:
    """One row per VM, in the order of power-on: the steps of its last boot, seconds since launch began.

    ``requested`` is when its power-on was requested, ``gave_up`` when it was given up; NaN if it was not.
    """
    state = frames.state
    launched = {vm.name: vm for vm in state.launched()}
    boots = {name: vm.boots[-1] for name, vm in launched.items() if vm.boots}
    zero = state.phases["launch"].start
    if math.isnan(zero):
        known = [boot.requested for vm in launched.values() for boot in vm.boots]
        known += [event.t for vm in launched.values() for boot in vm.boots for event in boot.steps.values()]
        zero = min((t for t in known if not math.isnan(t)), default=0.0)
    vms = frames.vms
    table = vms[["name", "host", "site", "state", "attempts", "failed_at", "reason"]].copy()
    requested = {name: boot.requested for name, boot in boots.items()}
    table["requested"] = vms["name"].map(requested).astype("float64") - zero
    for column in COLUMN.values():
        table[column] = vms[column] - zero
    gave_up = {name: vm.gave_up for name, vm in launched.items() if vm.state == "failed"}
    table["gave_up"] = vms["name"].map(gave_up).astype("float64") - zero
    # VMs that were powered on at about the same time (a fortieth of the picture's width) are in the order of
    # their end: thousands of lines then make clear edges instead of noise.
    end = table["gave_up"].fillna(table["minimal_system"])
    wide = max(float(end.max()), float(table["power_on"].max()), 1e-9) / 40
    table["_about"], table["_end"] = table["power_on"] // wide, end
    table = table.sort_values(["_about", "_end", "power_on", "name"], ignore_index=True)
    return table.drop(columns=["_about", "_end"])


def durations_table(frames: Frames) -> pd.DataFrame:
    """One row per VM and step that it completed: ``seconds`` since the previous milestone; ``step``
    "total" is from power-on to the minimal system.
    """
    vms = frames.vms
    parts = []
    for before, step in pairwise(BOOT_STEPS):
        parts.append((step, vms[COLUMN[step]] - vms[COLUMN[before]]))
    parts.append(("total", vms[COLUMN[BOOT_STEPS[-1]]] - vms[COLUMN[BOOT_STEPS[0]]]))
    long = [pd.DataFrame({"name": vms["name"], "step": step, "seconds": seconds}) for step, seconds in parts]
    return pd.concat(long, ignore_index=True).dropna(subset=["seconds"]).reset_index(drop=True)


def quantiles(durations: pd.DataFrame) -> pd.DataFrame:
    """One row per step of `durations_table`: ``n``, ``min``, ``q05`` … ``max`` and ``mean``, seconds."""
    rows = {}
    for step in (*BOOT_STEPS[1:], "total"):
        values = durations.loc[durations["step"] == step, "seconds"]
        if len(values):
            rows[step] = {
                "n": len(values),
                **{name: float(values.quantile(q)) for name, q in _QUANTILES.items()},
                "mean": float(values.mean()),
            }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["n", *_QUANTILES, "mean"])


def steps_table(frames: Frames) -> pd.DataFrame:
    """One row per VM and step that it completed, of `launch` (``macro`` is "launch") and of all deployments.

    ``seconds``: for a step of a deployment the sum over the attempts of a deployed VM; skipped steps and
    steps on hosts do not count. Steps are in the order of the workflow.
    """
    boots = durations_table(frames)
    boots = boots[boots["step"] != "total"].assign(deployment="", macro="launch")
    known = frames.measurements
    steps, vms = in_vms(known), known.vms
    deployed = vms.loc[vms["outcome"] == "deployed", ["deployment", "vm"]]
    steps = steps.merge(deployed, on=["deployment", "vm"])
    key = ["deployment", "vm", "macro", "step"]
    each = steps.groupby(key, sort=False)["duration"].sum().reset_index()
    each = each.rename(columns={"vm": "name", "duration": "seconds"})
    # The order of the workflow is that of the columns of the measurements.
    order = {name: place for place, name in enumerate(vms.columns)}
    last = len(order)  # a step that the workflow does not have
    at = [order.get(f"{step.replace('-', '_')}_start", last) for step in each["step"]]
    each = each.assign(_at=at).sort_values("_at", kind="stable").drop(columns="_at")
    columns = ["macro", "step", "deployment", "name", "seconds"]
    return pd.concat([boots[columns], each[columns]], ignore_index=True)


def map_table(frames: Frames) -> pd.DataFrame:
    """One row per VM and one per host without VMs (``name`` empty), by site and host.

    ``boot`` is its seconds from power-on to the minimal system, ``deployment`` those of its last
    successful deployment; NaN if there is none. ``state``: the outcome of its last deployment, before the
    first one its state after the launch. With groups, ``group`` follows the name.
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
    serving = list(frames.state.service_machines)
    empty = hosts.loc[(hosts["vms"] == 0) & ~hosts["host"].isin(serving), ["site", "host"]]
    table = pd.concat([table, empty.assign(name="", state="")], ignore_index=True)
    table["_host"] = table.groupby("host")["index"].transform("min").fillna(np.inf)
    table = table.sort_values(["site", "_host", "host", "index"], ignore_index=True)
    columns = ["site", "host", "name", "state", "boot", "deployment", "failed_at", "reason"]
    if "group" in vms:
        table.insert(0, "group", table["name"].map(dict(zip(vms["name"], vms["group"], strict=True))))
        table["group"] = table["group"].astype("object").where(table["group"].notna(), "")
        columns.insert(3, "group")
    for name in ("failed_at", "reason"):
        table[name] = table[name].astype("object").where(table[name].notna(), "")
    return table[columns]
