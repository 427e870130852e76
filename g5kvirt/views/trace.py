"""A run as a trace for Perfetto (ui.perfetto.dev) or Chrome (chrome://tracing), in their JSON format.

Each host is a process and each of its VMs a thread with a slice for each step; the experiment's own phases,
sites and services are a process before them. The format, "Trace Event Format", is described by the Chromium
project: times are microseconds, slices ("X") of a thread are nested or disjoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from g5kvirt.run.deployment_state import DeploymentState, VMDeployment
from g5kvirt.run.events import Event
from g5kvirt.run.state import RunState
from g5kvirt.run.tables import Frames
from g5kvirt.run.vm_state import Boot
from g5kvirt.run.vocabulary import BOOT_STEPS, UNFINISHED
from g5kvirt.views.tables import iter_rows

__all__ = ["trace", "trace_events"]


@dataclass
class _Slice:
    """A slice of a track from ``start`` to ``end`` (seconds), with its inner slices."""

    name: str
    start: float
    end: float
    about: Mapping[str, Any] = field(default_factory=dict)
    inner: list[_Slice] = field(default_factory=list)


def trace(events: Iterable[Event], path: str | Path, **about: str) -> Path:
    """Write the trace of ``events`` to ``path``; ``about`` (run, testbed, guest) is stored in it.

    Times count from the first event. What has not ended is drawn until the last event, with outcome
    "unfinished". The same events give the same bytes.
    """
    known = list(events)
    document = {
        "traceEvents": list(trace_events(known)),
        "displayTimeUnit": "ms",
        "otherData": dict(sorted(about.items())),
    }
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document, separators=(",", ":"), allow_nan=False) + "\n", encoding="utf-8")
    return target


def trace_events(events: Iterable[Event]) -> Iterator[dict[str, Any]]:
    """The events of the trace: first the names of the tracks, then their slices, track by track."""
    known = list(events)
    if not known:
        return
    frames = Frames(known)
    zero, last = min(e.t for e in known), max(e.t for e in known)
    yield from _process(1, "experiment", _own_tracks(frames, last), zero)
    vms = frames.vms
    on_host = _host_steps(frames, last)
    boots, deployments = _boot_slices(frames.state, last), _deployment_slices(frames.state, last)
    placed = {str(host): list(own) for host, own in vms.groupby("host", sort=False)["name"]}
    for pid, host in enumerate(dict.fromkeys([*frames.hosts["host"], *placed]), start=2):
        tracks = {"host": on_host[host]} if host in on_host else {}
        for vm in placed.get(host, ()):
            tracks[vm] = [*boots.get(vm, ()), *deployments.get(vm, ())]
        yield from _process(pid, host or "unknown host", tracks, zero)


def _own_tracks(frames: Frames, last: float) -> dict[str, list[_Slice]]:
    """The phases, the steps at each site, the services, and the deployments as a whole."""
    tracks: dict[str, list[_Slice]] = {"phases": []}
    spans = frames.spans
    for span in iter_rows(spans[spans["kind"].isin(["run", "site", "service"])]):
        if span.kind == "run":
            whole = span.step in ("phase", "")
            name = span.phase if whole else "release" if span.step == "release" else span.step
            track = "phases" if span.step != "deployment" else "deployments"
            name = span.subject if span.step == "deployment" else name
        else:
            name, track = span.step, f"{span.kind} {span.subject}"
        tracks.setdefault(track, []).append(_of_span(name, span, last))
    return tracks


def _host_steps(frames: Frames, last: float) -> dict[str, list[_Slice]]:
    spans = frames.spans
    found: dict[str, list[_Slice]] = {}
    for span in iter_rows(spans[spans["kind"] == "host"]):
        found.setdefault(span.subject, []).append(_of_span(span.step, span, last))
    return found


def _of_span(name: str, span: Any, last: float) -> _Slice:
    end = last if pd.isna(span.end) else span.end
    return _Slice(name, span.start, end, {"phase": span.phase, "outcome": span.status})


def _boot_slices(state: RunState, last: float) -> dict[str, list[_Slice]]:
    """VM → one slice per boot, with its steps inside; a step ends with its milestone."""
    return {name: [_boot_slice(boot, last) for boot in vm.boots] for name, vm in state.vms.items()}


def _boot_slice(boot: Boot, last: float) -> _Slice:
    about: dict[str, Any] = {"phase": "launch", "attempt": boot.attempt, "outcome": boot.outcome}
    if boot.reason:
        about |= {"at": boot.failed_at, "reason": boot.reason}
    reached = [boot.steps[step] for step in BOOT_STEPS[: boot.reached] if step in boot.steps]
    start = reached[0].t if reached and math.isnan(boot.requested) else boot.requested
    one = _Slice("boot", start, last if math.isnan(boot.end) else boot.end, about)
    for event in reached:
        one.inner.append(_Slice(event.step, start, event.t, {"outcome": "ok", **_plain(event.detail)}))
        start = event.t
    return one


def _deployment_slices(state: RunState, last: float) -> dict[str, list[_Slice]]:
    """VM → one slice per deployment, with its macro-steps inside, and their steps inside those."""
    found: dict[str, list[_Slice]] = {}
    for deployment in state.deployments.values():
        for vm in deployment.vms.values():
            found.setdefault(vm.vm, []).append(_deployment_slice(deployment, vm, last))
    return found


def _deployment_slice(deployment: DeploymentState, vm: VMDeployment, last: float) -> _Slice:
    about: dict[str, Any] = {"environment": deployment.environment, "outcome": vm.outcome}
    about["attempts"] = vm.attempts
    if vm.reason:
        about |= {"failed_at": vm.failed_at, "reason": vm.reason}
    end = last if math.isnan(vm.end) else vm.end
    whole = _Slice(f"deployment {deployment.name}", vm.start, end, about)
    within: dict[int, _Slice] = {}
    for one in vm.macro_tries:
        over = one.end
        outcome = {"outcome": UNFINISHED} if over is None else {}
        about = _about_step(one.start if over is None else over) | outcome
        within[id(one)] = _Slice(one.macro, one.start.t, end if over is None else over.t, about)
        whole.inner.append(within[id(one)])
    for step in vm.steps:
        if step.event.status != "skipped":
            inside = whole if step.within is None else within[id(step.within)]
            inside.inner.append(_Slice(step.event.step, step.start, step.event.t, _about_step(step.event)))
    return whole


def _about_step(event: Event) -> dict[str, Any]:
    about = {"outcome": event.status, "attempt": event.attempt, **_plain(event.detail)}
    return {key: value for key, value in about.items() if key not in ("deployment", "seconds")}


# ---- the format --------------------------------------------------------------------------------------


def _process(
    pid: int, name: str, tracks: Mapping[str, list[_Slice]], zero: float
) -> Iterator[dict[str, Any]]:
    """A process with its threads, in the order of ``tracks``."""
    yield _about(pid, 0, "process_name", name=name)
    yield _about(pid, 0, "process_sort_index", sort_index=pid)
    tid = 0
    for track, slices in tracks.items():
        for lane in _lanes(slices) or [[]]:
            tid += 1
            yield _about(pid, tid, "thread_name", name=track)
            yield _about(pid, tid, "thread_sort_index", sort_index=tid)
            yield from _written(pid, tid, lane, 0, None, zero)


def _about(pid: int, tid: int, what: str, **args: object) -> dict[str, Any]:
    return {"ph": "M", "pid": pid, "tid": tid, "ts": 0, "name": what, "args": args}


def _lanes(slices: Iterable[_Slice]) -> list[list[_Slice]]:
    """Slices contained in another are nested in it; overlapping slices are moved to another lane."""
    lanes: list[list[_Slice]] = []
    stacks: list[list[_Slice]] = []  # per lane the slices that have not ended yet, the innermost last
    for one in sorted(slices, key=lambda s: (s.start, -s.end)):
        for lane, stack in zip(lanes, stacks, strict=True):
            while stack and one.start >= stack[-1].end:
                stack.pop()
            if not stack or one.end <= stack[-1].end:
                (stack[-1].inner if stack else lane).append(one)
                stack.append(one)
                break
        else:
            lanes.append([one])
            stacks.append([one])
    return lanes


def _written(
    pid: int, tid: int, slices: Iterable[_Slice], begin: int, end: int | None, zero: float
) -> Iterator[dict[str, Any]]:
    """The slices in order, each within ``begin`` and ``end`` (microseconds) and after the previous one: with
    the clocks of several machines, and rounded durations, they could overlap otherwise.
    """
    for one in sorted(slices, key=lambda s: s.start):
        start, stop = (max(begin, round((t - zero) * 1e6)) for t in (one.start, one.end))
        if end is not None:
            start, stop = min(start, end), min(stop, end)
        stop = max(start, stop)
        about = {"pid": pid, "tid": tid, "cat": str(one.about.get("phase", "vm"))}
        yield {
            "ph": "X",
            "name": one.name,
            "ts": start,
            "dur": stop - start,
            **about,
            "args": dict(one.about),
        }
        yield from _written(pid, tid, one.inner, start, stop, zero)
        begin = stop


def _plain(detail: Mapping[str, Any]) -> dict[str, Any]:
    """Strings and numbers of an event's detail, without lists and mappings."""
    return {key: value for key, value in detail.items() if isinstance(value, str | int | float)}
