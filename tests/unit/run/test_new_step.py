"""A step that is added to the vocabulary, and to nothing else, is in every table, figure and live view."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

#: Adds the step before anything else is imported, as an edit of the one file would.
PROGRAM = """
import json, sys
sys.path[:0] = sys.argv[1:]
from g5kvirt.run import vocabulary
vocabulary.BOOT_STEPS = (*vocabulary.BOOT_STEPS[:4], "firmware-check", *vocabulary.BOOT_STEPS[4:])
from runmaker import T0, run_events
from g5kvirt.run.events import Event
from g5kvirt.run.tables import Frames
from g5kvirt.views.figures import Figures
from g5kvirt.views.live.model import LiveModel
from g5kvirt.views.trace import trace_events
events = []
for event in run_events(3):
    events.append(event)
    if (event.step, event.kind) == ("kernel", "vm"):
        events.append(Event("launch", "firmware-check", "vm", event.subject, "ok", event.t + 0.1))
cut = next(n for n, e in enumerate(events) if e.step == "firmware-check") + 1
frames, live = Frames(events), LiveModel.of(events[:cut], 3)
figures = Figures(frames, run="r", testbed="t")
print(json.dumps({
    "column": int(frames.vms["t_firmware_check"].notna().sum()),
    "steps": list(dict.fromkeys(figures.steps().data["step"])),
    "legend": "firmware_check" in figures.boot().data,
    "counts": sum(live.counts.values()),
    "states": sorted({cell.state for cell in live.cells.values()} - {"planned"}),
    "slices": sum(e["name"] == "firmware-check" for e in trace_events(events)),
}))
"""


def test_a_new_step_of_a_boot_is_one_line_in_the_vocabulary() -> None:
    support = Path(__file__).parents[2] / "support"
    words = [sys.executable, "-c", PROGRAM, str(support), *sys.path]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["steps"] == ["dhcp", "script", "kernel", "firmware-check", "initrd", "minimal-system"]
    assert (found["column"], found["legend"], found["slices"], found["counts"]) == (3, True, 3, 3)
    assert "kernel" in found["states"], "shown as the last step that has a state of its own"
