"""The journal's events of one deployment, whichever provisioner carries it out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from g5kvirt.run.events import Event
from g5kvirt.run.journal import Journal

__all__ = ["PHASE", "DeploymentEvents", "build_progress"]

#: The phase of the journal in which environments are deployed on VMs.
PHASE: Final = "measure"


def build_progress(journal: Journal, run: str) -> Callable[[str], None]:
    """Writes down what is being built here for a deployment, a sentence at a time."""

    def write(what: str) -> None:
        journal.append(PHASE, "build", "run", run, "ok", what=what)

    return write


class DeploymentEvents:
    """Makes the events of the deployment called ``name``, each of which names it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._events: list[Event] = []

    def take(self) -> list[Event]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    def _add(self, event: Event) -> None:
        self._events.append(event)
