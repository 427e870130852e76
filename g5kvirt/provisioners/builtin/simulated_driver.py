"""A deployment in a model instead of on machines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from g5kvirt.broadcast import chain
from g5kvirt.inventory import VM, Host
from g5kvirt.planning.cluster import ClusterState
from g5kvirt.provisioners.builtin.orders import (
    HOST_GONE,
    BroadcastOrder,
    CheckOrder,
    Order,
    RebootOrder,
    Report,
    Target,
    TaskOrder,
)
from g5kvirt.provisioners.transfer import image_servers
from g5kvirt.simulation.calibration import DEPLOYMENT, StepTime, in_order
from g5kvirt.simulation.world import Guest, World

__all__ = ["SimulatedDriver"]

#: Children of each node of TakTuk's tree of connections.
_FANOUT = 10


class SimulatedDriver:
    """A `g5kvirt.provisioners.builtin.loop.Driver` over a `World`; a context manager.

    ``size``: bytes of the image. What it has begun and is not over when it is left, has no effect any more.
    """

    def __init__(self, world: World, cluster: ClusterState, vms: Sequence[VM], size: float) -> None:
        self._world = world
        self._cluster = cluster
        self._size = size
        self._reports: list[Report] = []
        self._over = False
        self._arrived: set[str] = set()  # hosts that have the image
        self._waiting: dict[str, list[Callable[[], None]]] = {}  # host → VMs that fetch it there
        world.add(vms, "minimal")  # unknown ones were launched by another process
        used = list(dict.fromkeys(vm.host for vm in vms))
        for host, seconds in world.lost_hosts(used):
            world.timeline.after(seconds, partial(self._lose, host))

    def __enter__(self) -> SimulatedDriver:
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True

    # ---- the driver's protocol ----------------------------------------------------------------------

    def execute(self, order: Order) -> None:
        """Begin it."""
        match order:
            case RebootOrder():
                for target in order.vms:
                    self._reboot(target, order)
            case TaskOrder():
                for target in order.vms:
                    self._do_task(target)
            case CheckOrder():
                for target in order.vms:
                    self._check(target, order.step)
            case BroadcastOrder():
                self._broadcast(order)

    def receive(self, timeout: float) -> Iterable[Report]:
        """Let time pass until something happens, or for ``timeout`` seconds."""
        self._world.wait_for(self._reports, timeout)
        reports, self._reports = self._reports, []
        return reports

    # ---- orders -------------------------------------------------------------------------------------

    def _guest(self, target: Target) -> Guest:
        return self._world.guests[target.vm.name]

    def _report(self, target: Target, step: str, reason: str = "", *, turn: bool = False) -> None:
        number = target.turn if turn else None
        self._reports.append(
            Report(
                target.vm.name,
                step,
                "failed" if reason else "ok",
                self._world.now(),
                reason,
                target.attempt,
                number,
            )
        )

    def _reboot(self, target: Target, order: RebootOrder) -> None:
        guest = self._guest(target)
        server = self._cluster.layout.server("http", target.vm.site, target.vm.index).host.name
        life = guest.life

        def answered() -> None:
            if guest.life != life or self._over:  # of an attempt that was given up
                return
            self._report(target, order.step)
            if order.into == "disk":
                self._world.enter_environment(guest, lambda: self._report(target, "environment"))
            else:
                self._world.reboot(guest, server, lambda: self._report(target, "minimal-system"))

        self._world.take(target.vm.host, self._world.calibration.reboot, answered)

    def _do_task(self, target: Target) -> None:
        """The VM's own steps; it waits for its host's copy of the image at the one that writes it."""
        guest = self._guest(target)
        if guest.system != "minimal":
            return
        steps = in_order(self._world.calibration.deployment, DEPLOYMENT)
        at = next(number for number, (name, _) in enumerate(steps) if name == "image")
        life = guest.life

        def report(step: str) -> None:
            self._report(target, step)

        def leave() -> None:
            self._world.enter_environment(guest, lambda: report("environment"))

        def write_image() -> None:
            if guest.life == life:
                self._world.steps(guest, steps[at:], report, then=leave)

        self._world.steps(
            guest, steps[:at], report, then=lambda: self._when_arrived(target.vm.host, write_image)
        )

    def _check(self, target: Target, step: str) -> None:
        guest = self._guest(target)

        def answered() -> None:
            ready = guest.system == "environment"
            self._report(target, step, "" if ready else "it does not answer ssh", turn=True)

        self._world.take(target.vm.host, self._world.calibration.check, answered)

    # ---- the image ----------------------------------------------------------------------------------

    def _when_arrived(self, host: str, then: Callable[[], None]) -> None:
        if host in self._arrived:
            then()
        else:
            self._waiting.setdefault(host, []).append(then)

    def _broadcast(self, order: BroadcastOrder) -> None:
        """Each host starts its relay, and has the image when that is done and it has come so far."""
        machines = {host.name: host for host in self._cluster.hosts}
        used = [machines[name] for name in order.hosts if name in machines]
        world = self._world
        begun = world.timeline.now
        heads = image_servers(self._cluster.layout.machines)
        head = next(iter(heads.values())).host
        seconds = self._on_its_way(used, head, order.variant)

        def started(host: Host) -> None:
            arrived = partial(self._arrive, host.name, order)
            if order.variant == "http":
                source = heads[host.site].host if host.site in heads else head
                path = world.path(source.name, host.name)
                world.take(host.name, StepTime(bytes=self._size), arrived, path)
            else:
                world.timeline.at(begun + seconds[host.name], arrived)

        for host in used:
            world.take(host.name, world.calibration.broadcast, partial(started, host))

    def _on_its_way(self, hosts: Sequence[Host], head: Host, variant: str) -> Mapping[str, float]:
        """Host → seconds until all of the image has come to it, if nobody has to be waited for.

        Down the chain it takes one transfer at the rate of the slowest link, those between sites included,
        and a hop for each host before; in the tree each level sends it on when it is complete, to several
        others at once.
        """
        sampled = self._world.sampled  # each host stands for so many, the head for itself
        sites = {host.site for host in hosts} | {head.site}
        rates = [*(host.nic_rate for host in hosts), head.nic_rate * sampled]
        if len(sites) > 1:  # which the image crosses once
            rates += [self._world.uplink(site) for site in sites]
        once = self._size * 8 / min(rates)
        if variant == "tree":
            at_once = min(_FANOUT, round(len(hosts) * sampled))
            return {
                host.name: once * at_once * _level(math.ceil(number * sampled))
                for number, host in enumerate(hosts, 1)
            }
        hop = self._world.calibration.hop * sampled
        return {host.name: once + hop * number for number, host in enumerate(chain.order(hosts), 1)}

    def _arrive(self, host: str, order: BroadcastOrder) -> None:
        if host in self._world.dead:  # others had it past that host
            return
        self._arrived.add(host)
        self._reports.append(Report(host, order.step, "ok", self._world.now(), attempt=order.attempt))
        for then in self._waiting.pop(host, []):
            then()

    def _lose(self, host: str) -> None:
        """A host dies: nothing more comes of its VMs."""
        if self._over:
            return
        self._world.lose(host)
        reason = f"its host {host} is gone"
        self._reports.append(Report(host, HOST_GONE, "failed", self._world.now(), reason))


def _level(number: int) -> int:
    """The level of the ``number``-th node of a tree whose nodes have `_FANOUT` children each."""
    level, room = 1, _FANOUT
    while number > room:
        number -= room
        room *= _FANOUT
        level += 1
    return level
