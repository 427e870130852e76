"""The trace of a run: valid by the rules of its format, and all that the journal says."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measuremaker import measure_events
from runmaker import T0, run_events

from g5kvirt.run.events import Event
from g5kvirt.views.trace import trace, trace_events

WRONG = "SHA-256 is not that of mini"
BAD = {"vm-3": ("image", 99, WRONG), "vm-7": ("image", 1, WRONG)}
EVENTS = [*run_events(16, lost=2, hosts=3), *measure_events((4, 8), 2, bad=BAD)]


def check_format(events: list[dict[str, Any]]) -> None:
    """The rules of the Trace Event Format for slices and names of tracks."""
    slices = defaultdict(list)
    named, used = set(), set()
    for event in events:
        assert event["ph"] in ("X", "M")
        assert all(type(event[key]) is int for key in ("pid", "tid", "ts"))
        assert isinstance(event["name"], str)
        assert event["name"]
        assert isinstance(event["args"], dict)
        if event["ph"] == "X":
            assert type(event["dur"]) is int
            assert event["dur"] >= 0
            slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
            used.add((event["pid"], event["tid"]))
        elif event["name"] == "thread_name":
            assert (event["pid"], event["tid"]) not in named, "two tracks have the same number"
            named.add((event["pid"], event["tid"]))
    assert used <= named
    for own in slices.values():
        above: list[tuple[int, int]] = []
        for start, end in own:  # in the order in which they stand in the file: outer ones first
            while above and start >= above[-1][1]:
                above.pop()
            assert not above or (above[-1][0] <= start and end <= above[-1][1]), "slices cross"
            above.append((start, end))


def tracks(events: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """(process, thread) → its slices."""
    process = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    thread = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    found: dict[tuple[str, str], list[dict[str, Any]]] = {
        (process[pid], name): [] for (pid, _), name in thread.items()
    }
    for event in events:
        if event["ph"] == "X":
            found[process[event["pid"]], thread[event["pid"], event["tid"]]].append(event)
    return found


def test_trace_file_is_valid_and_reproducible(tmp_path: Path) -> None:
    path = trace(EVENTS, tmp_path / "new" / "trace.json", run="first", testbed="local", guest="tcg")
    document = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert set(document) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert document["otherData"] == {"guest": "tcg", "run": "first", "testbed": "local"}
    check_format(document["traceEvents"])
    again = trace(EVENTS, tmp_path / "again.json", testbed="local", run="first", guest="tcg")
    assert again.read_bytes() == path.read_bytes()


def test_hosts_are_processes_and_vms_their_threads() -> None:
    known = tracks(list(trace_events(EVENTS)))
    vms = [name for name in known if name[1].startswith("vm-")]
    assert len(vms) == 16
    assert {process for process, _ in vms} == {f"paradent-{n}.rennes.grid5000.fr" for n in (1, 2, 3)}
    assert [e["name"] for e in known["experiment", "phases"]][:3] == ["reserve", "deploy", "configure"]
    assert {"site nancy", "service dnsmasq"} <= {name for process, name in known if process == "experiment"}


def test_slices_have_the_times_of_the_journal() -> None:
    known = {name: slices for (_, name), slices in tracks(list(trace_events(EVENTS))).items()}
    boot = next(e for e in known["vm-2"] if e["name"] == "boot")
    reached = {
        e.step: e.t for e in EVENTS if e.subject == "vm-2" and e.status == "ok" and e.phase == "launch"
    }
    requested = next(e.t for e in EVENTS if e.subject == "vm-2" and e.status == "start")
    assert boot["ts"] == pytest.approx((requested - T0) * 1e6, abs=2)
    assert boot["dur"] == pytest.approx((reached["minimal-system"] - requested) * 1e6, abs=2)
    steps = known["vm-2"][1:7]
    assert [e["name"] for e in steps] == ["power-on", "dhcp", "script", "kernel", "initrd", "minimal-system"]
    assert sum(e["dur"] for e in steps) == boot["dur"]
    macros = [e for e in known["vm-2"] if e["name"] == "BroadcastEnv"]
    spans = [e for e in EVENTS if e.subject == "vm-2" and e.step == "BroadcastEnv"]
    expected = sum(e.t if e.status == "ok" else -e.t for e in spans)
    assert sum(e["dur"] for e in macros) == pytest.approx(expected * 1e6, abs=10)


def test_failures_have_reasons_and_retries_two_slices() -> None:
    known = {name: slices for (_, name), slices in tracks(list(trace_events(EVENTS))).items()}
    (lost,) = [e for e in known["vm-3"] if e["args"].get("reason") == WRONG and "failed_at" in e["args"]]
    assert lost["name"] == "deployment d4"
    images = [e for e in known["vm-7"] if e["name"] == "image"]
    assert [e["args"]["outcome"] for e in images][-2:] == ["failed", "ok"]
    given_up = [e for slices in known.values() for e in slices if e["name"] == "boot"]
    assert sum(e["args"]["outcome"] == "failed" for e in given_up) == 2


def test_overlapping_slices_are_in_separate_lanes() -> None:
    events = [
        Event("deploy", "a", "host", "h.nancy", "start", T0),
        Event("deploy", "b", "host", "h.nancy", "start", T0 + 1),
        Event("deploy", "a", "host", "h.nancy", "ok", T0 + 2),
        Event("deploy", "b", "host", "h.nancy", "ok", T0 + 3),
    ]
    written = list(trace_events(events))
    check_format(written)
    assert {e["name"]: (e["ts"], e["dur"], e["tid"]) for e in written if e["ph"] == "X"} == {
        "a": (0, 2_000_000, 1),
        "b": (1_000_000, 2_000_000, 2),
    }


def test_trace_without_events_is_empty(tmp_path: Path) -> None:
    assert json.loads(trace([], tmp_path / "trace.json").read_text())["traceEvents"] == []


@settings(max_examples=25, deadline=None)
@given(st.integers(0, len(EVENTS)), st.integers(0, 3))
def test_trace_of_any_prefix_is_valid(until: int, lost: int) -> None:
    some = [e for number, e in enumerate(EVENTS[:until]) if not lost or number % 11 != lost]
    written = list(trace_events(some))
    check_format(written)
    assert bool(written) == bool(some)
    if some:
        zero, last = min(e.t for e in some), max(e.t for e in some)
        ends = [e["ts"] + e["dur"] for e in written if e["ph"] == "X"]
        assert max(ends, default=0) <= (last - zero) * 1e6 + 1
        phases = {e["name"]: e for e in tracks(written).get(("experiment", "phases"), [])}
        begins = {e.phase: e.t for e in some if e.is_phase and e.status == "start"}
        over = {e.phase: e.t for e in some if e.is_phase and e.status != "start"}
        assert set(begins) <= set(phases)
        for phase, begin in begins.items():
            end = over.get(phase, last)  # what has not ended is drawn until the last event
            assert phases[phase]["ts"] == pytest.approx((begin - zero) * 1e6, abs=2)
            assert phases[phase]["dur"] == pytest.approx((end - begin) * 1e6, abs=2)
