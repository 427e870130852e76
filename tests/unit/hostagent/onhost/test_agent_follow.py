"""Following files that grow."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import agent_copy
import pytest

from g5kvirt.hostagent import protocol
from g5kvirt.hostagent.onhost import follow, pieces
from g5kvirt.hostagent.onhost.follow import Followed


def test_follow_streams_lines_from_an_offset_and_ends_with_its_input(tmp_path: Path) -> None:
    log, later = tmp_path / "log", tmp_path / "later"
    log.write_text("old\nnew\n")
    request = json.dumps({"requests": [protocol.follow({str(log): 4, str(later): 0}, poll=0.01)]})
    process = subprocess.Popen(
        agent_copy.argv(request),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None

    def line() -> protocol.Line:
        assert process.stdout is not None
        while True:
            if found := protocol.parse_line(process.stdout.readline()):
                return found

    piece = number(log)
    assert line() == protocol.Line(str(log), 8, "new", piece)
    with log.open("a") as file:
        file.write("to")
        file.flush()
        time.sleep(0.05)
        file.write("rn\n")
    assert line() == protocol.Line(str(log), 13, "torn", piece)
    later.write_text("é\n")
    assert line() == protocol.Line(str(later), 3, "é", number(later))
    log.rename(tmp_path / "log.1")
    log.write_text("anew\n")
    with (tmp_path / "log.1").open("a") as file:
        file.write("late\n")
    assert line() == protocol.Line(str(log), 18, "late", piece)
    assert line() == protocol.Line(str(log), 5, "anew", number(log))
    process.stdin.close()
    assert process.wait(10) == 0
    process.stdout.close()


def number(path: Path) -> int:
    with path.open("rb") as file:
        return pieces.number_of(file)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds for which a replaced file is read: few, as each test waits for them several times."""
    monkeypatch.setattr(follow, "LINGER", 0.2)


def everything(*files: Followed) -> list[str]:
    """The lines until no file gives any for longer than a replaced one is read."""
    found: list[str] = []
    quiet = time.monotonic()
    while time.monotonic() - quiet < follow.LINGER + 0.3:
        new = [line["line"] for file in files for line in file.appended()]
        found += new
        if new:
            quiet = time.monotonic()
        time.sleep(0.01)
    return found


def test_what_was_put_aside_is_read_first(tmp_path: Path) -> None:
    log = tmp_path / "log"
    (tmp_path / "log.1").write_text("one\ntwo\n")
    log.write_text("three\n")
    assert everything(Followed(str(log), 0, None)) == ["one", "two", "three"]


def test_a_reader_goes_on_in_the_piece_where_it_was(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("one\ntwo\n")
    piece = number(log)
    log.rename(tmp_path / "log.1")
    log.write_text("three\n")
    assert everything(Followed(str(log), 4, piece)) == ["two", "three"]
    assert everything(Followed(str(log), 3, 1)) == ["one", "two", "three"], "that file is gone: all there is"


def test_an_emptied_file_is_read_from_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("one\ntwo\n")
    file = Followed(str(log), 0, None)
    assert [line["line"] for line in file.appended()] == ["one", "two"]
    log.write_text("new\n")
    assert everything(file) == ["new"]


def test_what_was_put_aside_more_than_once_loses_no_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("one\ntwo\n")
    reader = Followed(str(log), 0, None)
    assert [line["line"] for line in reader.appended()] == ["one", "two"]
    piece = number(log)
    for line in ("three", "four"):  # while the connection is broken, or within one look
        pieces.put_aside(str(log))
        log.write_text(f"{line}\n")
    assert everything(Followed(str(log), 4, piece)) == ["two", "three", "four"], "a new connection"
    assert everything(reader) == ["three", "four"], "the same one"
    for line in ("five", "six"):
        pieces.put_aside(str(log))
        log.write_text(f"{line}\n")  # often with the inode of the one that has just gone
    assert everything(Followed(str(log), 4, piece)) == ["three", "four", "five", "six"], "the oldest is gone"
    assert everything(reader) == ["five", "six"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1", "log.2", "log.3"]


def test_a_log_that_is_gone_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("one\n")
    reader = Followed(str(log), 0, None)
    assert [line["line"] for line in reader.appended()] == ["one"]
    pieces.put_aside(str(log))
    assert everything(reader) == [], "its writer has not made a new one yet"
    with (tmp_path / "log.1").open("a") as file:
        file.write("late\n")
    log.write_text("new\n")
    assert everything(reader) == ["late", "new"]
