"""Failures against the number of VMs, and the throughput of the broadcast, as tables. No matplotlib here."""

from __future__ import annotations

import pandas as pd

from g5kvirt.run.tables import Frames
from g5kvirt.views.measure_tables import series_of
from g5kvirt.views.statistics import wilson

__all__ = ["broadcast_table", "failure_rates", "outcomes_table"]

_OUTCOMES = ["series", "deployment", "vms", "requested", "failed"]
_RATES = ["series", "vms", "deployments", "requested", "failed", "rate", "ci_low", "ci_high"]
_BROADCAST = ["series", "deployment", "vms", "hosts", "failed_hosts", "bytes", "seconds"]
_SPEEDS = ["mb_per_s", "bound_mb_per_s", "total_mb_per_s"]


def outcomes_table(frames: Frames) -> pd.DataFrame:
    """One row per deployment that has ended: ``series``, ``vms``, ``requested``, ``failed``."""
    known = frames.measurements.deployments
    known = known[known["end"].notna()]
    table = known[["deployment", "requested", "failed"]].copy()
    table["series"] = known["deployment"].map(series_of(frames)).fillna("")
    table["vms"] = known["requested"]
    return table[_OUTCOMES].reset_index(drop=True)


def failure_rates(outcomes: pd.DataFrame) -> pd.DataFrame:
    """One row per series and number of VMs: the share of VMs that failed (``rate``), over all deployments.

    ``ci_low`` and ``ci_high``: its 95 % interval by Wilson, as if VMs failed independently of each other:
    where a host or a service takes many of them along, the true interval is wider.
    """
    rows = []
    for (series, vms), own in outcomes.groupby(["series", "vms"], sort=False):
        failed, requested = int(own["failed"].sum()), int(own["requested"].sum())
        rows.append(
            [series, vms, len(own), requested, failed, failed / requested, *wilson(failed, requested)]
        )
    return pd.DataFrame(rows, columns=_RATES).sort_values("vms", kind="stable", ignore_index=True)


def broadcast_table(frames: Frames) -> pd.DataFrame:
    """One row per deployment whose image went to hosts, and whose journal has the image's size.

    ``hosts`` got it within ``seconds``, from the first start to the last end; ``mb_per_s``: the ``bytes`` of
    the image in that time (10⁶ bytes a second), what each host has got at least; ``total_mb_per_s``: times
    the hosts; ``bound_mb_per_s``: the most that the link rates of the inventory allow, NaN if not known.
    """
    state = frames.state
    series = series_of(frames)
    times: dict[str, list[tuple[float, float]]] = {}
    lost: dict[str, int] = {}
    for span in state.spans.all:
        event = span.start
        if event.phase != "measure" or event.kind != "host" or event.step != "broadcast" or span.end is None:
            continue
        if span.status == "ok":
            times.setdefault(str(event.deployment), []).append((event.t, span.end.t))
        else:
            lost[str(event.deployment)] = lost.get(str(event.deployment), 0) + 1
    rows = []
    for name, spans in times.items():
        deployment = state.deployments[name]
        size = float(deployment.image_bytes)
        took = max(end for _, end in spans) - min(start for start, _ in spans)
        if not size > 0 or took <= 0:
            continue
        speed, bound = size / took / 1e6, size / deployment.transfer_bound / 1e6
        numbers = [deployment.requested, len(spans), lost.get(name, 0), int(size), took]
        rows.append([series.get(name, ""), name, *numbers, speed, bound, speed * len(spans)])
    return pd.DataFrame(rows, columns=[*_BROADCAST, *_SPEEDS])
