"""The outcome of each VM of a deployment, the same for every provisioner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from g5kvirt.inventory import VM

__all__ = ["Outcome", "OutcomeState"]

#: Of a VM in a deployment: ``open`` until it is ``deployed`` or ``failed``.
OutcomeState = Literal["open", "deployed", "failed"]


@dataclass(frozen=True)
class Outcome:
    """The outcome of one VM: ``deployed``, or ``failed`` at a named step."""

    vm: VM
    state: OutcomeState
    macro: str  #: where it is, or ended
    step: str
    attempt: int
    reason: str  #: why it failed; "" otherwise
    last_report: str  #: what it reported last
