"""The whole demonstration as a person runs it: a process of its own, and what it leaves."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from localbed import MARKS, below, nothing_left, terminate, wait

from g5kvirt.cli.demo import TESTBED
from g5kvirt.run.events import Event
from g5kvirt.run.journal import read_events
from g5kvirt.run.tables import Frames
from g5kvirt.run.vocabulary import PHASES
from g5kvirt.testbeds.local import layers, lifecycle
from g5kvirt.testbeds.local import namespaces as ns

pytestmark = [*MARKS, pytest.mark.vm]

NOTEBOOK = "quickstart.ipynb"
VMS = 2
LIMIT = 400.0  # seconds; on a quiet machine it takes less than one


def own_testbed(process: subprocess.Popen[str]) -> str:
    """The testbed of its own that a demonstration raises."""
    return f"{TESTBED}-{process.pid}"


@contextmanager
def demonstration(runs: Path) -> Iterator[subprocess.Popen[str]]:
    """The command at a prompt: a process group of its own, ended with all that is below it."""
    layers.ensure()  # what this takes is not the demonstration's
    process = subprocess.Popen(
        [sys.executable, "-m", "g5kvirt", "demo", "--vms", str(VMS), "--runs", str(runs)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": layers.python_path()},
        process_group=0,
    )
    try:
        yield process
    finally:
        terminate(process)  # it takes the testbed down
        lifecycle.down(own_testbed(process))


def events(runs: Path) -> list[Event]:
    journals = list(runs.glob("*/journal.jsonl"))
    return read_events(journals[0]) if journals else []


def outputs(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [output for cell in notebook["cells"] for output in cell.get("outputs", [])]


def html(output: dict[str, Any]) -> str:
    return "".join(output.get("data", {}).get("text/html", ""))


@pytest.mark.timeout(LIMIT + 200)
def test_the_demonstration(tmp_path: Path) -> None:
    with demonstration(tmp_path) as process:
        said, _ = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, said
        assert nothing_left(own_testbed(process))

    (run,) = tmp_path.iterdir()
    assert str(run / NOTEBOOK) in said
    page = (run / NOTEBOOK).with_suffix(".html")
    assert str(page) in said
    assert "data:image/png;base64," in page.read_text()
    seen = outputs(json.loads((run / NOTEBOOK).read_text()))
    assert [output for output in seen if output["output_type"] == "error"] == []
    for phase in PHASES:
        assert any(f"<b>{phase}: ok in " in html(output) for output in seen), phase
    assert sum("data:image/png;base64," in html(output) for output in seen) == 5

    for figure in ("timeline", "boot", "distribution"):
        file = run / "figures" / figure
        assert file.with_suffix(".pdf").read_bytes().startswith(b"%PDF-")
        assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG\r\n")
        with file.with_suffix(".csv").open(newline="") as table:
            assert len(list(csv.reader(table))) > VMS, figure
        assert str(file.with_suffix(".pdf")) in said

    counts = Frames(read_events(run / "journal.jsonl")).account
    assert (counts.requested, counts.up, counts.failed, counts.unfinished) == (VMS, VMS, 0, 0)


@pytest.mark.timeout(LIMIT + 200)
def test_ctrl_c_amid_the_notebook(tmp_path: Path) -> None:
    with demonstration(tmp_path) as process:
        wait(lambda: process.poll() is not None or any(e.step == "power-on" for e in events(tmp_path)), LIMIT)
        assert process.poll() is None, process.communicate()[0]
        started = {pid: ns.start_time(pid) for pid in below(process.pid)[1:]}
        assert any(started.values()), "the notebook's kernel"
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=90)
        assert process.returncode == 130, said
        assert "Traceback" not in said
        assert nothing_left(own_testbed(process))
    # a child of the kernel ends when it notices that the kernel has gone
    wait(lambda: not any(then and ns.start_time(pid) == then for pid, then in started.items()), 10)
    counts = Frames(events(tmp_path)).account
    assert counts.requested == VMS == counts.up + counts.failed + counts.unfinished
