"""The journal's events of one deployment, the same for every provisioner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from g5kvirt.run.events import Event
from g5kvirt.run.journal import Journal
from g5kvirt.run.vocabulary import Kind, Status

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

    def _start_deployment(self, now: float, size: int, about: Mapping[str, Any]) -> None:
        self._event("deployment", "run", self.name, "start", now, 1, {**about, "asked": size})

    def _end_vm(
        self, vm: str, state: Literal["deployed", "failed"], t: float, attempt: int, detail: Mapping[str, Any]
    ) -> None:
        self._event("deployment", "vm", vm, "ok" if state == "deployed" else "failed", t, attempt, detail)

    def _end_deployment(self, now: float, deployed: int, failed: int) -> None:
        status: Status = "ok" if deployed or not failed else "failed"
        numbers = {"deployed": deployed, "failed": failed}
        self._event("deployment", "run", self.name, status, now, 1, numbers)

    def _event(
        self,
        step: str,
        kind: Kind,
        subject: str,
        status: Status,
        t: float,
        attempt: int,
        detail: Mapping[str, Any],
    ) -> None:
        detail = {"deployment": self.name, **detail}
        self._events.append(Event(PHASE, step, kind, subject, status, t, attempt, detail))
