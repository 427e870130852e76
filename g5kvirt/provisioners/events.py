"""The events of one deployment, whichever provisioner carries it out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from g5kvirt.run.events import Event
from g5kvirt.run.vocabulary import Kind, Status

__all__ = ["DeploymentEvents"]


class DeploymentEvents:
    """What happened in the deployment called ``name``: each event names it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._news: list[Event] = []

    def news(self) -> list[Event]:
        """What happened since this was last asked."""
        news, self._news = self._news, []
        return news

    def _begun(self, now: float, asked: int, about: Mapping[str, Any]) -> None:
        self._event("deployment", "run", self.name, "start", now, 1, {**about, "asked": asked})

    def _vm_ended(
        self, vm: str, state: Literal["deployed", "failed"], t: float, attempt: int, detail: Mapping[str, Any]
    ) -> None:
        self._event("deployment", "vm", vm, "ok" if state == "deployed" else "failed", t, attempt, detail)

    def _all_ended(self, now: float, deployed: int, failed: int) -> None:
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
        self._news.append(Event("measure", step, kind, subject, status, t, attempt, detail))
