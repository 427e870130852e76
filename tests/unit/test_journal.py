"""The journal survives what a crash does to it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.errors import RunError
from g5kvirt.journal import Event, Journal, read_events

PLAIN = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8)
EVENTS = st.builds(
    Event,
    phase=st.sampled_from(["reserve", "launch"]),
    step=st.text(max_size=8),
    kind=st.sampled_from(["run", "host", "vm"]),
    subject=st.text(max_size=8),
    status=st.sampled_from(["start", "ok", "failed"]),
    t=st.floats(0, 4e9).map(lambda t: round(t, 6)),
    attempt=st.integers(1, 9),
    detail=st.dictionaries(st.text(max_size=5), PLAIN | st.lists(PLAIN, max_size=2), max_size=3),
)


def write(path: Path, events: list[Event]) -> None:
    journal = Journal.open(path)
    journal.extend(events)
    journal.close()


@given(EVENTS)
def test_an_event_is_one_line_and_comes_back(event: Event) -> None:
    line = event.to_json()
    assert "\n" not in line
    assert Event.from_json(line) == event


@given(events=st.lists(EVENTS, min_size=1, max_size=5), cut=st.integers(0, 10_000))
def test_a_journal_cut_anywhere_keeps_all_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, events: list[Event], cut: int
) -> None:
    path = tmp_path_factory.mktemp("j") / "journal.jsonl"
    write(path, events)
    data = path.read_bytes()
    cut = min(cut, len(data))
    path.write_bytes(data[:cut])
    whole = data[:cut].count(b"\n")
    assert read_events(path) == events[:whole]

    extra = Event("place", "again", "run", "r", "ok", 1.0)
    journal = Journal.open(path)
    assert list(journal) == events[:whole]
    journal.extend([extra])
    journal.close()
    assert read_events(path) == [*events[:whole], extra]


def test_rubbish_in_the_last_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    good = Event("place", "plan", "run", "r", "ok", 1.0)
    for tail in (b'{"t": 1\n', b"\xff\xfe\n", b"[]\n", b"\0" * 50):
        write(path, [good])
        path.write_bytes(path.read_bytes() + tail)
        assert read_events(path) == [good]
        Journal.open(path).close()
        assert path.read_bytes() == good.to_json().encode() + b"\n"
        path.unlink()


def test_rubbish_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    good = Event("place", "plan", "run", "r", "ok", 1.0).to_json()
    path.write_text(f"{good}\nrubbish\n{good}\n")
    with pytest.raises(RunError, match="line 2"):
        read_events(path)
    with pytest.raises(RunError, match="line 2"):
        Journal.open(path)


def test_no_journal(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no journal"):
        read_events(tmp_path / "none.jsonl")


def test_listeners_hear_what_comes_and_can_leave(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "deep" / "journal.jsonl")
    journal.append("place", "before", "run", "r", "ok")
    heard: list[str] = []
    leave = journal.subscribe(lambda event: heard.append(event.step))
    journal.append("place", "one", "run", "r", "ok", number=1)
    leave()
    leave()
    journal.append("place", "two", "run", "r", "ok")
    journal.close()
    assert heard == ["one"]
    assert [e.step for e in journal] == ["before", "one", "two"]
    assert [e.detail for e in read_events(journal.path)] == [{}, {"number": 1}, {}]


def test_several_threads_write_whole_lines(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.jsonl")

    def work(name: str) -> None:
        for _ in range(100):
            journal.append("launch", "dhcp", "vm", name, "ok", text="x" * 200)

    threads = [threading.Thread(target=work, args=(f"vm-{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    assert len(journal) == 400
    lines: list[dict[str, Any]] = [json.loads(line) for line in journal.path.read_text().splitlines()]
    assert len(lines) == 400
    assert [e.subject for e in read_events(journal.path)] == [e.subject for e in journal]
