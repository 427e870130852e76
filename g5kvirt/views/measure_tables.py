"""The numbers behind the figures and the result of `measure`, as pandas tables. No matplotlib here."""

from __future__ import annotations

import numpy as np
import pandas as pd

from g5kvirt.measurements import Measurements, column

__all__ = ["WAITING", "breakdown_table", "largest", "macros_of", "sizes_table", "ways_table"]

#: The part of a macro-step in which a VM waited for its turn, between the steps it did.
WAITING = "waiting"

_BREAKDOWN = ["macro", "step", "vms", "min", "median", "mean", "p95", "max"]


def largest(measurements: Measurements) -> str | None:
    """The deployment of the most VMs, of several the last; None without any."""
    known = measurements.deployments
    if known.empty:
        return None
    return str(known.loc[known["asked"] == known["asked"].max(), "deployment"].iloc[-1])


def macros_of(measurements: Measurements, deployment: str | None = None) -> list[str]:
    """The macro-steps of a deployment, or of all, in their order."""
    table = measurements.macros
    own = table if deployment is None else table[table["deployment"] == deployment]
    return list(dict.fromkeys(own["macro"]))


def ways_table(measurements: Measurements, deployment: str) -> pd.DataFrame:
    """One row a VM of a deployment in the order of its figure; times in seconds since the deployment began.

    ``begun`` is when its first step began (before it waited for its turn); for each macro-step ``X_begun``
    and ``X`` are when the try with which it came through began and ended; ``gave_up`` when it was given up.
    NaN for what was not, and for what was in vain because the VM had to go back to an earlier macro-step.
    """
    known = measurements.deployments
    zero = float(known.loc[known["deployment"] == deployment, "start"].iloc[0])
    vms = measurements.vms[measurements.vms["deployment"] == deployment].reset_index(drop=True)
    steps = measurements.attempts
    done = steps[(steps["deployment"] == deployment) & (steps["outcome"] != "skipped")]
    table = vms[["deployment", "vm", "outcome", "attempts", "failed_macro", "failed_at", "reason"]].copy()
    table["begun"] = vms["vm"].map(done.groupby("vm")["start"].min()).astype("float64") - zero
    table["begun"] = table["begun"].clip(lower=0.0)  # durations in the journal are rounded
    before = pd.Series(-np.inf, index=table.index)
    for macro in macros_of(measurements, deployment):
        name = column(macro)
        end = (vms[f"{name}_end"] - zero).where(vms[f"{name}_outcome"] == "ok")
        end = end.where(end >= before)  # a comparison with NaN is false: nor is what comes after it
        tried = vms.set_index("vm")[f"{name}_attempt"]
        own = done[(done["macro"] == macro) & (done["attempt"] >= done["vm"].map(tried))]
        table[f"{name}_begun"] = (vms["vm"].map(own.groupby("vm")["start"].min()) - zero).where(end.notna())
        table[name] = before = end
    table["gave_up"] = (vms["end"] - zero).where(vms["outcome"] == "failed")
    # As in the figure of the boots: what began at about the same time lies in the order in which it ended.
    end = vms["end"] - zero
    wide = max(float(end.max()) if end.notna().any() else 0.0, 1e-9) / 40
    table["_about"], table["_end"] = table["begun"] // wide, end
    table = table.sort_values(["_about", "_end", "begun", "vm"], ignore_index=True)
    return table.drop(columns=["_about", "_end"])


def breakdown_table(measurements: Measurements, asked: int | None = None) -> pd.DataFrame:
    """One row a macro-step (``step`` empty) and one a micro-step of it, over all deployments of ``asked`` VMs
    (None: of any number). Durations in seconds.

    Of the VMs that were deployed. What a VM did more than once is added up; a step that it skipped does not
    count. Where VMs waited for their turn, ``waiting`` is the rest of the macro-step.
    """
    known = measurements.deployments
    chosen = known if asked is None else known[known["asked"] == asked]
    vms = measurements.vms
    vms = vms[vms["deployment"].isin(chosen["deployment"]) & (vms["outcome"] == "deployed")]
    steps = measurements.attempts
    steps = steps[steps["deployment"].isin(chosen["deployment"]) & (steps["outcome"] != "skipped")]
    key = ["deployment", "vm"]
    each = steps.groupby([*key, "macro", "step"], sort=False)["duration"].sum().reset_index()
    each = each.merge(vms[key], on=key)
    places = {name: place for place, name in enumerate(vms.columns)}
    order = {step: places[f"{column(step)}_start"] for step in each["step"].unique()}
    rows = []
    for macro in macros_of(measurements):
        whole = vms.set_index(key)[f"{column(macro)}_duration"].dropna()
        if whole.empty:
            continue
        rows.append(_row(macro, "", whole))
        own = each[each["macro"] == macro]
        waited = whole.sub(own.groupby(key)["duration"].sum(), fill_value=0.0).clip(lower=0.0)
        if float(waited.quantile(0.95)) > 0.01 * float(whole.quantile(0.95)) + 1e-3:
            rows.append(_row(macro, WAITING, waited))
        # In the order of the workflow: that of the events is another where VMs skipped steps or went back.
        took = {str(step): group["duration"] for step, group in own.groupby("step")}
        rows += [_row(macro, step, took[step]) for step in sorted(took, key=order.__getitem__)]
    return pd.DataFrame(rows, columns=_BREAKDOWN)


def _row(macro: str, step: str, took: pd.Series[float]) -> list[object]:
    figures = [took.min(), took.median(), took.mean(), took.quantile(0.95), took.max()]
    return [macro, step, len(took), *figures]


def sizes_table(measurements: Measurements) -> pd.DataFrame:
    """One row an environment and number of VMs: ``times`` deployed, what became of the VMs, seconds.

    ``total`` is the median over the repetitions of the time from the begin until the last VM, ``median_vm``
    and ``p95_vm`` those of the median and the 95th percentile of single VMs.
    """
    known, curve = measurements.deployments, measurements.scalability
    key = ["environment", "asked"]
    counts = known.groupby(key).agg(
        times=("deployment", "size"),
        deployed=("deployed", "sum"),
        failed=("failed", "sum"),
        unfinished=("unfinished", "sum"),
    )
    figures = curve.rename(columns={"vms": "asked"}).groupby(key)[["total", "median_vm", "p95_vm"]].median()
    return counts.join(figures).reset_index().rename(columns={"asked": "vms"})
