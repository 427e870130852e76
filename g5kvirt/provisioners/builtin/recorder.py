"""What happened, as events for the journal; and how many VMs are open, deployed, failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from g5kvirt.provisioners.builtin.host_broadcasts import HostBroadcast
from g5kvirt.provisioners.builtin.positions import VMProgress
from g5kvirt.provisioners.events import PHASE, DeploymentEvents
from g5kvirt.provisioners.outcome import OutcomeState
from g5kvirt.run.events import Event
from g5kvirt.run.vocabulary import Status

__all__ = ["Recorder"]


class Recorder(DeploymentEvents):
    """Records one deployment of ``size`` VMs."""

    def __init__(self, deployment: str, size: int) -> None:
        super().__init__(deployment)
        self.counts: dict[OutcomeState, int] = {"open": size, "deployed": 0, "failed": 0}
        self._size = size

    def start(self, now: float, about: Mapping[str, Any]) -> None:
        """The deployment begins."""
        self._start_deployment(now, self._size, about)
        if not self._size:
            self._end_deployment(now, 0, 0)

    def step(self, progress: VMProgress, status: Status, t: float, **more: Any) -> None:
        """A micro-step of a VM is over; ``seconds``: how long it took, waits for a window left out."""
        detail = {"deployment": self.name, "seconds": round(t - progress.step_start, 6)}
        if more:
            detail |= more
        name = progress.position.step.name
        self._events.append(Event(PHASE, name, "vm", progress.name, status, t, progress.attempt, detail))

    def macro(self, progress: VMProgress, status: Status, t: float, reason: str = "") -> None:
        """A macro-step of a VM begins or is over."""
        branch = progress.position.branch
        detail = {"deployment": self.name, "variant": branch.variant.name}
        if reason:
            detail["reason"] = reason
        name, attempt = branch.macro.name, progress.macro_attempt
        self._events.append(Event(PHASE, name, "vm", progress.name, status, t, attempt, detail))

    def host(self, broadcast: HostBroadcast, status: Status, t: float, reason: str = "") -> None:
        """A broadcast to a host begins or is over."""
        position = broadcast.position
        more = {"variant": position.branch.variant.name} | ({"reason": reason} if reason else {})
        self._event(position.step.name, "host", broadcast.host, status, t, broadcast.attempt, more)

    def end(
        self, progress: VMProgress, state: Literal["deployed", "failed"], t: float, now: float, reason: str
    ) -> None:
        """A VM is done; with the last one, so is the deployment."""
        progress.state, progress.reason = state, reason
        self.counts["open"] -= 1
        self.counts[state] += 1
        detail: dict[str, Any] = {"said": progress.last_report}
        if state == "failed":
            position = progress.position
            detail |= {"macro": position.branch.macro.name, "at": position.step.name, "reason": reason}
        self._end_vm(progress.name, state, t, progress.attempt, detail)
        if not self.counts["open"]:
            self._end_deployment(now, self.counts["deployed"], self.counts["failed"])
