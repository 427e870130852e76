"""Boots in a model instead of on machines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from g5kvirt.inventory import VM
from g5kvirt.netboot.boot_loop import BootReport, PoweredOn, PowerOn
from g5kvirt.netboot.bootlog import Milestone
from g5kvirt.planning.services import ServiceLayout
from g5kvirt.simulation.world import World

__all__ = ["SimulatedBoots"]


class SimulatedBoots:
    """A `g5kvirt.netboot.boot_loop.BootDriver` over a `World`."""

    def __init__(self, world: World, layout: ServiceLayout, vms: Sequence[VM]) -> None:
        self._world = world
        self._layout = layout
        self._reports: list[BootReport] = []
        world.add(vms)

    def power_on(self, orders: Sequence[PowerOn]) -> None:
        """Each begins its boot now; the command's answer is its first milestone."""
        for order in orders:
            guest = self._world.guests[order.vm.name]
            server = self._layout.server("http", order.vm.site, order.vm.index).host.name
            self._world.boot(guest, server, self._milestone(order))

    def _milestone(self, order: PowerOn) -> Callable[[str], None]:
        def reached(step: str) -> None:
            now = self._world.now()
            if step == "power-on":
                self._reports.append(PoweredOn(order.vm.name, order.attempt, now))
            else:
                self._reports.append(Milestone(order.vm.name, step, now))

        return reached

    def stop(self, vms: Sequence[VM]) -> None:
        """What they are doing has no end any more."""
        for vm in vms:
            self._world.guests[vm.name].life += 1

    def receive(self, timeout: float) -> Iterable[BootReport]:
        """Let time pass until something happens, or for ``timeout`` seconds."""
        self._world.wait_for(self._reports, timeout)
        reports, self._reports = self._reports, []
        return reports
