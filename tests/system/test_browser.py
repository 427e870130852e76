"""The quickstart in JupyterLab, in a real browser, as a person goes through it: run it cell by cell, look at
the live view, interrupt a step, restart the kernel, open the run again, go on to the end.

Pictures of the page are kept in the directory that the environment variable G5KVIRT_ARTEFACTS names, by
default below pytest's own. Where a browser cannot be had this is skipped, unless G5KVIRT_REQUIRE names it.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import papermill
import pytest
from browser import PATIENCE, Chromium, Notebook, Server, chromium, jupyter, opened
from localbed import MARKS, below, command_line, temporary_testbed, wait

from g5kvirt.errors import MachineError
from g5kvirt.run.events import Event
from g5kvirt.run.journal import read_events
from g5kvirt.run.state import RunState
from g5kvirt.run.tables import account
from g5kvirt.run.vocabulary import PHASES, REBOOTING, WRITING
from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local import namespaces as ns
from g5kvirt.testbeds.local.state import State
from g5kvirt.views.live.model import Cell, LiveModel
from g5kvirt.views.live.static import wall_of
from g5kvirt.views.palette import STATE_COLOURS, STATE_LABELS

pytestmark = [*MARKS, pytest.mark.vm]

QUICKSTART = Path(__file__).parents[2] / "notebooks" / "quickstart.ipynb"
VMS = 2
RUN = "seen"
LIMIT = 400.0  # seconds for one step; emulated guests on a busy machine are slow

CANVAS = ".g5kvirt-live canvas"
PICTURE = "[data-g5kvirt-picture]"
ERRORS = '[data-mime-type="application/vnd.jupyter.stderr"]'  # and tracebacks

INTERRUPTED = (
    "KeyboardInterrupt: launch() was interrupted and cleaned up: call it again to continue, or release() to"
    " release the machines"
)

#: Notes the colours of the wall at some points, whenever they are new: one row of pixels each time.
WATCH = """points => {
    window.walls = [];
    setInterval(() => {
        const canvas = document.querySelector('.g5kvirt-live canvas');
        if (!canvas || canvas.hidden) return;
        const pen = canvas.getContext('2d');
        const scale = canvas.width / points.width;
        const row = points.at.map(([x, y]) => [...pen.getImageData(x * scale, y * scale, 1, 1).data]);
        if (JSON.stringify(row) !== JSON.stringify(window.walls.at(-1))) window.walls.push(row);
    }, 100);
}"""


class Wall:
    """Where each VM of a run is on the wall of its live view, and all that could be seen there since."""

    def __init__(self, notebook: Notebook, model: LiveModel) -> None:
        wall = wall_of(model)
        self.page = notebook.page
        self.names = wall.names
        self.width = wall.width
        self.middles = [(x + wall.size / 2, y + wall.size / 2) for x, y in wall.corners()]
        self.page.evaluate(WATCH, {"width": self.width, "at": self.middles})

    def seen(self) -> list[list[str]]:
        """The states of the VMs, in the wall's order, each time that one was new."""
        return [[state_of(*pixel) for pixel in row] for row in self.page.evaluate("window.walls")]

    def shows(self, model: LiveModel) -> bool:
        """Is what was last seen the truth?"""
        return self.seen()[-1:] == [[model.cells[name].state for name in self.names]]

    def changes(self, since: int) -> None:
        """Wait until more than ``since`` of `seen` are there."""
        self.page.wait_for_function("since => walls.length > since", arg=since)

    def point_at(self, name: str) -> None:
        """The mouse on the cell of a VM."""
        x, y = self.middles[self.names.index(name)]
        canvas = self.page.locator(CANVAS)
        scale = canvas.evaluate("canvas => canvas.clientWidth") / self.width
        canvas.hover(position={"x": x * scale, "y": y * scale})


def state_of(red: int, green: int, blue: int, alpha: int) -> str:
    """The state whose colour a pixel has; "" for none."""
    for state, text in STATE_COLOURS.items():
        colour = bytes.fromhex(text.removeprefix("#"))
        if alpha and all(abs(a - b) <= 3 for a, b in zip(colour, (red, green, blue), strict=True)):
            return state
    return ""


# ---- what is needed -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def program() -> Chromium:
    """A browser, or the reason why there is none."""
    if "browser" in os.environ.get("G5KVIRT_REQUIRE", ""):
        return chromium()
    pytest.importorskip("playwright", reason="playwright is missing: pip install -e '.[dev]'")
    try:
        return chromium()
    except MachineError as error:
        pytest.skip(str(error))


@pytest.fixture
def grid() -> Iterator[State]:
    """Two sites with one host each, and a service machine."""
    with temporary_testbed("browser", make({"nancy": 2, "rennes": 1})) as state:
        yield state


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where pictures are kept; those of an earlier time are gone."""
    folder = Path(os.environ.get("G5KVIRT_ARTEFACTS") or tmp_path / "artefacts").absolute() / "browser"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    return folder


@pytest.fixture
def server(tmp_path: Path, pictures: Path) -> Iterator[Server]:
    """JupyterLab over a directory ``work``; nothing of it stays."""
    work = tmp_path / "work"
    work.mkdir()
    with jupyter(work, tmp_path / "home", pictures / "jupyterlab.log") as server:
        yield server


@contextmanager
def frozen(grid: State) -> Iterator[None]:
    """The VMs stand still, so that a step that waits for them lasts as long as is wanted."""
    guests = [pid for pid in below(grid.pid) if re.match(r"qemu-system\S* -name vm-", command_line(pid))]
    assert len(guests) == VMS
    try:
        for pid in guests:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in guests:
            os.kill(pid, signal.SIGCONT)


# ---- what a person does and sees -----------------------------------------------------------------------


def run_well(notebook: Notebook, cell: str) -> None:
    """Run a cell, which has to end without an error."""
    notebook.run(cell, LIMIT)
    assert "Traceback" not in "".join(notebook.output(cell).locator(ERRORS).all_inner_texts())


def look_at(notebook: Notebook, cell: str, wall: Wall, known: Callable[[], Cell]) -> None:
    """Point at a VM in the live view of a cell; what explains it is right, goes on, and can be read."""
    notebook.show(cell)
    wall.point_at(known().name)
    tip = notebook.page.locator(".g5kvirt-tip")
    tip.wait_for()

    def right() -> bool:
        vm, words = known(), tip.inner_text().split("\n")
        then = rf"{STATE_LABELS[vm.state]}, at {vm.step} for ([\d.]+|\d+ min \d\d) s"
        return words[:2] == [vm.name, vm.host] and bool(re.fullmatch(then, words[2]))

    wait(right, PATIENCE)  # the view is a moment behind the journal
    said = tip.inner_text()
    notebook.page.wait_for_function(
        "said => document.querySelector('.g5kvirt-tip').innerText !== said", arg=said
    )
    box, edge = tip.bounding_box(), notebook.output(cell).bounding_box()
    assert box is not None
    assert edge is not None
    assert edge["y"] <= box["y"] <= edge["y"] + edge["height"] - box["height"]


def assert_picture_stays(notebook: Notebook, cell: str) -> None:
    """The live view of a cell has gone, and its picture is seen."""
    notebook.page.locator(CANVAS).wait_for(state="detached")
    notebook.output(cell).locator(PICTURE).wait_for()


def outputs(notebook: Path) -> dict[str, list[dict[str, Any]]]:
    """The outputs of each cell, as they are saved; none of them while the server is writing the file."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except json.JSONDecodeError:
        return {}
    return {cell["id"]: cell.get("outputs", []) for cell in cells}


def powered_on(events: Sequence[Event]) -> list[tuple[str, float]]:
    """Which VM was powered on, and when, each time that this was found out."""
    return [(event.subject, event.t) for event in events if (event.step, event.status) == ("power-on", "ok")]


# ---- the story ----------------------------------------------------------------------------------------


@pytest.mark.timeout(1500)  # the first time with the download of a browser
def test_a_person_goes_through_the_quickstart(
    program: Chromium, grid: State, server: Server, pictures: Path, tmp_path: Path
) -> None:
    file = tmp_path / "work" / QUICKSTART.name
    asked = {"testbed": f"local:{grid.name}", "sites": {"nancy": 1, "rennes": 1}, "vms": VMS, "name": RUN}
    book = papermill.execute_notebook(QUICKSTART, file, asked, prepare_only=True, progress_bar=False)
    code = {cell.id: cell.source for cell in book.cells if cell.cell_type == "code"}
    launch = next(name for name, source in code.items() if "exp.launch(" in source)
    measure = next(name for name, source in code.items() if "exp.measure(" in source)
    names = list(code)
    before, after = names[: names.index(launch)], names[names.index(measure) + 1 :]
    journal = tmp_path / "work" / "runs" / RUN / "journal.jsonl"

    def model() -> LiveModel:
        return LiveModel.of(read_events(journal), VMS)

    with opened(program, server, file.name, [cell.id for cell in book.cells], pictures) as notebook:
        for name in before:
            run_well(notebook, name)
        notebook.shot("placed")

        wall = Wall(notebook, model())
        notebook.start(launch)
        wait(lambda: len(powered_on(read_events(journal))) == VMS, LIMIT)
        with frozen(grid):
            wait(lambda: wall.shows(model()), PATIENCE)
            assert notebook.output(launch).locator(PICTURE).is_hidden(), "the live view stands for it"
            look_at(notebook, launch, wall, lambda: model().cells[wall.names[-1]])
            notebook.shot("launch")
            notebook.interrupt()
            notebook.finish(launch)
        traces = notebook.output(launch).locator(ERRORS).all_inner_texts()
        shown = [trace.splitlines() for trace in traces if "KeyboardInterrupt" in trace]
        assert [lines[0] for lines in shown] == [INTERRUPTED]
        assert all(len(lines) < 4 for lines in shown), "no frames of ours"
        assert_picture_stays(notebook, launch)
        notebook.shot("interrupted", launch)
        last = read_events(journal)[-1]
        assert (last.phase, last.step, last.status) == ("launch", "phase", "failed")
        assert last.detail["reason"] == "interrupted"

        notebook.restart()
        notebook.insert(
            before[-1], "again", f'from g5kvirt import Experiment\n\nexp = Experiment.open("runs/{RUN}")\nexp'
        )
        run_well(notebook, "again")
        assert "interrupted" in notebook.output("again").inner_text()
        notebook.shot("opened-again", "again")
        run_well(notebook, launch)
        assert_picture_stays(notebook, launch)
        notebook.shot("launched", launch)

        since = len(wall.seen())
        notebook.start(measure)
        wall.changes(since)
        notebook.shot("measure", measure)
        notebook.finish(measure, LIMIT)
        assert_picture_stays(notebook, measure)
        notebook.shot("measured", measure)
        for name in after:
            run_well(notebook, name)
            notebook.shot(name, name)

        seen = wall.seen()
        assert not any("" in row for row in seen), "each cell always has the colour of a state"
        assert {WRITING, REBOOTING} & {state for row in seen for state in row}
        assert notebook.errors == []
        notebook.save()
        wait(lambda: outputs(file).get(names[-1]), PATIENCE)
        kernel = {pid: ns.start_time(pid) for pid in below(server.pid)[1:]}
        assert any(kernel.values())
        notebook.shut_down()
        wait(lambda: server.get("kernels") == [], PATIENCE)
        wait(lambda: not any(then and ns.start_time(pid) == then for pid, then in kernel.items()), PATIENCE)

    saved = outputs(file)
    assert not any(output["output_type"] == "error" for cell in saved.values() for output in cell)
    for name in (launch, measure):
        assert "data-g5kvirt-picture" in json.dumps(saved[name]), (
            "the saved notebook shows it without a kernel"
        )
    told = read_events(journal)
    state = RunState.of(told)
    assert state.released
    assert all(state.done(phase) for phase in PHASES)
    on = powered_on(told)
    assert set(on[:VMS]) == set(on[VMS : 2 * VMS]), "the second launch went on with the same boots"
    begun = Counter(event.phase for event in told if (event.step, event.status) == ("phase", "start"))
    assert begun == {**dict.fromkeys(PHASES, 1), "launch": 2}, "what was done is not done again"
    counts = account(state)
    assert (counts.requested, counts.up, counts.failed, counts.unfinished) == (VMS, VMS, 0, 0)
