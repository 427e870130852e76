"""How busy hosts, links and services were while a step lasted, as pandas tables.

Each look at the hosts is one event with counters; a row is the time between two looks. Rates are in cores
(1.5: one and a half processors' worth) and bytes per second.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from g5kvirt.run.event_types import load_of
from g5kvirt.run.events import Event
from g5kvirt.run.frame import make_frame

__all__ = ["SHARED", "load_table", "service_load_table", "shared_words"]

#: The share of a machine's processors that others used, above which what was measured was disturbed.
SHARED = 0.25

_LOAD = (
    {"look": "int64"}
    | dict.fromkeys(("phase", "host", "site", "machine"), "object")
    | dict.fromkeys(("start", "end"), "float64")
    | {"cores": "int64"}
    | dict.fromkeys(("busy", "vms", "services", "other", "other_share"), "float64")
    | dict.fromkeys(("received", "sent", "memory"), "float64")
)
_SERVICES = dict.fromkeys(("phase", "host", "service"), "object") | dict.fromkeys(
    ("start", "end", "cores"), "float64"
)


@dataclass(frozen=True)
class _Rates:
    """One host between two looks."""

    phase: str
    host: str
    machine: str
    start: float
    end: float
    cores: int
    busy: float
    vms: float
    services: Mapping[str, float]
    received: float
    sent: float
    memory: float


def load_table(events: Iterable[Event]) -> pd.DataFrame:
    """One row per host and time between two looks: what kept its processors and its link busy.

    ``look``: the number of the look that ended it; ``machine``: the same for hosts that share their cores.
    ``busy``, ``vms``, ``services``: cores that all processes, the VMs, and the services used; ``received``
    and ``sent``: bytes per second over the host's link; ``memory``: bytes in use. ``other``: cores of its
    machine that neither VMs and services nor this program used; on a local testbed all hosts share a machine
    and its ``busy``. ``other_share``: the same as a part of all cores.
    """
    rows = []
    for number, (looks, here) in enumerate(_intervals(events), start=1):
        for one in looks:
            same = [host for host in looks if host.machine == one.machine]
            busy = sum(host.busy for host in same) / len(same)
            known = sum(host.vms + sum(host.services.values()) for host in same) + here.get(one.machine, 0.0)
            other = max(0.0, busy - known)
            site = one.host.split(".")[1] if "." in one.host else ""
            used = [one.busy, one.vms, sum(one.services.values()), other, other / max(one.cores, 1)]
            link = [one.received, one.sent, one.memory]
            place = [number, one.phase, one.host, site, one.machine]
            rows.append([*place, one.start, one.end, one.cores, *used, *link])
    return make_frame(rows, _LOAD)


def service_load_table(events: Iterable[Event]) -> pd.DataFrame:
    """One row per service, host and time between two looks: the cores that it used."""
    return make_frame(
        [
            [one.phase, one.host, name, one.start, one.end, cores]
            for looks, _ in _intervals(events)
            for one in looks
            for name, cores in one.services.items()
        ],
        _SERVICES,
    )


def shared_words(load: pd.DataFrame, phase: str, since: float = -math.inf, until: float = math.inf) -> str:
    """A warning if others used more than a quarter of a machine during a phase (between ``since`` and
    ``until``, in seconds since the epoch); else empty."""
    own = load[(load["phase"] == phase) & (load["end"] > since) & (load["start"] < until)]
    if own.empty:
        return ""
    long = own.assign(_weight=own["end"] - own["start"])
    long["_used"] = long["_weight"] * long["other_share"]
    sums = long.groupby("host")[["_weight", "_used"]].sum()
    share = sums["_used"] / sums["_weight"]
    disturbed = share[share > SHARED]
    if disturbed.empty:
        return ""
    worst = str(disturbed.idxmax())
    more = f" and {len(disturbed) - 1:,} more" if len(disturbed) > 1 else ""
    used = f"other programs used {disturbed.max():.0%} of the processors of {worst}{more}"
    return f"{used}: times may be too long"


def _intervals(events: Iterable[Event]) -> Iterator[tuple[list[_Rates], Mapping[str, float]]]:
    """Between each two looks of one step: the hosts' rates, and machine → cores that this program used."""
    before: dict[str, Any] = {}
    mine: Mapping[str, Any] = {}
    for event in events:
        found = load_of(event)
        if found is None:
            continue
        first, hosts, here = found
        if not first:
            looks = [
                rates
                for host, now in hosts.items()
                if (rates := _rates(event.phase, host, before.get(host), now)) is not None
            ]
            if looks:
                yield looks, _own(mine, here, looks)
        before, mine = ({} if first else before) | dict(hosts), here


def _rates(phase: str, host: str, before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> _Rates | None:
    """None for a host that is new, or was started again in between."""
    if before is None or before["machine"] != now["machine"]:
        return None
    took = float(now["t"]) - float(before["t"])
    if not 0 < took < math.inf:
        return None

    def rate(after: object, earlier: object) -> float:
        """A counter that is smaller than before belongs to processes that have ended."""
        return max(0.0, (float(after) - float(earlier)) / took)  # type: ignore[arg-type]

    services = {name: rate(cpu, before["services"].get(name, cpu)) for name, cpu in now["services"].items()}
    numbers = {name: rate(now[name], before[name]) for name in ("busy", "vms", "received", "sent")}
    return _Rates(
        phase=phase,
        host=host,
        machine=str(now["machine"]),
        start=float(before["t"]),
        end=float(now["t"]),
        cores=int(now["cores"]),
        services=services,
        memory=float(now["memory"]),
        **numbers,
    )


def _own(before: Mapping[str, Any], now: Mapping[str, Any], looks: list[_Rates]) -> Mapping[str, float]:
    took = max(one.end for one in looks) - min(one.start for one in looks)
    if not before or before["machine"] != now["machine"] or took <= 0:
        return {}
    return {str(now["machine"]): max(0.0, (float(now["cpu"]) - float(before["cpu"])) / took)}
