"""The live view as a widget: what the browser needs to draw the wall and its tooltips, in few small messages.

Needs anywidget. The traits hold the full state, with which a new page or a second view starts; between two
full states only VMs that changed are sent, as records of 12 bytes. The next full state makes up for messages
that were lost, for example while the page was reloaded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import asdict
from importlib.resources import files
from typing import Any

import anywidget
import traitlets

from g5kvirt.views.live.model import Cell, LiveModel
from g5kvirt.views.live.static import head, wall_of
from g5kvirt.views.palette import STATE_COLOURS, STATE_LABELS, STATES

__all__ = ["RECORD", "LiveWidget"]

#: One VM: its index on the wall, state, attempt, step (index in ``words``), seconds since the run began.
RECORD = struct.Struct("<IBBHf")

FULL_INTERVAL = 5.0  #: seconds between two full states while something changes

_NUMBER = {state: number for number, state in enumerate(STATES)}
_HERE = files(__package__)


class LiveWidget(anywidget.AnyWidget):
    """A view of ``model``, which is read only by the constructor and `renew`."""

    _esm = (_HERE / "wall.js").read_text(encoding="utf-8")
    _css = (_HERE / "wall.css").read_text(encoding="utf-8")

    key = traitlets.Unicode().tag(sync=True)  #: of the static picture that it replaces
    head = traitlets.Unicode().tag(sync=True)  #: HTML of steps and counts
    states: traitlets.List[Any] = traitlets.List().tag(sync=True)  #: (label, colour) of each state
    wall = traitlets.Dict().tag(sync=True)  #: see `Wall`
    cells = traitlets.Bytes().tag(sync=True)  #: a `RECORD` for each VM of the wall
    words: traitlets.List[str] = traitlets.List().tag(sync=True)  #: the names of the steps in records
    reasons = traitlets.Dict().tag(
        sync=True
    )  #: index on the wall → why the VM was last restarted or given up
    clock = traitlets.Float().tag(sync=True)  #: now, in seconds since the run began

    def __init__(self, model: LiveModel, now: float, *, key: str, title: str = "") -> None:
        self._model = model
        self._title = title
        self._steps: dict[str, int] = {}
        self._explained: set[str] = set()
        self._layout_version = -1
        self._place: dict[str, int] = {}
        self._names: tuple[str, ...] = ()
        self._begun = now if model.begun is None else model.begun
        self._last_full = now
        self._pending = False  # something changed since the last full state
        states = [(STATE_LABELS[state], STATE_COLOURS[state]) for state in STATES]
        super().__init__(key=key, states=states, head=head(model, now, title), **self._full_state(now))

    def renew(self, now: float) -> None:
        """Send the changes since the last call."""
        if self._layout_version != self._model.layout_version or (
            self._pending and now - self._last_full >= FULL_INTERVAL
        ):
            with self.hold_sync():
                self.head = head(self._model, now, self._title)
                for name, value in self._full_state(now).items():
                    setattr(self, name, value)
            self._last_full, self._pending = now, False
            return
        self.head = head(self._model, now, self._title)
        changed = self._model.changes()
        if changed:
            known = len(self._steps)
            records = self._records(changed)
            self.send(
                {
                    "clock": now - self._begun,
                    "words": list(self._steps)[known:],
                    "reasons": self._reasons(changed),
                },
                buffers=[records],
            )
            self._pending = True

    def close(self) -> None:
        """Close the widget and its layout."""
        self.layout.close()
        super().close()

    def _full_state(self, now: float) -> dict[str, Any]:
        """The traits with the full state."""
        model = self._model
        traits: dict[str, Any] = {}
        if self._layout_version != model.layout_version:
            wall = wall_of(model)
            self._layout_version, self._names = model.layout_version, wall.names
            self._place = {name: place for place, name in enumerate(wall.names)}
            traits["wall"] = asdict(wall)
        model.changes()  # included below
        cells = [model.cells[name] for name in self._names]
        traits["cells"] = self._records(cells)
        self._explained.clear()
        traits["reasons"] = self._reasons(cells)
        return traits | {"words": list(self._steps), "clock": now - self._begun}

    def _reasons(self, cells: Iterable[Cell]) -> dict[str, str]:
        """Why these VMs were restarted or given up; empty for a VM whose reason no longer applies."""
        reasons = {}
        for cell in cells:
            place = str(self._place[cell.name])
            if cell.reason:
                self._explained.add(place)
                reasons[place] = cell.reason
            elif place in self._explained:
                self._explained.remove(place)
                reasons[place] = ""
        return reasons

    def _records(self, cells: Iterable[Cell]) -> bytes:
        place, steps, pack = self._place, self._steps, RECORD.pack
        return b"".join(
            pack(
                place[cell.name],
                _NUMBER[cell.state],
                min(cell.attempt, 255),
                steps.setdefault(cell.step, len(steps)),
                cell.since - self._begun,
            )
            for cell in cells
        )
