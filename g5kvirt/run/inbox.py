"""Events for the journal of a run in which another process works, which alone may write it.

They wait in ``inbox/`` of the run's directory until that process, or the next one, takes them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from g5kvirt.errors import RunError
from g5kvirt.run.events import Event
from g5kvirt.run.journal import Journal

__all__ = ["deliver", "record", "take", "waiting"]

_FOLDER = "inbox"


def deliver(run: Path, event: Event) -> None:
    """Leave an event for whoever writes the journal of the run in ``run``. Raises RunError."""
    folder = run / _FOLDER
    name = f"{time.time_ns()}-{os.getpid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / f".{name}").write_text(event.to_json() + "\n", encoding="utf-8")
        (folder / f".{name}").replace(folder / f"{name}.json")  # whole, or not at all
    except OSError as error:
        raise RunError(f"{folder} cannot be written ({error.strerror}): make room there") from error


def record(run: Path, journal: Journal, event: Event) -> None:
    """Write an event into the journal, or leave it for the other process that works on the run.

    Raises RunError if it can be neither written nor left.
    """
    try:
        journal.extend([event])
    except RunError:  # a step is under way in another process, which takes it from there
        deliver(run, event)


def take(run: Path, journal: Journal) -> int:
    """Write the events that wait into the journal, which this process holds; returns how many there were.

    Should it end between the two, an event comes twice: only those whose repetition changes nothing belong
    here. What cannot be read as an event stays where it is. Raises RunError if the journal cannot be written.
    """
    number = 0
    for path, event in _waiting(run):
        journal.extend([event])
        path.unlink(missing_ok=True)
        number += 1
    return number


def waiting(run: Path) -> list[Event]:
    """The events that nobody has taken yet, in their order."""
    return [event for _, event in _waiting(run)]


def _waiting(run: Path) -> Iterator[tuple[Path, Event]]:
    for path in sorted((run / _FOLDER).glob("[0-9]*.json")):
        try:
            yield path, Event.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError):
            continue
