"""What a deployment orders from its driver, and the reports that come back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from g5kvirt.inventory import VM
from g5kvirt.provisioners.builtin.workflow import Into, RebootKind

__all__ = [
    "HOST_GONE",
    "VM_GONE",
    "BroadcastOrder",
    "CheckOrder",
    "Order",
    "RebootOrder",
    "Report",
    "Target",
    "TaskOrder",
    "merged",
]


@dataclass(frozen=True, slots=True)
class Target:
    """A VM an order is for. Reports name the same ``attempt`` (and ``turn``, for checks)."""

    vm: VM
    attempt: int
    turn: int = 1


@dataclass(frozen=True, slots=True)
class RebootOrder:
    """Reboot these VMs: ``soft`` through the guest, ``hard`` by power reset, ``relaunch`` with a new process.

    ``into``: where they must come up; their netboot profile is to be switched first. ``relaunch`` keeps
    the disk. Report ``step`` for each VM when its command has returned.
    """

    vms: tuple[Target, ...]
    step: str
    kind: RebootKind
    into: Into


@dataclass(frozen=True, slots=True)
class TaskOrder:
    """Put the task files of these VMs in place; the VMs then report step by step, with their ``attempt``.

    The attempt belongs into the id of the task, and so into every report about it. ``variants``: macro-step →
    variant, so that the task names the right source of the image and the right way to boot. Nothing is
    reported when the files are there; a VM whose file cannot be written is reported as ``failed`` at
    ``step``.
    """

    vms: tuple[Target, ...]
    step: str
    variants: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class BroadcastOrder:
    """Bring the image to these hosts by ``variant``; ``attempt`` is above 1 where it failed before.

    Report each host as ``ok`` when it has the whole image, or as ``failed`` with a reason. VMs may fetch
    earlier.
    """

    hosts: tuple[str, ...]
    step: str
    variant: str
    attempt: int


@dataclass(frozen=True, slots=True)
class CheckOrder:
    """Check once whether these VMs are what ``step`` wants, within its lease; report ``ok`` or ``failed``."""

    vms: tuple[Target, ...]
    step: str


Order = RebootOrder | TaskOrder | BroadcastOrder | CheckOrder


#: The step of a report that a host is gone, and its VMs with it.
HOST_GONE = "host"
#: The step of a report that the process of a VM has ended.
VM_GONE = "vm"


@dataclass(frozen=True, slots=True)
class Report:
    """A VM or a host has ended a step; or a host has failed at `HOST_GONE`, a VM at `VM_GONE`.

    ``t``: seconds since the epoch when it happened, by the same clock as ``now``. ``attempt`` and ``turn``
    are those of the order it answers; None where that is unknown. ``permanent``: it failed, and would fail
    again in every other try and variant.
    """

    subject: str
    step: str
    status: Literal["ok", "failed"]
    t: float
    reason: str = ""
    attempt: int | None = None
    turn: int | None = None
    permanent: bool = False


def merged(orders: Iterable[TaskOrder]) -> list[TaskOrder]:
    """As few orders as there can be; of a VM that was started over meanwhile, only its last task."""
    last = {target.vm.name: (order, target) for order in orders for target in order.vms}
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[tuple[TaskOrder, Target]]] = {}
    for order, target in last.values():
        groups.setdefault((order.step, tuple(order.variants.items())), []).append((order, target))
    return [replace(group[0][0], vms=tuple(target for _, target in group)) for group in groups.values()]
