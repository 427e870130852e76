"""Plain Python scripts: what they show, how they end, what completion offers them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import g5kvirt
from g5kvirt.run.journal import read_events
from g5kvirt.run.state import RunState

ROOT = Path(__file__).parents[2]

HELD = """
import time
from g5kvirt import Experiment, Spec
with Experiment(Spec(sites={"nancy": 2}, vms=4), testbed="simulated:2013", name="one") as exp:
    exp.reserve()
    print("reserved", flush=True)
    time.sleep(60)
"""


def start(script: str, folder: Path, **environ: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    variables = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": str(ROOT), **environ}
    words = [sys.executable, "-c", script]
    return subprocess.Popen(words, cwd=folder, stdout=pipe, stderr=pipe, text=True, env=variables)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_with_block_gives_machines_back_on_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    process = start(HELD, tmp_path)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "reserved\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143
    assert RunState.of(read_events(tmp_path / "runs/one/journal.jsonl")).released
    assert "reserve done in" in errors, "progress, as on the command line"
    assert "Traceback" not in errors


def test_signals_that_are_ignored_or_handled_stay_so(tmp_path: Path) -> None:
    script = HELD.replace(
        "import time\n", "import signal, time\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    )
    script = script.replace("time.sleep(60)", "time.sleep(1)") + (
        "assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN\n"
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
        "print('whole')\n"
    )
    process = start(script, tmp_path)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGHUP)
        out, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (0, "whole\n"), errors


@pytest.mark.parametrize("debug", ["", "1"])
def test_error_of_ours_is_one_short_traceback(debug: str, tmp_path: Path) -> None:
    script = "from g5kvirt import Spec\ndef own():\n    Spec(site={'nancy': 2}, vms=8)\nown()\n"
    process = start(script, tmp_path, G5KVIRT_DEBUG=debug)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.endswith("SpecError: unknown key 'site' in the specification: did you mean 'sites'?\n")
    assert errors.count("Traceback") == 1
    assert "in own" in errors
    assert ("spec.py" in errors) == bool(debug)


def test_other_errors_are_shown_as_ever(tmp_path: Path) -> None:
    process = start("from g5kvirt import Spec\nraise ValueError('mine')\n", tmp_path)
    _, errors = process.communicate(timeout=60)
    assert "ValueError: mine" in errors
    assert "Traceback" in errors


def test_view_can_be_switched_off(tmp_path: Path) -> None:
    process = start(HELD.replace("60", "0"), tmp_path, G5KVIRT_VIEW="none")
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (0, "reserved\n", "")


def test_completion_finds_what_is_imported_on_demand() -> None:
    assert {
        "Experiment",
        "Group",
        "Link",
        "Spec",
        "archive",
        "build_image",
        "compare",
        "open_archive",
    } <= set(dir(g5kvirt))
