"""The numbers behind the figures and the result of `measure`, as pandas tables. No matplotlib here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from g5kvirt.run.deployment_tables import Measurements, alike, column
from g5kvirt.run.tables import Frames

__all__ = [
    "WAITING",
    "breakdown_table",
    "differing",
    "flat",
    "in_vms",
    "largest",
    "macros_of",
    "nodes_table",
    "series_of",
    "settings_of",
    "sizes_table",
    "vm_timelines_table",
]

#: The part of a macro-step in which a VM waited for its turn.
WAITING = "waiting"

#: Keys of a deployment's first event that are not settings.
_NO_SETTINGS = {"deployment", "sha256"}

_BREAKDOWN = ["macro", "step", "vms", "min", "median", "mean", "p95", "max"]


def largest(measurements: Measurements) -> str | None:
    """The deployment with the most VMs, the last of several; None without deployments."""
    known = measurements.deployments
    if known.empty:
        return None
    return str(known.loc[known["requested"] == known["requested"].max(), "deployment"].iloc[-1])


def macros_of(measurements: Measurements, deployment: str | None = None) -> list[str]:
    """The macro-steps of a deployment, or of all, in their order."""
    table = measurements.macros
    own = table if deployment is None else table[table["deployment"] == deployment]
    return list(dict.fromkeys(own["macro"]))


def flat(document: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """``{"windows": {"boot": 2}}`` → ``{"windows.boot": 2}``; lists stay as they are."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        name = f"{before}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return found


def differing(documents: Collection[Mapping[str, Any]]) -> list[str]:
    """The keys whose values are not the same in all of these flat documents, in their order."""
    keys = dict.fromkeys(key for document in documents for key in document)
    return [key for key in keys if len({repr(document.get(key)) for document in documents}) > 1]


def settings_of(frames: Frames) -> dict[str, dict[str, str]]:
    """Deployment → its settings (environment, broadcast, …), from its first event."""
    return {
        name: {k: v for k, v in deployment.about.items() if isinstance(v, str) and k not in _NO_SETTINGS}
        for name, deployment in frames.state.deployments.items()
        if deployment.opened is not None
    }


def series_of(frames: Frames) -> dict[str, str]:
    """Deployment → the settings in which it differs from others of the run, as text; "" if in none."""
    settings = settings_of(frames)
    keys = differing(settings.values())
    return {
        name: ", ".join(str(one[key]) for key in keys if one.get(key) is not None)
        for name, one in settings.items()
    }


def nodes_table(frames: Frames, deployment: str) -> pd.DataFrame:
    """One row per VM of a deployment, by site and host: ``seconds`` from the start of the deployment until
    it was deployed, or given up.
    """
    known = frames.measurements
    zero = float(known.deployments.loc[known.deployments["deployment"] == deployment, "start"].iloc[0])
    own = known.vms[known.vms["deployment"] == deployment]
    table = own[["deployment", "vm", "outcome", "failed_at", "reason"]].copy()
    placed = frames.vms.set_index("name")
    for name in ("site", "host"):
        table[name] = [str(placed[name].get(vm, "")) for vm in table["vm"]]
    table["_index"] = table["vm"].map(placed["index"]).astype("float64")
    table["seconds"] = own["end"] - zero
    # Hosts in the order in which they were placed: graphene-2 comes before graphene-10.
    table["_host"] = table.groupby("host")["_index"].transform("min")
    table = table.sort_values(["site", "_host", "host", "_index", "vm"], ignore_index=True)
    return table[["deployment", "site", "host", "vm", "outcome", "seconds", "failed_at", "reason"]]


def vm_timelines_table(measurements: Measurements, deployment: str) -> pd.DataFrame:
    """One row per VM of a deployment in the order of its figure; times in seconds since the deployment began.

    ``begun``: start of its first step (before that it waited for its turn); for each macro-step, ``X_begun``
    and ``X``: start and end of the successful attempt; ``gave_up``: when it was given up. NaN where there is
    none, and for macro-steps that were undone because the VM returned to an earlier one.
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
    # As in the figure of the boots: VMs that started at about the same time are in the order of their end.
    end = vms["end"] - zero
    wide = max(float(end.max()) if end.notna().any() else 0.0, 1e-9) / 40
    table["_about"], table["_end"] = table["begun"] // wide, end
    table = table.sort_values(["_about", "_end", "begun", "vm"], ignore_index=True)
    return table.drop(columns=["_about", "_end"])


def in_vms(measurements: Measurements) -> pd.DataFrame:
    """The rows of `Measurements.attempts` that took place in a VM: without skipped steps, and without steps
    on hosts, such as the broadcast, for which a VM only waits."""
    steps = measurements.attempts
    elsewhere = {d.name: d.on_hosts for d in measurements.states}
    place = zip(steps["deployment"], steps["step"], strict=True)
    inside = np.array([step not in elsewhere[deployment] for deployment, step in place], dtype=bool)
    return steps[inside & (steps["outcome"] != "skipped").to_numpy()]


def breakdown_table(
    measurements: Measurements, requested: int | None = None, among: Collection[str] | None = None
) -> pd.DataFrame:
    """One row per macro-step (``step`` empty) and one per micro-step of it, over all deployments of
    ``requested`` VMs (None: of any number) ``among`` those named (None: all) that began `alike`. Durations in
    seconds.

    Over the deployed VMs. Repeated attempts of a VM are added up; skipped steps and steps on hosts do not
    count. If VMs waited for their turn, ``waiting`` is the remaining time of the macro-step.
    """
    known = measurements.deployments
    known = known[alike(known["fresh"], known["requested"])]
    chosen = known if requested is None else known[known["requested"] == requested]
    if among is not None:
        chosen = chosen[chosen["deployment"].isin(among)]
    vms = measurements.vms
    vms = vms[vms["deployment"].isin(chosen["deployment"]) & (vms["outcome"] == "deployed")]
    steps = in_vms(measurements)
    steps = steps[steps["deployment"].isin(chosen["deployment"])]
    key = ["deployment", "vm"]
    each = steps.groupby([*key, "macro", "step"], sort=False)["duration"].sum().reset_index()
    each = each.merge(vms[key], on=key)
    places = {name: place for place, name in enumerate(vms.columns)}
    order = {step: places.get(f"{column(step)}_start", len(places)) for step in each["step"].unique()}
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
        # In the order of the workflow: events are in another order where VMs skipped steps or went back.
        took = {str(step): group["duration"] for step, group in own.groupby("step")}
        rows += [_row(macro, step, took[step]) for step in sorted(took, key=order.__getitem__)]
    return pd.DataFrame(rows, columns=_BREAKDOWN)


def _row(macro: str, step: str, took: pd.Series[float]) -> list[object]:
    figures = [took.min(), took.median(), took.mean(), took.quantile(0.95), took.max()]
    return [macro, step, len(took), *figures]


def sizes_table(measurements: Measurements) -> pd.DataFrame:
    """One row per environment, broadcast, provisioner and number of VMs: outcomes, and seconds.

    ``times``: number of deployments; ``compared``: how many of them are comparable (see
    `g5kvirt.run.deployment_tables.alike`), over which the times are medians. ``total``: from the start until
    the last VM has finished; ``median_vm`` and ``p95_vm``: median and 95th percentile of single VMs; NaN if
    none is comparable.
    """
    known = measurements.deployments
    key = ["environment", "broadcast", "provisioner", "requested"]
    known = known.assign(compared=alike(known["fresh"], known["requested"]) & known["end"].notna())
    counts = known.groupby(key, sort=True).agg(
        times=("deployment", "size"),
        compared=("compared", "sum"),
        deployed=("deployed", "sum"),
        failed=("failed", "sum"),
        unfinished=("unfinished", "sum"),
    )
    among = set(known.loc[known["compared"], "deployment"])
    curve = measurements.scalability.rename(columns={"vms": "requested"})
    curve = curve[curve["deployment"].isin(among)]
    figures = curve.groupby(key)[["total", "median_vm", "p95_vm"]].median()
    return counts.join(figures).reset_index().rename(columns={"requested": "vms"})
