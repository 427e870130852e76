"""The live view: its picture, its messages to the browser, and both in a real kernel."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from htmlcheck import text_of
from measuremaker import measure_events
from rich.console import Console
from runmaker import T0, run_events

from g5kvirt.run.events import Event
from g5kvirt.run.journal import Journal
from g5kvirt.views import palette
from g5kvirt.views.live import notebook, watch
from g5kvirt.views.live.model import LiveModel
from g5kvirt.views.live.static import describe_cell, picture
from g5kvirt.views.live.widget import RECORD, LiveWidget
from g5kvirt.views.terminal import TerminalProgress

RUN = [*run_events(12, lost=2), *measure_events((6,), 1, bad={"vm-2": ("image", 99, "SHA-256 is wrong")})]


# ---- the picture -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 20, 40, 90, len(RUN)])
def test_picture_shows_state_counts_of_any_prefix(cut: int) -> None:
    model = LiveModel.of(RUN[:cut], 12)
    text = text_of(picture(model, T0 + 500, "run first on local"))
    assert text.startswith("run first on local")
    for state, number in model.counts.items():
        assert f"{palette.STATE_LABELS[state]} {number}" in text
    assert "of 12 VMs" in text


def test_few_vms_have_a_tooltip_each() -> None:
    model = LiveModel.of(RUN, 12)
    html = picture(model, T0 + 500)
    for cell in model.cells.values():
        assert describe_cell(cell, T0 + 500) in html
    words = describe_cell(model.cells["vm-2"], model.cells["vm-2"].since + 75)
    assert words.startswith("vm-2 on paradent-1.rennes.grid5000.fr: failed, at image for 75.0 s")
    assert words.endswith("(SHA-256 is wrong)")


def test_picture_of_thousands_of_vms_is_small() -> None:
    events = run_events(5000, lost=40, hosts=355)
    html = picture(LiveModel.of(events[: len(events) // 2], 5000), events[len(events) // 2].t)
    assert len(html) < 400_000
    assert "paradent-355.rennes.grid5000.fr: " in html, "each host says what is on it"
    text_of(html)


def test_picture_escapes_names_and_reasons() -> None:
    evil = '"><script>alert(1)</script>'
    row = {"name": evil, "host": evil, "site": evil}
    events = [
        Event("place", "plan", "run", "r", "ok", T0, 1, {"vms": [row]}),
        Event("launch", "phase", "run", "r", "start", T0),
        Event("launch", "launch", "vm", evil, "failed", T0, 1, {"at": evil, "reason": evil}),
        Event("launch", "phase", "run", "r", "failed", T0, 1, {"reason": evil}),
    ]
    assert evil in text_of(picture(LiveModel.of(events), T0, evil))


# ---- how often it is updated -------------------------------------------------------------------------


class Updates(notebook._Threaded):
    """Updates that take so many CPU seconds each, and the pauses between them."""

    def __init__(self, *costs: float) -> None:
        self.pauses: list[float] = []
        self._costs = iter(costs)
        self._number = len(costs)
        self._over = self  # type: ignore[assignment]  # the only thing that is waited for

    def refresh(self) -> None:
        end = time.thread_time() + next(self._costs)
        while time.thread_time() < end:
            pass

    def wait(self, timeout: float) -> bool:
        self.pauses.append(timeout)
        return len(self.pauses) == self._number

    def after_all(self) -> list[float]:
        self._watch()
        return self.pauses


def test_opening_the_view_or_one_slow_update_does_not_delay_the_next() -> None:
    assert Updates(0.1, 0, 0, 0.1, 0).after_all() == [notebook.POLL_INTERVAL] * 5


def test_updates_that_are_slow_again_and_again_become_rarer() -> None:
    *_, last = Updates(0, 0.1, 0.1, 0.1, 0.1).after_all()
    assert last >= 0.1 / notebook.CPU_SHARE > notebook.POLL_INTERVAL


# ---- messages to the browser -----------------------------------------------------------------------


class Browser(LiveWidget):
    """A widget whose messages are kept."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self.messages: list[tuple[dict[str, Any], list[bytes]]] = []
        super().__init__(*args, **more)

    def send(self, content: dict[str, Any], buffers: Sequence[bytes] | None = None) -> None:
        self.messages.append((json.loads(json.dumps(content)), [bytes(b) for b in buffers or ()]))


def browse(pieces: int, whole_at: int = -1) -> tuple[LiveModel, Browser, dict[str, Any]]:
    """The widget of a run that came in ``pieces``; with its traits as they were at first, or at one piece."""
    model = LiveModel(12)
    widget = Browser(model, T0, key="k")
    size = len(RUN) // pieces + 1
    traits: dict[str, Any] = {}
    for piece in range(pieces):
        for event in RUN[piece * size : (piece + 1) * size]:
            model.take(event)
        arranged = widget.wall
        widget.renew(T0 + 0.25 * piece)  # too short for another whole picture
        if widget.wall is not arranged or piece == whole_at:
            traits = {
                name: getattr(widget, name)
                for name in ("wall", "cells", "words", "reasons", "states", "clock")
            }
            if widget.wall is not arranged:
                widget.messages.clear()
    return model, widget, traits


def test_messages_to_the_browser_add_up_to_the_model() -> None:
    model, widget, traits = browse(40)
    known: dict[int, tuple[int, int, int, float]] = {}
    words, reasons = list(traits["words"]), dict(traits["reasons"])
    for content, buffers in [({"words": [], "reasons": {}}, [traits["cells"]]), *widget.messages]:
        words += content["words"]
        reasons |= content["reasons"]
        for place, *rest in RECORD.iter_unpack(buffers[0]):
            known[place] = tuple(rest)
    names = traits["wall"]["names"]
    assert len(known) == len(names) == 12
    for place, (state, attempt, step, since) in known.items():
        cell = model.cells[names[place]]
        assert palette.STATES[state] == cell.state
        assert (attempt, words[step]) == (cell.attempt, cell.step)
        assert since == pytest.approx(cell.since - T0, abs=0.01)
        assert reasons.get(str(place), "") == cell.reason
    assert 10 < len(widget.messages) <= 40


def test_full_state_replaces_lost_messages() -> None:
    model, widget, _ = browse(10)
    widget.messages.clear()
    widget.renew(T0 + 60)
    assert widget.messages == []
    states = [palette.STATES[state] for _, state, *_ in RECORD.iter_unpack(widget.cells)]
    assert states == [model.cells[name].state for name in widget.wall["names"]]
    before = widget.cells
    widget.renew(T0 + 120)
    assert widget.cells is before, "nothing is sent while nothing happens"


SCRIPT = """
import { Store, placeAt } from "./wall.mjs";
const { traits, messages } = JSON.parse(await new Response(process.stdin).text());
const bytes = (text) => new DataView(Uint8Array.from(Buffer.from(text, "base64")).buffer);
const on = {};
const model = {
  get: (name) => (name === "cells" ? bytes(traits.cells) : traits[name]),
  on: (names, call) => names.split(" ").forEach((name) => (on[name] = call)),
};
const store = new Store(model);
for (const [content, buffers] of messages) on["msg:custom"](content, buffers.map(bytes));
const { wall } = store;
console.log(JSON.stringify({
  states: [...store.state].map((state) => traits.states[state][0]),
  words: wall.names.map((_, place) => store.explain(place)),
  places: wall.blocks.flatMap((b) => [...Array(b.count).keys()].map((i) =>
    placeAt(wall, b.x + (i % b.columns) * wall.pitch + 1, b.y + Math.floor(i / b.columns) * wall.pitch + 1))),
  nowhere: [placeAt(wall, -5, -5), placeAt(wall, wall.width + 50, 10), placeAt({}, 1, 1)],
}));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_wall_script_describes_each_vm(tmp_path: Path) -> None:
    model, widget, traits = browse(20)
    shutil.copy(Path(notebook.__file__).with_name("wall.js"), tmp_path / "wall.mjs")
    (tmp_path / "look.mjs").write_text(SCRIPT, encoding="utf-8")
    sent = {
        "traits": traits | {"cells": base64.b64encode(traits["cells"]).decode()},
        "messages": [(c, [base64.b64encode(b).decode() for b in bs]) for c, bs in widget.messages],
    }
    node = subprocess.run(
        ["node", "look.mjs"], cwd=tmp_path, input=json.dumps(sent), capture_output=True, text=True, timeout=60
    )
    assert node.returncode == 0, node.stderr
    seen = json.loads(node.stdout)
    cells = [model.cells[name] for name in traits["wall"]["names"]]
    assert seen["states"] == [palette.STATE_LABELS[cell.state] for cell in cells]
    assert seen["places"] == list(range(12))
    assert seen["nowhere"] == [None] * 3
    for cell, words in zip(cells, seen["words"], strict=True):
        lines = words.split("\n")
        assert lines[:2] == [cell.name, cell.host]
        assert f"at {cell.step} for " in lines[2]
        assert lines[3:] == [f"attempt {cell.attempt}"] * (cell.attempt > 1) + [cell.reason] * bool(
            cell.reason
        )


# ---- where it is shown -------------------------------------------------------------------------------


class Growing:
    """A journal that is a list."""

    def __init__(self, events: Sequence[Event] = ()) -> None:
        self.events = list(events)

    def since(self, position: int) -> Sequence[Event]:
        return self.events[position:]


def test_journal_since_returns_new_events(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.jsonl")
    journal.extend(RUN[:7])
    other = Journal.open(tmp_path / "journal.jsonl")
    assert other.since(0) == RUN[:7]
    journal.extend(RUN[7:9])
    assert other.since(7) == journal.since(7) == RUN[7:9], "also what another process wrote"
    assert other.since(9) == []
    journal.close()


def test_script_shows_its_progress_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert notebook.display_mode({}) == "terminal"
    assert notebook.display_mode({"G5KVIRT_VIEW": "static"}) == "static"
    assert notebook.display_mode({"G5KVIRT_VIEW": "none"}) == "none"
    assert notebook.display_mode({"G5KVIRT_VIEW": "nonsense"}) == "terminal"
    journal = Growing(RUN[:3])
    with watch(journal, 12, mode="none"):
        journal.events = list(RUN)
    assert capsys.readouterr() == ("", "")
    journal = Growing(RUN[:3])
    with watch(journal, 12):
        journal.events = list(RUN)
    shown = capsys.readouterr()
    assert shown.out == "", "what a script prints is its own"
    assert "launch done in" in shown.err
    assert TerminalProgress.displayed == 0


def test_command_with_a_display_of_its_own_gets_no_second_one(capsys: pytest.CaptureFixture[str]) -> None:
    journal = Growing(RUN[:3])
    with TerminalProgress(Console(), 12), watch(journal, 12):
        journal.events = list(RUN)
    assert capsys.readouterr() == ("", "")


def test_terminal_display_includes_the_last_events(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    journal = Growing(run_events(12, lost=2)[:30])
    with watch(journal, 12, mode="terminal"):
        journal.events = run_events(12, lost=2)
    assert "launch done in" in capsys.readouterr().err


def test_error_in_a_view_does_not_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def since(self, position: int) -> Sequence[Event]:
            raise OSError("the disk is gone")

    view = watch(Broken(), mode="static")
    view.end()
    view.end()
    assert "the disk is gone" in caplog.text


CELLS = """
import os, signal, sys, threading, time
sys.path[:0] = [{tests!r}, {package!r}]
from runmaker import run_events
from g5kvirt.views.live import watch
from g5kvirt.views.live.widget import LiveWidget

class Growing:
    events = ()
    def since(self, position):
        return self.events[position:]

looks = 0
def counted(self, now, renew=LiveWidget.renew):
    global looks
    looks += 1
    renew(self, now)
LiveWidget.renew = counted

def run(mode, part, stop=False):
    journal = Growing()
    events = run_events(40, lost=3)
    with watch(journal, 40, "run first on local", mode=mode):
        begin = time.monotonic()
        while (done := part(time.monotonic() - begin)) < 1:
            journal.events = events[: int(done * len(events))]
            if stop and done > 0.7:
                break
            time.sleep(0.02)
            assert time.monotonic() - begin < 150
        if stop:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        journal.events = events
---
run(None, lambda seconds: seconds / 0.1)
---
run("static", lambda seconds: seconds)
---
try:
    run("static", lambda seconds: seconds, stop=True)
except KeyboardInterrupt:
    print("stopped")
---
run("widget", lambda seconds: looks / 5)
"""


def test_all_modes_in_a_real_kernel(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    from nbclient import NotebookClient
    from nbconvert import HTMLExporter

    code = CELLS.format(
        tests=str(Path(__file__).parents[2] / "support"), package=str(Path(notebook.__file__).parents[3])
    )
    cells = [nbformat.v4.new_code_cell(part.strip()) for part in code.split("---")]
    book = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(
        book, timeout=200, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    kinds: list[str] = []
    handle = client.handle_comm_msg

    def listen(outs: Any, message: Any, cell: int) -> None:
        kinds.append(f"{message['msg_type']} {message['content']['data'].get('method', '')}".strip())
        handle(outs, message, cell)

    client.handle_comm_msg = listen
    client.execute()
    _, short, static, stopped, live = book.cells
    for cell in (short, static, live):
        html = cell.outputs[0].data["text/html"]
        text = text_of(html)
        assert "minimal system 37" in text
        assert "failed 3" in text
        assert "vm-1 on paradent-1.rennes.grid5000.fr: " in html
    assert len(short.outputs) == len(static.outputs) == 1, "renewed in place"
    assert [output.output_type for output in stopped.outputs] == ["display_data", "stream"]
    assert "of 40 VMs" in stopped.outputs[0].data["text/html"]
    assert live.outputs[1].data == {"text/html": ""}, "the widget went, the picture stayed"
    # all of these came while the cell was running
    assert "comm_msg custom" in kinds
    assert kinds.count("comm_msg update") >= 2
    assert kinds.count("comm_open") == kinds.count("comm_close") > 0
    page, _ = HTMLExporter().from_notebook_node(book)
    assert page.count('aria-label="each VM by state"') == 4
