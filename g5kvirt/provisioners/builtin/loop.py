"""The loop: orders to the driver, reports to the deployment, events to the journal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from g5kvirt.provisioners.builtin.engine import Deployment
from g5kvirt.provisioners.builtin.orders import Order, Report
from g5kvirt.provisioners.outcome import Outcome
from g5kvirt.run.events import Event

__all__ = ["Driver", "drive"]


class Driver(Protocol):
    """Carries out the orders of a deployment and reports their results."""

    def execute(self, order: Order) -> None:
        """Start it and return at once; what cannot be done is reported as ``failed``, never raised."""

    def receive(self, timeout: float) -> Iterable[Report]:
        """All reports there are; waits for the first one, at most ``timeout`` seconds."""


def drive(
    deployment: Deployment,
    driver: Driver,
    *,
    clock: Callable[[], float],
    write: Callable[[Sequence[Event]], object],
    tick: float = 1.0,
) -> list[Outcome]:
    """Until every VM is deployed or failed; what happens is written as it happens.

    ``tick``: seconds after which the clock is looked at although there was no report.
    """
    try:
        while True:
            now = clock()
            for order in deployment.orders(now):
                driver.execute(order)
            write(deployment.events())
            if deployment.finished:
                return deployment.outcomes
            wake = deployment.wake()
            wait = tick if wake is None else min(tick, max(0.0, wake - now))
            for report in driver.receive(wait):
                deployment.receive(report, clock())
    finally:
        write(deployment.events())
