"""The loop: orders to the driver, words to the deployment, events to the journal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from g5kvirt.provisioners.builtin.engine import Deployment, Outcome
from g5kvirt.provisioners.builtin.workflow import Order, Word
from g5kvirt.run.events import Event

__all__ = ["Driver", "drive"]


class Driver(Protocol):
    """Does what a deployment orders, and hears what comes of it."""

    def carry_out(self, order: Order) -> None:
        """Start it and return at once; what cannot be done is heard as ``failed``, never raised."""

    def hear(self, timeout: float) -> Iterable[Word]:
        """All words there are; waits for the first one, at most ``timeout`` seconds."""


def drive(
    deployment: Deployment,
    driver: Driver,
    *,
    clock: Callable[[], float],
    write: Callable[[Sequence[Event]], object],
    tick: float = 1.0,
) -> list[Outcome]:
    """Until every VM is deployed or failed; what happens is written as it happens.

    ``tick``: seconds after which the clock is looked at although nothing was heard.
    """
    try:
        while True:
            now = clock()
            for order in deployment.orders(now):
                driver.carry_out(order)
            write(deployment.events())
            if deployment.finished:
                return deployment.outcomes
            wake = deployment.wake()
            wait = tick if wake is None else min(tick, max(0.0, wake - now))
            for word in driver.hear(wait):
                deployment.tell(word, clock())
    finally:
        write(deployment.events())
