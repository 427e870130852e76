"""The live view as a widget: what the browser needs to draw the wall and explain it, in few small messages.

Needs anywidget. The traits hold a whole picture, so that a new page or a second view begins with it; between
two whole pictures only VMs that changed are sent, as records of 12 bytes. Messages that were lost, such as
while a page was loaded again, are made good by the next whole picture.
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

#: Of a VM: its place on the wall, state, attempt, step (place in ``words``), seconds since ``begun``.
RECORD = struct.Struct("<IBBHf")

WHOLE = 5.0  #: seconds between two whole pictures while something changes

_NUMBER = {state: number for number, state in enumerate(STATES)}
_HERE = files(__package__)


class LiveWidget(anywidget.AnyWidget):
    """A view of ``model``, which it reads only while it is made and in `renew`."""

    _esm = (_HERE / "wall.js").read_text(encoding="utf-8")
    _css = (_HERE / "wall.css").read_text(encoding="utf-8")

    key = traitlets.Unicode().tag(sync=True)  #: of the static picture that it stands for
    head = traitlets.Unicode().tag(sync=True)  #: HTML of steps and counts
    states: traitlets.List[Any] = traitlets.List().tag(sync=True)  #: (label, colour) of each state
    wall = traitlets.Dict().tag(sync=True)  #: see `Wall`
    cells = traitlets.Bytes().tag(sync=True)  #: a `RECORD` for each VM of the wall
    words: traitlets.List[str] = traitlets.List().tag(sync=True)  #: the steps that records speak of
    reasons = traitlets.Dict().tag(sync=True)  #: place on the wall → why it was last begun anew or given up
    clock = traitlets.Float().tag(sync=True)  #: now, in seconds since ``begun``

    def __init__(self, model: LiveModel, now: float, *, key: str, title: str = "") -> None:
        self._model = model
        self._title = title
        self._steps: dict[str, int] = {}
        self._explained: set[str] = set()
        self._arranged = -1
        self._place: dict[str, int] = {}
        self._names: tuple[str, ...] = ()
        self._begun = now if model.begun is None else model.begun
        self._whole = now
        self._owed = False  # something changed since the last whole picture
        states = [(STATE_LABELS[state], STATE_COLOURS[state]) for state in STATES]
        super().__init__(key=key, states=states, head=head(model, now, title), **self._everything(now))

    def renew(self, now: float) -> None:
        """Send what changed since the last time."""
        if self._arranged != self._model.arranged or (self._owed and now - self._whole >= WHOLE):
            with self.hold_sync():
                self.head = head(self._model, now, self._title)
                for name, value in self._everything(now).items():
                    setattr(self, name, value)
            self._whole, self._owed = now, False
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
            self._owed = True

    def close(self) -> None:
        """Away with it, and with the layout that each widget has."""
        self.layout.close()
        super().close()

    def _everything(self, now: float) -> dict[str, Any]:
        """The traits of a whole picture."""
        model = self._model
        traits: dict[str, Any] = {}
        if self._arranged != model.arranged:
            wall = wall_of(model)
            self._arranged, self._names = model.arranged, wall.names
            self._place = {name: place for place, name in enumerate(wall.names)}
            traits["wall"] = asdict(wall)
        model.changes()  # are in it
        cells = [model.cells[name] for name in self._names]
        traits["cells"] = self._records(cells)
        self._explained.clear()
        traits["reasons"] = self._reasons(cells)
        return traits | {"words": list(self._steps), "clock": now - self._begun}

    def _reasons(self, cells: Iterable[Cell]) -> dict[str, str]:
        """Why these VMs were begun anew or given up; empty where there was a reason and is none any more."""
        said = {}
        for cell in cells:
            place = str(self._place[cell.name])
            if cell.reason:
                self._explained.add(place)
                said[place] = cell.reason
            elif place in self._explained:
                self._explained.remove(place)
                said[place] = ""
        return said

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
