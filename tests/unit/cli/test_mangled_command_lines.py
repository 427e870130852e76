"""Mangled command lines: an exit code and at most one sentence, never a traceback, never a long wait.

As people type them, with words lost, repeated, exchanged or strange. Only commands that touch no testbed.
10,000 of them with ``-m slow``.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mangling import examples

from g5kvirt.cli import main

RUNS = Path(__file__).parents[3] / "data" / "runs"
SECONDS = 5.0

COMMANDS = (
    ["check", "spec.yaml", "--inventory", "2013"],
    ["check", "spec.yaml", "--inventory", "2026", "--json"],
    ["predict", "spec.yaml", "--inventory", "2013", "--measure", "2,4"],
    ["predict", "spec.yaml", "--vary", "windows.reboot=1,none", "--vary", "broadcast=chain,http"],
    ["predict", "spec.yaml", "--summary", "--calibration", "local-light"],
    ["calibrate", "runs/small", "-o", "own.yaml"],
    ["show", "small"],
    ["show", "runs/small", "--tables"],
    ["runs", "--runs", "runs"],
)
#: What is typed by mistake. No path leads out of the directory.
STRANGE = st.one_of(
    st.sampled_from(
        [
            *(
                "",
                "-",
                "--",
                "-o",
                "--json",
                "--runs",
                "--measure",
                "--vary",
                "=",
                "a=",
                "=b",
                "--vary=",
                "-x",
            ),
            *("0", "-1", "1e9", "99999999999999999999", "2,,4", "4,2,nan", "٣", "none", "2014", "local", "."),
            *(
                "nowhere/at/all",
                "spec.yaml",
                "runs",
                "runs/small",
                "runs/small/run.json",
                "empty.yaml",
                "bin",
            ),
            *("windows.reboot=", "windows.=1", "vm.memory=0,x", "vms=0,-1,1e6", "sites=1", "a.b.c.d=1", "{}"),
            *(
                "--help",
                "--version",
                "--debug",
                "simulated:",
                "simulated:2013",
                "x" * 5000,
                "\x1b[2J",
                "\u202e",
            ),
        ]
    ),
    st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs"]), max_size=20),
)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    words = list(draw(st.sampled_from(COMMANDS)))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(1, len(words)))
        match draw(st.sampled_from(["lose", "repeat", "exchange", "insert", "insert"])):
            case "lose":
                del words[place : place + 1]
            case "repeat":
                words[place:place] = words[place - 1 : place + 1]
            case "exchange":
                words[place : place + 1] = [draw(STRANGE)]
            case "insert":
                words.insert(place, draw(STRANGE))
    return words


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("mangled")
    shutil.copytree(RUNS / "emulated-8", place / "runs" / "small")
    (place / "spec.yaml").write_text("sites: {nancy: 2, rennes: 1}\nvms: 4\n")
    (place / "empty.yaml").touch()
    (place / "bin").write_bytes(bytes(range(256)) * 8)
    return place


def run(
    words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    start = time.monotonic()
    try:
        code = main(words)
    except SystemExit as left:  # argparse's own way out
        code = left.code if isinstance(left.code, int) else 1
    took = time.monotonic() - start
    out, err = capsys.readouterr()
    assert code in (0, 1, 2, 3, 74), (code, words, err)
    assert "Traceback" not in err or "--debug" in words, (words, err)
    assert "this is a bug" not in err, (words, err)
    assert took < SECONDS, (words, took)
    if code:
        assert err.strip(), words
    assert all(c.isprintable() or c in "\n\t" for c in out + err), (words, out + err)


@examples(150)
@given(words=command_lines())
def test_a_mangled_command_line_gets_a_sentence(
    words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(words, folder, monkeypatch, capsys)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@examples(10_000)
@given(words=command_lines())
def test_ten_thousand_mangled_command_lines(
    words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(words, folder, monkeypatch, capsys)
