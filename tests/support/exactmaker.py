"""Journals in which every step takes exactly a second: what tables and cards show is known beforehand."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any

from g5kvirt.inventory import GIB, VM, Host, SubNetwork
from g5kvirt.planning.placement import place
from g5kvirt.planning.windows import SlotWindow
from g5kvirt.provisioners.builtin.engine import Deployment
from g5kvirt.provisioners.builtin.orders import BroadcastOrder, CheckOrder, RebootOrder, Report, TaskOrder
from g5kvirt.provisioners.builtin.workflow import default_workflow
from g5kvirt.run.events import Event
from g5kvirt.run.vocabulary import BOOT_STEPS

#: The steps of a guest in a deployment.
GUEST = ("partition", "format", "image", "postinstall", "bootloader", "sync", "boot")


def phase(name: str, t: float, status: Any = "start", **detail: Any) -> Event:
    """The start or the end of a call of a phase: only the kind ``run`` counts as one."""
    event = Event(name, "phase", "run", "r", status, t, detail=detail)
    assert event.is_phase
    return event


def plan(vms: int = 3) -> Event:
    """The placement of so many VMs on two hosts in nancy."""
    hosts = [Host(f"h-{i}.nancy.grid5000.fr", "nancy", "h", 4, 8 * GIB) for i in (1, 2)]
    placement = place(vms, hosts, [8, 8], [SubNetwork("nancy", IPv4Network("10.144.0.0/22"))])
    return Event("place", "plan", "run", "r", "ok", 10.0, detail={"vms": placement.to_plain()})


def vm(name: str, step: str, t: float, status: Any = "ok", attempt: int = 1, **detail: Any) -> Event:
    """An event of a VM in `launch`."""
    return Event("launch", step, "vm", name, status, t, attempt, detail)


def boot(
    name: str, begin: float, attempt: int = 1, upto: int = len(BOOT_STEPS), every: float = 1.0
) -> list[Event]:
    """Power-on at ``begin``, then a milestone ``every`` so many seconds."""
    seen = [vm(name, step, begin + i * every, attempt=attempt) for i, step in enumerate(BOOT_STEPS[:upto])]
    return [vm(name, BOOT_STEPS[0], begin - 0.5, "start", attempt), *seen]


def deploy(
    name: str = "d1",
    number: int = 2,
    begin: float = 1000.0,
    *,
    bad_images: dict[str, int] | None = None,
    upto: float = 1e9,
    **about: Any,
) -> list[Event]:
    """The events of a deployment in which each order and each step of the guest takes a second.

    ``bad_images``: VM → how many times its image is wrong.
    """
    bad = dict(bad_images or {})
    vms = [
        VM(i, f"vm-{i}", f"h-{i}", "nancy", IPv4Address(i), f"52:54:00:00:00:{i:02x}")
        for i in range(1, number + 1)
    ]
    d = Deployment(name, vms, default_workflow(), reboots=SlotWindow(99), checks=SlotWindow(99), about=about)
    now, reports = begin, list[tuple[float, Report]]()
    while not d.finished and now < upto:
        for order in d.orders(now):
            if isinstance(order, BroadcastOrder):
                reports += [(now + 1, Report(h, order.step, "ok", now + 1)) for h in order.hosts]
                continue
            for target in order.vms:
                vm, attempt = target.vm.name, target.attempt
                if isinstance(order, RebootOrder | CheckOrder):
                    reports.append((now + 1, Report(vm, order.step, "ok", now + 1, "", attempt)))
                if isinstance(order, RebootOrder):
                    reports.append((now + 2, Report(vm, "minimal-system", "ok", now + 2)))
                if isinstance(order, TaskOrder):
                    for after, step in enumerate(GUEST, 1):
                        if step == "image" and bad.get(vm, 0) > 0:
                            bad[vm] -= 1
                            reports.append(
                                (now + after, Report(vm, step, "failed", now + after, "sha256", attempt))
                            )
                            break
                        reports.append((now + after, Report(vm, step, "ok", now + after, "", attempt)))
        now += 1
        for _, word in sorted((s for s in reports if s[0] <= now), key=lambda s: s[0]):
            d.receive(word, now)
        reports = [s for s in reports if s[0] > now]
    return d.events()
