"""The journal survives what a crash does to it, and may be open in several processes."""

from __future__ import annotations

import errno
import fcntl
import inspect
import json
import logging
import lzma
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.errors import RunError
from g5kvirt.run.directory import find
from g5kvirt.run.events import Event
from g5kvirt.run.journal import Journal, read_events

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


@given(EVENTS)
def test_event_round_trips_as_one_line(event: Event) -> None:
    line = event.to_json()
    assert "\n" not in line
    assert Event.from_json(line) == event


def test_repeated_strings_are_interned() -> None:
    line = Event("launch", "dhcp", "vm", "vm-1", "ok", 1.0, 1, {"said": "word"}).to_json()
    one, other = Event.from_json(line), Event.from_json(line)
    assert one.subject is other.subject
    assert next(iter(one.detail)) is next(iter(other.detail))
    assert one.detail["said"] is other.detail["said"]


@given(events=st.lists(EVENTS, min_size=1, max_size=5), cut=st.integers(0, 10_000))
def test_truncated_journal_keeps_complete_lines(
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
    assert path.read_bytes() == data[:cut], "reading writes nothing"
    journal.extend([extra])
    assert read_events(path) == [*events[:whole], extra]


def test_garbage_in_the_last_line_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    good = Event("place", "plan", "run", "r", "ok", 1.0)
    for tail in (b'{"t": 1\n', b"\xff\xfe\n", b"[]\n", b"\0" * 50):
        write(path, [good])
        path.write_bytes(path.read_bytes() + tail)
        assert read_events(path) == [good]
        with Journal.open(path).held():
            pass
        assert path.read_bytes() == good.to_json().encode() + b"\n"
        path.unlink()


def test_garbage_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    good = Event("place", "plan", "run", "r", "ok", 1.0).to_json()
    path.write_text(f"{good}\nrubbish\n{good}\n")
    with pytest.raises(RunError, match="line 2"):
        read_events(path)
    with pytest.raises(RunError, match="line 2"):
        Journal.open(path)


def test_missing_journal_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no journal"):
        read_events(tmp_path / "none.jsonl")


def test_listeners_receive_events_until_removed(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "deep" / "journal.jsonl")
    journal.append("place", "before", "run", "r", "ok")
    received: list[str] = []
    leave = journal.subscribe(lambda event: received.append(event.step))
    journal.append("place", "one", "run", "r", "ok", number=1)
    leave()
    leave()
    journal.append("place", "two", "run", "r", "ok")
    assert received == ["one"]
    assert [e.step for e in journal] == ["before", "one", "two"]
    assert [e.detail for e in read_events(journal.path)] == [{}, {"number": 1}, {}]


def test_threads_write_complete_lines(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.jsonl")

    def work(name: str) -> None:
        for _ in range(100):
            journal.append("launch", "dhcp", "vm", name, "ok", text="x" * 200)

    threads = [threading.Thread(target=work, args=(f"vm-{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(journal) == 400
    lines: list[dict[str, Any]] = [json.loads(line) for line in journal.path.read_text().splitlines()]
    assert len(lines) == 400
    assert [e.subject for e in read_events(journal.path)] == [e.subject for e in journal]


# ---- several at once ------------------------------------------------------------------------------------

HOLDER = """
import os, sys, time
from pathlib import Path
from g5kvirt.run.journal import Journal
journal = Journal.open(Path(sys.argv[1]))
with journal.held():
    me = {"pid": os.getpid(), "host": os.uname().nodename}
    journal.append("launch", "phase", "run", "r", "start", process=me)
    print("held", flush=True)
    for line in sys.stdin:
        journal.append("launch", line.strip(), "run", "r", "ok")
        print("written", flush=True)
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock and writes an event for each word that it is told."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def send(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{word}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "written\n"


def wait(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def test_readers_follow_a_writing_process(tmp_path: Path) -> None:
    path = tmp_path / "lille" / "journal.jsonl"
    journal = Journal.open(path)
    journal.append("place", "before", "run", "r", "ok")
    received: list[str] = []
    journal.subscribe(lambda event: received.append(event.step))
    with holder(path) as process:
        sentence = f"run 'lille' is in use by process {process.pid}: wait, or interrupt it there"
        for attempt in (lambda: journal.append("place", "no", "run", "r", "ok"), journal.held().__enter__):
            with pytest.raises(RunError) as caught:
                attempt()
            assert str(caught.value) == sentence
        send(process, "one")
        assert [e.step for e in journal] == ["before", "phase", "one"], "reading shows it"
        assert len(Journal.open(path)) == 3
        assert received[-1] == "one"
        unfollow = journal.follow(interval=0.01)
        send(process, "two")
        wait(lambda: received[-1] == "two")
        unfollow()
        send(process, "three")
        process.kill()
        process.wait()
        with journal.held():  # its lock ended with it
            assert received[-1] == "three"
            journal.append("place", "after", "run", "r", "ok")
    assert [e.step for e in read_events(path)] == ["before", "phase", "one", "two", "three", "after"]


def test_journal_lock_is_exclusive_within_a_process(tmp_path: Path) -> None:
    path = tmp_path / "r" / "journal.jsonl"
    journal, other = Journal.open(path), Journal.open(path)
    me = {"pid": os.getpid(), "host": os.uname().nodename}
    with journal.held():
        journal.append("launch", "phase", "run", "r", "start", process=me)
        for one in (journal, other):
            with pytest.raises(RunError, match="run 'r' is in use by another step of this process"):
                one.held().__enter__()
        threads = [
            threading.Thread(target=journal.append, args=("launch", "dhcp", "vm", str(n), "ok"))
            for n in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with other.held():
        assert len(other) == 4
    journal.append("launch", "late", "run", "r", "ok")
    assert len(other) == 5


PARTS = st.tuples(st.integers(0, 2), st.lists(EVENTS, min_size=1, max_size=3), st.binary(max_size=4))


@given(parts=st.lists(PARTS, min_size=1))
def test_alternating_writers_and_torn_lines_are_read_identically(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, list[Event], bytes]]
) -> None:
    path = tmp_path_factory.mktemp("j") / "journal.jsonl"
    journals = [Journal.open(path) for _ in range(3)]
    written: list[Event] = []
    for who, events, torn in parts:
        journals[who].extend(events)
        written += events
        with path.open("ab") as file:  # a process is killed while it writes
            file.write(torn.replace(b"\n", b""))
        assert all(list(journal) == written for journal in journals)
        assert read_events(path) == written
    assert len(written) >= len(parts)


def test_state_includes_events_of_other_processes(tmp_path: Path) -> None:
    journal, other = (Journal.open(tmp_path / "journal.jsonl") for _ in range(2))
    journal.append("place", "one", "run", "r", "ok", n=1)
    assert journal.state.detail("place", "one") == {"n": 1}
    other.append("place", "one", "run", "r", "ok", n=2)
    for _ in range(2):
        assert journal.state.detail("place", "one") == {"n": 2}
    assert journal.state is journal.state, "each event is taken once"


def test_read_only_journal_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, [Event("place", "plan", "run", "r", "ok", 1.0)])

    def refuse(*_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("g5kvirt.run.journal.FileIO", refuse)
    journal = Journal.open(path)
    assert len(journal) == 1
    with pytest.raises(RunError, match=r"cannot be written \(Read-only file system\): this run can only be"):
        journal.append("place", "no", "run", "r", "ok")


def test_full_disk_leaves_complete_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal.open(path)
    journal.append("place", "one", "run", "r", "ok")
    real = os.write
    rooms = iter([10])

    def full(file: int, data: bytes) -> int:
        room = next(rooms, 0)
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, data[:room])

    with monkeypatch.context() as patch:
        patch.setattr("g5kvirt.run.journal.os.write", full)
        with pytest.raises(RunError, match="No space left"):
            journal.append("place", "two", "run", "r", "ok")
    assert path.read_bytes().endswith(b"\n")
    journal.append("place", "three", "run", "r", "ok")
    assert [e.step for e in journal] == [e.step for e in read_events(path)] == ["one", "three"]


def test_interrupted_write_leaves_the_journal_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal.open(path)
    real = os.write

    def interrupted(file: int, data: bytes) -> int:
        real(file, data)
        raise KeyboardInterrupt

    with journal.held():
        journal.append("launch", "phase", "run", "r", "start")
        with monkeypatch.context() as patch:
            patch.setattr("g5kvirt.run.journal.os.write", interrupted)
            with pytest.raises(KeyboardInterrupt):
                journal.append("launch", "power-on", "vm", "vm-1", "ok")
        journal.append("launch", "phase", "run", "r", "failed")
    journal.append("launch", "phase", "run", "r", "start")
    steps = [("phase", "start"), ("phase", "failed"), ("phase", "start")]
    assert [(e.step, e.status) for e in journal] == steps
    assert [(e.step, e.status) for e in read_events(path)] == steps


def test_a_raising_listener_harms_neither_the_run_nor_other_listeners(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal.jsonl"
    journal, other = Journal.open(path), Journal.open(path)
    seen: list[str] = []

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    leave = journal.subscribe(refuse)
    journal.subscribe(lambda event: seen.append(event.step))
    other.append("place", "one", "run", "r", "ok")
    with journal.held():
        journal.append("place", "two", "run", "r", "ok")
    assert seen == ["one", "two"]
    assert "the run continues" in caplog.text
    leave()
    other.append("place", "three", "run", "r", "ok")
    with journal.held():
        pass
    assert len(journal) == 3


def test_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING):
        write(tmp_path / "journal.jsonl", [Event("place", "plan", "run", "r", "ok", 1.0)])
    assert "has no locks" in caplog.text
    assert len(read_events(tmp_path / "journal.jsonl")) == 1


def test_shortened_journal_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, [Event("place", "plan", "run", "r", "ok", 1.0)] * 2)
    journal = Journal.open(path)
    path.write_bytes(b"")
    with pytest.raises(RunError, match="has become shorter"):
        list(journal)


def test_interrupt_releases_the_lock(tmp_path: Path) -> None:
    """Raised at each single instruction of the journal in its turn, as Ctrl-C may be."""
    path = tmp_path / "journal.jsonl"
    journal, other = Journal.open(path), Journal.open(path)
    before = sys.gettrace()
    passed = at = 0

    def step(frame: FrameType, what: str, _: object) -> Any:
        nonlocal passed
        if frame.f_code.co_filename != inspect.getfile(Journal):
            return None
        frame.f_trace_opcodes = True
        passed += what == "opcode"
        if what == "opcode" and passed == at:
            raise KeyboardInterrupt
        return step

    sys._getframe().f_trace_opcodes = True  # Python 3.12 looks at this when the tracing begins
    while passed >= at:
        passed, at = 0, at + 1
        assert at % 2 or len(journal) == len(other)  # now and then it has something to read first
        sys.settrace(step)
        try:
            journal.append("place", "one", "run", "r", "ok")
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        other.append("place", "two", "run", "r", "ok")
    assert at > 100, "it was interrupted"
    assert len(journal) == len(other) == len(read_events(path))


def test_compressed_journal_is_read_and_never_written(tmp_path: Path) -> None:
    plain = tmp_path / "journal.jsonl"
    events = [Event("launch", "power-on", "vm", f"vm-{n}", "ok", float(n)) for n in range(2000)]
    Journal.open(plain).extend(events)
    packed = tmp_path / "journal.jsonl.xz"
    packed.write_bytes(lzma.compress(plain.read_bytes()))
    document = json.dumps({"name": tmp_path.name, "created": 1.0})
    (tmp_path / "run.json").write_text(document)
    assert find(tmp_path.parent, tmp_path.name).journal == plain, "what can be written comes first"
    plain.unlink()
    assert find(tmp_path.parent, tmp_path.name).journal == packed
    journal = Journal.open(packed)
    assert list(journal) == events
    assert journal.refresh() == 0
    with pytest.raises(RunError, match="compressed recording: this run can only be read"):
        journal.extend(events[:1])
    assert list(Journal.open(packed)) == events


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda d: d[:-40], "not complete"),
        (lambda d: b"x" + d, "is damaged"),
        (lambda d: d + d, "data after its end"),
    ],
)
def test_damaged_compressed_journal_is_an_error(
    tmp_path: Path, damage: Callable[[bytes], bytes], reason: str
) -> None:
    packed = tmp_path / "journal.jsonl.xz"
    line = Event("launch", "power-on", "vm", "vm-1", "ok", 1.0).to_json() + "\n"
    packed.write_bytes(damage(lzma.compress(line.encode() * 1000)))
    with pytest.raises(RunError, match=reason):
        Journal.open(packed)


def test_compressed_journal_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("g5kvirt.run.lines._LARGEST", 1000)
    packed = tmp_path / "journal.jsonl.xz"
    packed.write_bytes(lzma.compress(b"x" * 5000))
    with pytest.raises(RunError, match="larger than"):
        Journal.open(packed)
