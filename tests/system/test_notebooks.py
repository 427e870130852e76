"""Every notebook of the project as a batch job runs it: `g5kvirt notebook`, top to bottom, with real VMs.

The quickstart is run by test_demo.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from localbed import MARKS, temporary_testbed

from g5kvirt.run.directory import list_runs
from g5kvirt.run.journal import read_events
from g5kvirt.run.state import RunState
from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local import layers
from g5kvirt.testbeds.local.state import State

pytestmark = [*MARKS, pytest.mark.vm]

SITES = ["-p", "sites", "{'nancy': 1, 'rennes': 1}"]
LIGHT = ["-p", "guest", "light"]
#: notebook: its parameters (as few VMs as make sense: they are emulated), how many runs it makes, and figures
#: that it has to leave.
STORIES = {
    "scalability": (
        [*LIGHT, "-p", "environment", "light", "-p", "vms", "8", "-p", "sizes", "[2, 8]"],
        1,
        {"scalability", "breakdown"},
    ),
    "netboot-http-vs-tftp": ([*LIGHT, "-p", "vms", "4"], 2, {"compare-boot", "compare-steps"}),
    "windows": ([*LIGHT, "-p", "vms", "8", "-p", "windows", "[1, 4]"], 2, {"compare-boot", "windows"}),
    "broadcast": (
        [*LIGHT, "-p", "environment", "light", "-p", "vms", "8"],
        1,
        {"compare-deployment", "compare-macro-steps"},
    ),
    "slides": (
        ["-p", "vms", "8", "-p", "sizes", "[2, 8]", "-p", "services", "1", "-p", "windows", "[(4, 0.5)]"],
        1,
        {"scalability", "breakdown", "map", "nodes", "compare-boot", "compare-deployment"},
    ),
    "own-experiment": ([], 1, {"transfers", "load", "map"}),
    "grid5000": (["-p", "vms", "1", "-p", "sizes", "[1]"], 1, {"timeline", "scalability"}),
}
#: Minutes; the demonstration, test_light and test_variants show most of it as well, tests/newcomer that of
#: own-experiment.
LONG = {"broadcast", "grid5000", "netboot-http-vs-tftp", "own-experiment", "slides", "windows"}
#: What a notebook has to print.
PRINTS = {"own-experiment": "all the same to the byte"}
LIMIT = 900.0  # seconds; emulated guests on a busy machine are slow


@pytest.fixture(scope="module")
def small() -> Iterator[State]:
    """Two sites with one host each, and a service machine."""
    with temporary_testbed("notebooks", make({"nancy": 2, "rennes": 1})) as state:
        yield state


@pytest.mark.timeout(LIMIT + 100)
@pytest.mark.parametrize(
    "notebook", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in STORIES]
)
def test_a_notebook_runs_from_top_to_bottom(notebook: str, small: State, tmp_path: Path) -> None:
    parameters, runs, figures = STORIES[notebook]
    words = [sys.executable, "-m", "g5kvirt", "notebook", notebook, "--testbed", f"local:{small.name}"]
    done = subprocess.run(
        [*words, *SITES, *parameters, "-p", "name", "story", "--runs", str(tmp_path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "PYTHONPATH": layers.python_path()},
    )
    assert done.returncode == 0, done.stdout + done.stderr

    story = tmp_path / "story"
    cells = json.loads((story / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert [output for output in outputs if output["output_type"] == "error"] == []
    assert PRINTS.get(notebook, "") in json.dumps(outputs)
    page = (story / f"{notebook}.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") >= 2, "figures are seen without a kernel"
    assert {path.stem for path in (story / "figures").rglob("*.pdf")} >= figures

    made = [*(run for run in list_runs(tmp_path) if run.name == "story"), *list_runs(story)]
    assert len(made) == runs
    for run in made:
        assert RunState.of(read_events(run.journal)).released, "the machines were given back"
