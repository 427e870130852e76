"""What happened, as events for the journal; and how many VMs are open, deployed, failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from g5kvirt.provisioners.builtin.host_broadcasts import HostBroadcast
from g5kvirt.provisioners.builtin.positions import VMProgress
from g5kvirt.provisioners.events import DeploymentEvents
from g5kvirt.provisioners.outcome import OutcomeState
from g5kvirt.run import event_types
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
        self._add(event_types.deployment_started(self.name, now, self._size, about))
        if not self._size:
            self._add(event_types.deployment_ended(self.name, now, 0, 0))

    def step(self, progress: VMProgress, status: Status, t: float, **more: Any) -> None:
        """A micro-step of a VM is over; waits for a window are no part of its time."""
        step, seconds = progress.position.step.name, t - progress.step_start
        self._add(
            event_types.micro_step(
                self.name, progress.name, step, status, t, progress.attempt, seconds, **more
            )
        )

    def macro(self, progress: VMProgress, status: Status, t: float, reason: str = "") -> None:
        """A macro-step of a VM begins or is over."""
        branch = progress.position.branch
        name, attempt, variant = branch.macro.name, progress.macro_attempt, branch.variant.name
        self._add(event_types.macro_step(self.name, progress.name, name, status, t, attempt, variant, reason))

    def host(self, broadcast: HostBroadcast, status: Status, t: float, reason: str = "") -> None:
        """A broadcast to a host begins or is over."""
        position, host, attempt = broadcast.position, broadcast.host, broadcast.attempt
        variant = position.branch.variant.name
        self._add(
            event_types.host_step(self.name, host, position.step.name, status, t, attempt, variant, reason)
        )

    def end(
        self, progress: VMProgress, state: Literal["deployed", "failed"], t: float, now: float, reason: str
    ) -> None:
        """A VM is done; with the last one, so is the deployment."""
        progress.state, progress.reason = state, reason
        self.counts["open"] -= 1
        self.counts[state] += 1
        failure = {}
        if state == "failed":
            position = progress.position
            failure = {"macro": position.branch.macro.name, "at": position.step.name, "reason": reason}
        self._add(
            event_types.vm_deployment_ended(
                self.name, progress.name, state, t, progress.attempt, progress.last_report, **failure
            )
        )
        if not self.counts["open"]:
            deployed, failed = self.counts["deployed"], self.counts["failed"]
            self._add(event_types.deployment_ended(self.name, now, deployed, failed))
