"""What the objects of a run show of themselves in a notebook, a debugger or a log: one line of facts."""

from __future__ import annotations

from pathlib import Path

import pytest
from runmaker import run_events

from g5kvirt import Experiment
from g5kvirt.run.journal import Journal
from g5kvirt.run.tables import Frames
from g5kvirt.views.figures import Figures

RECORDED = Path(__file__).parents[3] / "data" / "runs" / "http"


def test_objects_of_an_experiment_show_facts() -> None:
    exp = Experiment.open(RECORDED)
    assert repr(exp.journal) == f"<Journal {RECORDED}/journal.jsonl: {len(exp.journal):,} events read>"
    assert repr(exp.frames) == (
        f"<Frames of {len(exp.journal):,} events: "
        "events, spans, phases, hosts, vms, account, measurements, load>"
    )
    assert repr(exp.journal.state) == "<RunState: 8 of 8 VMs up, 9 deployments>"
    expected = "<Figures of run http, testbed local, guests: virtual machines (QEMU, emulated): "
    assert repr(exp.figures) == repr(Figures.open(RECORDED))
    assert repr(exp.figures).startswith(expected)
    assert "scalability" in repr(exp.figures)


def test_measurements_show_their_outcome() -> None:
    measurements = Experiment.open(RECORDED).frames.measurements
    total = measurements.summary()
    assert repr(measurements) == (
        f"<Measurements: 9 deployments, {total.deployed} of {total.requested} VMs deployed, 0 failed>"
    )
    one = measurements.only([measurements.states[0].name])
    assert repr(one) == "<Measurements: 1 deployment, 8 of 8 VMs deployed, 0 failed>"


def test_every_name_that_frames_show_is_theirs() -> None:
    frames = Frames(run_events(2))
    for name in repr(frames).rstrip(">").partition(": ")[2].split(", "):
        assert getattr(frames, name) is not None


def test_repr_of_a_journal_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, other = Journal.open(tmp_path / "j"), Journal.open(tmp_path / "j")
    heard: list[object] = []
    journal.subscribe(heard.append)
    other.append("place", "one", "run", "r", "ok")
    assert repr(journal) == f"<Journal {tmp_path}/j: 0 events read>"
    assert heard == []
    journal.refresh()
    monkeypatch.setattr(Journal, "refresh", lambda _: pytest.fail("it reads the file"))
    assert repr(journal) == f"<Journal {tmp_path}/j: 1 event read>"
