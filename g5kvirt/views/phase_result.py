"""The result of a phase: it displays itself as text and HTML, and has the numbers as attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

import pandas as pd

from g5kvirt.run.event_types import EXTENDED, extended_walltime_of
from g5kvirt.run.load_tables import shared_words
from g5kvirt.run.tables import Frames
from g5kvirt.run.vocabulary import FAILED, MINIMAL_SYSTEM, PLANNED
from g5kvirt.views import html
from g5kvirt.views.formatting import count, duration
from g5kvirt.views.measure_result import measure_facts
from g5kvirt.views.palette import LABELS
from g5kvirt.views.progress import phase_title, result_lines
from g5kvirt.views.tables import durations_table, iter_rows, quantiles, timeline_table

__all__ = ["PhaseResult"]


@dataclass(frozen=True, repr=False)
class PhaseResult:
    """One phase of an experiment, read from its journal.

    ``status`` is ``ok``, ``failed``, ``unfinished`` or ``waiting``; ``seconds`` is its duration (NaN if it
    has not ended); ``facts`` are its results as text; ``parts`` are the durations of its parts (pandas).
    """

    phase: str
    frames: Frames
    run: str = field(kw_only=True)
    testbed: str = field(kw_only=True)
    guest: str = field(default="", kw_only=True)

    @property
    def status(self) -> str:
        """``ok``, ``failed``, ``unfinished`` or ``waiting``."""
        row = self._row
        return "waiting" if row is None else str(row["status"])

    @property
    def seconds(self) -> float:
        """The total time of all its calls; NaN if the last one has not ended."""
        row = self._row
        return float("nan") if row is None else float(row["duration"])

    @property
    def tries(self) -> int:
        """The number of calls until it succeeded; for `measure`, the number of all calls."""
        row = self._row
        return 0 if row is None else int(row["tries"])

    @property
    def facts(self) -> dict[str, str]:
        """The results as text: name → value."""
        found = _FACTS.get(self.phase)
        facts = found(self.frames) if found and self.status != "waiting" else {}
        shared = shared_words(self.frames.load, self.phase)
        return facts | ({"disturbed": shared} if shared else {})

    @property
    def parts(self) -> pd.DataFrame:
        """One row per part: name, ``n`` (number of hosts, sites or services), ``seconds`` from the first
        start to the last end, ``status``.

        For `launch`, one row per step of the boot, with ``median``, ``q95`` and ``max`` over the VMs.
        """
        if self.phase == "launch":
            table = quantiles(durations_table(self.frames))[["n", "median", "q95", "max"]]
            return table.rename_axis("step").reset_index()
        table = timeline_table(self.frames)
        own = table[(table["phase"] == self.phase) & (table["part"] != "")]
        return (
            own[["part", "n", "duration", "status"]]
            .rename(columns={"duration": "seconds"})
            .reset_index(drop=True)
        )

    @property
    def _row(self) -> pd.Series[Any] | None:
        rows = self.frames.phases[self.frames.phases["phase"] == self.phase]
        return rows.iloc[-1] if len(rows) else None

    @property
    def _title(self) -> str:
        return phase_title(self.phase, self.status, self.seconds, self.tries)

    def __repr__(self) -> str:
        return "\n".join(result_lines(self._title, self.run, self.facts, predicted=self.frames.predicted))

    __str__ = __repr__

    def _repr_html_(self) -> str:
        facts = [[escape(name), escape(value)] for name, value in self.facts.items()]
        parts = [html.table(facts)]
        if self.phase == "launch":
            account = self.frames.account
            counts = {MINIMAL_SYSTEM: account.up, FAILED: account.failed, PLANNED: account.unfinished}
            parts.append(html.counts_bar({state: n for state, n in counts.items() if n}, account.requested))
            parts += [_launch_table(self.parts), html.failures(account)]
        elif len(self.parts):
            rows = [
                [
                    escape(str(p.part).replace("-", " ")),
                    f"{p.n:,}",
                    duration(p.seconds),
                    "" if p.status == "ok" else p.status,
                ]
                for p in iter_rows(self.parts)
            ]
            parts.append(html.table(rows, head=("part", "count", "time", ""), numbers=(1, 2)))
        subtitle = f"run {self.run}, {html.about(self.testbed, self.guest)}"
        return html.box(self._title, subtitle, parts)


def _launch_table(parts: pd.DataFrame) -> str:
    rows = [
        [
            escape(LABELS.get(p.step, p.step)),
            f"{p.n:,}",
            *(duration(float(v)) for v in (p.median, p.q95, p.max)),
        ]
        for p in iter_rows(parts)
    ]
    return html.table(rows, head=("step", "VMs", "median", "p95", "max"), numbers=(1, 2, 3, 4))


# ---- the facts of each phase -------------------------------------------------------------------------


def _by_site(hosts: list[Mapping[str, Any]]) -> str:
    sites: dict[str, int] = {}
    for host in hosts:
        sites[str(host["site"])] = sites.get(str(host["site"]), 0) + 1
    return ", ".join(f"{site} {number:,}" for site, number in sorted(sites.items()))


def _reserve(frames: Frames) -> dict[str, str]:
    granted = frames.state.detail("reserve", "granted")
    if not granted:
        return {}
    hosts = list(granted["hosts"])
    facts = {
        "machines": f"{len(hosts):,} ({_by_site(hosts)})",
        "jobs": ", ".join(f"{site} {job}" for site, job in sorted(granted["jobs"].items())),
        "subnets": ", ".join(f"{s['network']} at {s['site']}" for s in granted["subnetworks"]),
    }
    if granted.get("vlan") is not None:
        facts["KaVLAN"] = f"{granted['vlan']} (global, of {granted['vlan_site']})"
    extended = frames.state.detail("reserve", EXTENDED)
    walltime = granted["walltime"] if extended is None else extended_walltime_of(extended)
    return facts | {"walltime": duration(float(walltime))}


def _deploy(frames: Frames) -> dict[str, str]:
    detail = frames.state.detail("deploy") or {}
    hosts = list(detail.get("hosts", []))
    facts = {"deployed": f"{len(hosts):,} ({_by_site(hosts)})"} if hosts else {}
    return facts | _failed_machines(detail)


def _failed_machines(detail: Mapping[str, Any]) -> dict[str, str]:
    """The machines without which the run continues, each with the reason."""
    failed = sorted(dict(detail.get("failed", {})).items())
    return {"failed": _first_few([f"{name}: {reason}" for name, reason in failed])} if failed else {}


def _configure(frames: Frames) -> dict[str, str]:
    hosts, services = len(frames.state.configured), sorted(frames.state.services)
    facts = {"machines": f"{hosts:,}"} if hosts else {}
    facts |= {"services": ", ".join(services)} if services else {}
    return facts | _failed_machines(frames.state.detail("configure") or {})


def _place(frames: Frames) -> dict[str, str]:
    vms = frames.vms
    if vms.empty:
        return {}
    per_host = vms.groupby("host").size()
    sites = vms.groupby("site").size()
    least, most = int(per_host.min()), int(per_host.max())
    return {
        "VMs": f"{len(vms):,} on {count(len(per_host), 'host')}",
        "VMs per host": f"{least}" if least == most else f"{least}–{most}",
        "sites": ", ".join(f"{site} {number:,}" for site, number in sites.items()),
        **_by_group(vms),
        "addresses": f"{vms['ip'].iloc[0]} … {vms['ip'].iloc[-1]}",
    }


def _by_group(vms: pd.DataFrame) -> dict[str, str]:
    if "group" not in vms:
        return {}
    groups = vms.groupby("group")
    words = [f"{name} {len(own):,} on {count(own['host'].nunique(), 'host')}" for name, own in groups]
    return {"groups": ", ".join(words)}


def _launch(frames: Frames) -> dict[str, str]:
    account, vms = frames.account, frames.vms
    facts = {"up": f"{account.up:,} of {count(account.requested, 'VM')}"}
    if account.failed:
        facts["failed"] = f"{account.failed:,}"
    if account.unfinished:
        facts["unfinished"] = f"{account.unfinished:,}"
    boots = vms["t_minimal_system"].dropna()
    if len(boots):
        facts["boot"] = (
            f"median {duration(float(boots.median()))}, p95 {duration(float(boots.quantile(0.95)))}, "
            f"max {duration(float(boots.max()))}"
        )
    restarted = int((vms["attempts"] > 1).sum())
    return facts | ({"restarted": count(restarted, "VM")} if restarted else {})


def _first_few(items: list[str], limit: int = 4) -> str:
    more = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {more:,} more" if more > 0 else "")


def _measure(frames: Frames) -> dict[str, str]:
    return measure_facts(frames.measurements)


_FACTS = {
    "reserve": _reserve,
    "deploy": _deploy,
    "configure": _configure,
    "place": _place,
    "launch": _launch,
    "measure": _measure,
}
