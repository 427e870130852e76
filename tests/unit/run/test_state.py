"""What a run remembers is the same whether its journal is read once or for every question, and it adds up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measuremaker import measure_events
from runmaker import run_events

from g5kvirt.inventory import VM, Facts
from g5kvirt.run import state
from g5kvirt.run.deployment_tables import Measurements
from g5kvirt.run.journal import PHASES, Event, Journal, read_events
from g5kvirt.run.tables import Frames, vms_frame

FACTS: dict[str, Any] = {"cores": 4, "memory": 8, "kvm": False, "clock_offset": 0.25}
NAMES = [f"vm-{n}" for n in range(1, 5)]


def row(name: str) -> dict[str, Any]:
    number = int(name[3:])
    ip, mac = str(IPv4Address(0x0A000000 + number)), f"52:54:00:00:00:{number:02x}"
    return {"index": number, "name": name, "host": "h", "site": "nancy", "ip": ip, "mac": mac}


STATUS = st.sampled_from(["start", "ok", "failed", "retry"])
VM_NAMES = st.lists(st.sampled_from(NAMES), unique=True)


def of(phase: str, steps: Sequence[str], kind: str, subjects: Sequence[str], detail: Any = None) -> Any:
    return st.builds(
        Event,
        phase=st.just(phase),
        step=st.sampled_from(steps),
        kind=st.just(kind),
        subject=st.sampled_from(subjects),
        status=STATUS,
        t=st.floats(0, 100).map(lambda t: round(t, 3)),
        attempt=st.integers(1, 3),
        detail=detail if detail is not None else st.just({}),
    )


EVENTS = st.lists(
    st.one_of(
        *(of(phase, ["phase", "release"], "run", ["r"]) for phase in PHASES),
        of(
            "reserve",
            ["submitted"],
            "site",
            ["nancy", "rennes"],
            st.fixed_dictionaries({"job": st.integers()}),
        ),
        of("configure", ["facts"], "host", ["h-1", "h-2"], st.just(FACTS)),
        of("place", ["plan"], "run", ["r"], VM_NAMES.map(lambda names: {"vms": [row(n) for n in names]})),
        of("launch", ["power-on", "dhcp", "minimal-system", "launch"], "vm", [*NAMES, "vm-9"]),
        of("measure", ["deployment"], "run", ["d1", "d2"], VM_NAMES.map(lambda names: {"vms": names})),
        of("measure", ["deployment", "BootNewEnv"], "vm", NAMES, st.just({"deployment": "d1"})),
    ),
    max_size=30,
)


# ---- the naive way: the whole journal for each question ---------------------------------------------------


def detail(events: Iterable[Event], phase: str, step: str) -> Any:
    found = [e.detail for e in events if (e.phase, e.step, e.status) == (phase, step, "ok")]
    return found[-1] if found else None


def naive(events: Sequence[Event]) -> dict[str, Any]:
    plans = [e.detail["vms"] for e in events if e.step == "plan"]
    frame = vms_frame(events)
    begun = [e for e in events if (e.step, e.kind, e.status) == ("deployment", "run", "start")]
    ended = {e.subject: e.status for e in events if (e.step, e.kind) == ("deployment", "vm")}
    return {
        "details": [detail(events, phase, step) for phase in PHASES for step in ("phase", "release", "plan")],
        "tries": [
            [e.t for e in events if (e.phase, e.step, e.status) == (phase, "phase", "start")]
            for phase in PHASES
        ],
        "jobs": [(e.subject, e.detail["job"]) for e in events if e.step == "submitted"],
        "facts": {e.subject: Facts(**FACTS) for e in events if e.step == "facts" and e.status == "ok"},
        "vms": [
            VM(r["index"], r["name"], r["host"], r["site"], IPv4Address(r["ip"]), r["mac"])
            for r in (plans[-1] if plans else [])
        ],
        "up": list(frame.loc[frame["state"] == "up", "name"]),
        "deployments": {e.subject: e.detail["vms"] for e in begun},
        "deployed_vms": sorted(
            (name for name, status in ended.items() if status == "ok"),
            key=lambda name: [*(r["name"] for r in (plans[-1] if plans else [])), *ended].index(name),
        ),
    }


def asked(events: Iterable[Event]) -> dict[str, Any]:
    return {
        "details": [
            state.detail(events, phase, step) for phase in PHASES for step in ("phase", "release", "plan")
        ],
        "tries": [state.tries(events, phase) for phase in PHASES],
        "jobs": state.jobs(events),
        "facts": state.facts(events),
        "vms": state.vms(events),
        "up": state.up(events),
        "deployments": state.deployments(events),
        "deployed_vms": state.deployed_vms(events),
    }


@settings(max_examples=50)
@given(first=EVENTS, second=EVENTS)
def test_a_journal_read_on_gives_the_same_answers_as_one_read_anew(
    tmp_path_factory: pytest.TempPathFactory, first: list[Event], second: list[Event]
) -> None:
    path = tmp_path_factory.mktemp("j") / "journal.jsonl"
    journal, other = Journal.open(path), Journal.open(path)
    journal.extend(first)
    assert asked(journal) == naive(first)
    other.extend(second)
    both = [*first, *second]
    assert asked(journal) == naive(both)
    assert asked(both) == naive(both)
    assert state.cut_short(journal) == state.cut_short(both)


def test_answers_do_not_change_afterwards(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.jsonl")
    events = [*run_events(3), *measured((2, 3))]
    journal.extend(events[:-20])
    before = asked(journal)
    kept = repr(before)
    journal.extend(events[-20:])
    assert repr(before) == kept


# ---- cut short --------------------------------------------------------------------------------------------


def measured(sizes: Sequence[int], bad: Any = None) -> list[Event]:
    """`measure_events`, with the names of the VMs at each beginning, as `measure` writes them."""
    return [
        replace(e, detail={**e.detail, "vms": [f"vm-{n + 1}" for n in range(e.detail["asked"])]})
        if (e.step, e.kind, e.status) == ("deployment", "run", "start")
        else e
        for e in measure_events(sizes, 1, bad=bad)
    ]


def test_a_run_killed_anywhere_gets_its_end() -> None:
    """For each place where the process may have been killed: all spans and all VMs have an end afterwards."""
    events = [*run_events(4, lost=1), *measured((2, 4), {"vm-2": ("format", 9, "no disk")})]
    closed = 0
    for cut in range(0, len(events) + 1, 3):
        known = events[:cut]
        ends = state.cut_short(known)
        whole = [*known, *ends]
        assert state.cut_short(whole) == []
        assert {e.status for e in ends} <= {"failed", "ok"}
        assert all(e.t >= max(k.t for k in known) for e in ends)
        frames = Frames(whole)
        assert "unfinished" not in set(frames.phases["status"])
        summary = Measurements(whole).summary()
        assert summary.asked == summary.deployed + summary.failed
        for step, reason in summary.reasons:
            assert step, "where it was is known"
            assert reason in (state.CUT_SHORT, "no disk")
        spans = frames.spans[frames.spans["phase"] == "measure"]
        assert "unfinished" not in set(spans["status"])
        closed += bool(ends)
    assert closed > 40


def test_nothing_is_missing_where_a_step_ended_badly() -> None:
    events = run_events(2)
    end = next(n for n, e in enumerate(events) if (e.phase, e.step, e.status) == ("launch", "phase", "ok"))
    failed = Event("launch", "phase", "run", "r", "failed", events[end].t, 1, {"reason": "interrupted"})
    some = [e for e in events[:end] if (e.step, e.status) != ("power-on", "ok")]
    assert state.cut_short([*some, failed]) == []
    assert state.cut_short([]) == []


def test_where_a_vm_was_when_it_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    events = measured((1,))
    cut = next(n for n, e in enumerate(events) if (e.step, e.kind) == ("format", "vm")) + 1
    journal = Journal.open(path)
    journal.extend(events[:cut])
    journal.extend(state.cut_short(journal))
    (failure,) = Measurements(read_events(path)).summary().failures
    done = [e.step for e in events[:cut] if "seconds" in e.detail][-1]
    assert done == "format"
    assert failure[2] == "broadcast", "the step after the last one that was done"
