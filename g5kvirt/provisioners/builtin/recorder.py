"""What happened, as events for the journal; and how many VMs are open, deployed, failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from g5kvirt.provisioners.builtin.hosts import Part
from g5kvirt.provisioners.builtin.positions import State, Track
from g5kvirt.provisioners.events import DeploymentEvents
from g5kvirt.run.events import Event
from g5kvirt.run.vocabulary import Status

__all__ = ["Account"]


class Account(DeploymentEvents):
    """The books of one deployment."""

    def __init__(self, deployment: str, asked: int) -> None:
        super().__init__(deployment)
        self.counts: dict[State, int] = {"open": asked, "deployed": 0, "failed": 0}
        self._asked = asked

    def begin(self, now: float, about: Mapping[str, Any]) -> None:
        """The deployment begins."""
        self._begun(now, self._asked, about)
        if not self._asked:
            self._all_ended(now, 0, 0)

    def step(self, track: Track, status: Status, t: float, **more: Any) -> None:
        """A micro-step of a VM is over; ``seconds``: how long it took, waits for a window left out."""
        detail = {"deployment": self.name, "seconds": round(t - track.t0, 6)}
        if more:
            detail |= more
        name = track.spot.step.name
        self._news.append(Event("measure", name, "vm", track.name, status, t, track.attempt, detail))

    def macro(self, track: Track, status: Status, t: float, reason: str = "") -> None:
        """A macro-step of a VM begins or is over."""
        way = track.spot.way
        detail = {"deployment": self.name, "variant": way.variant.name}
        if reason:
            detail["reason"] = reason
        name, attempt = way.macro.name, track.macro_attempt
        self._news.append(Event("measure", name, "vm", track.name, status, t, attempt, detail))

    def host(self, part: Part, status: Status, t: float, reason: str = "") -> None:
        """A broadcast to a host begins or is over."""
        more = {"variant": part.spot.way.variant.name} | ({"reason": reason} if reason else {})
        self._event(part.spot.step.name, "host", part.name, status, t, part.attempt, more)

    def end(
        self, track: Track, state: Literal["deployed", "failed"], t: float, now: float, reason: str
    ) -> None:
        """A VM is done; with the last one, so is the deployment."""
        track.state, track.reason = state, reason
        self.counts["open"] -= 1
        self.counts[state] += 1
        detail: dict[str, Any] = {"said": track.said}
        if state == "failed":
            spot = track.spot
            detail |= {"macro": spot.way.macro.name, "at": spot.step.name, "reason": reason}
        self._vm_ended(track.name, state, t, track.attempt, detail)
        if not self.counts["open"]:
            self._all_ended(now, self.counts["deployed"], self.counts["failed"])
