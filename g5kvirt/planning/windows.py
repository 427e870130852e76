"""The order in which VMs start, how many start at once, and how long to wait for one.

Windows are pure decisions: from the time and the number of VMs in flight they compute how many more may
start now.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from g5kvirt.inventory import VM, Facts
from g5kvirt.planning.ranks import rank_within
from g5kvirt.spec.spec import Windows

__all__ = [
    "Decision",
    "Label",
    "RateWindow",
    "SlotWindow",
    "Window",
    "boot_timeout",
    "boot_window",
    "by_host",
    "check_window",
    "check_window_size",
    "default_window_size",
    "interleave",
    "interleaved_order",
    "reboot_window",
]

Ints = NDArray[np.int64]

#: VMs in flight per core, by the label of the guests (`g5kvirt.guests.base.Guest.label`): 8 emulated guests
#: saturate 2 cores, and with 64 at once the first waits for the last (measured); with KVM a boot mostly
#: waits.
VMS_PER_CORE = {"tcg": 4, "kvm": 16, "light": 2500}

#: CPU seconds from power-on to the minimal system (measured under emulation: 2.3 with a small kernel, 6.8
#: with that of Debian; a light guest: 0.03).
CPU_SECONDS = {"tcg": 7.0, "kvm": 1.5, "light": 0.03}

#: Parallel checks of deployed VMs: the minimum, and the maximum through a jump host.
MIN_CHECKS = 8

#: Parallel checks per core of the checking machine: a check costs two connections of 15 ms CPU time
#: (measured) and takes some twenty network round trips.
CHECKS_PER_CORE = 4

#: The same where hosts check their own VMs, per core of theirs: one costs 2 ms of a core for the login and up
#: to 15 ms in the VM, and waits 0.1 s for the network (measured).
HOST_CHECKS_PER_CORE = 16

#: Seconds allowed for every boot independent of load: DHCP retries, a slow link.
BASE_SECONDS = 60.0

#: How many times slower than measured a shared machine may be.
SLOWDOWN = 5.0


def interleaved_order(host_of: Ints, site_of: Ints) -> Ints:
    """Positions in an order that alternates sites, then hosts of a site, then VMs of a host.

    Host by host, a window would saturate the link and cores of one host while the others idle.
    """
    if len(host_of) == 0:
        return np.empty(0, np.int64)
    _, first, host = np.unique(host_of, return_index=True, return_inverse=True)
    site_of_host = site_of[first]
    rank_of_host = rank_within(site_of_host, np.argsort(first, kind="stable"))
    rank_of_vm = rank_within(host_of)
    order: Ints = np.lexsort((site_of, rank_of_host[host], rank_of_vm))
    return order


def interleave(vms: Sequence[VM]) -> list[VM]:
    """The VMs in start order."""
    host_of, site_of = _places(vms)
    return [vms[i] for i in interleaved_order(host_of, site_of).tolist()]


def by_host(vms: Sequence[VM]) -> list[VM]:
    """The VMs in an order that alternates sites, all VMs of a host in a row: one request for each host."""
    host_of, site_of = _places(vms)
    if not vms:
        return []
    _, first, host = np.unique(host_of, return_index=True, return_inverse=True)
    rank_of_host = rank_within(site_of[first], np.argsort(first, kind="stable"))
    order = np.lexsort((np.arange(len(vms)), site_of, rank_of_host[host]))
    return [vms[i] for i in order.tolist()]


def _places(vms: Sequence[VM]) -> tuple[Ints, Ints]:
    """The number of each VM's host and of its site."""
    hosts: dict[str, int] = {}
    sites: dict[str, int] = {}
    host_of = np.fromiter((hosts.setdefault(v.host, len(hosts)) for v in vms), np.int64, len(vms))
    site_of = np.fromiter((sites.setdefault(v.site, len(sites)) for v in vms), np.int64, len(vms))
    return host_of, site_of


@dataclass(frozen=True)
class Decision:
    """Start ``start`` VMs now; decide again when a VM comes up or fails, at the latest at ``wake_at``."""

    start: int
    wake_at: float | None = None


class Window(Protocol):
    """Limits how many VMs may start now."""

    def decide(self, now: float, *, waiting: int, in_flight: int, last: float | None) -> Decision:
        """Decide with ``waiting`` VMs not started and ``in_flight`` VMs started but not up.

        ``last``: when the commands of the last batch returned (None: no batch yet).
        """


@dataclass(frozen=True)
class SlotWindow:
    """At most ``size`` VMs in flight: a slot is occupied until its VM is up or given up."""

    size: int

    def decide(self, now: float, *, waiting: int, in_flight: int, last: float | None) -> Decision:
        """See `Window.decide`."""
        return Decision(max(0, min(waiting, self.size - in_flight)))


@dataclass(frozen=True)
class RateWindow:
    """``size`` VMs every ``sleep`` seconds, whether up or not: the reboot window of Kadeploy3.

    The slots of a batch are free again when its commands have returned and the sleep is over, so the
    window limits a rate, not a load.
    """

    size: int
    sleep: float

    def decide(self, now: float, *, waiting: int, in_flight: int, last: float | None) -> Decision:
        """See `Window.decide`."""
        open_at = now if last is None else last + self.sleep
        if now < open_at:
            return Decision(0, open_at if waiting else None)
        start = min(waiting, self.size)
        return Decision(start, now + self.sleep if waiting > start else None)


#: What guests on these hosts are called: ``kvm``, ``tcg``, … (`g5kvirt.guests.base.Guest.label`).
Label = Callable[[Collection[Facts]], str]


def default_window_size(facts: Iterable[Facts], label: Label) -> int:
    """The number of VMs in flight that suits these hosts: some per core, fewer for emulated guests."""
    return max(1, sum(f.cores * VMS_PER_CORE[label([f])] for f in facts))


def boot_window(
    windows: Windows, facts: Iterable[Facts], label: Label, *, real_cores: int | None = None
) -> Window:
    """The boot window of the specification, or the default one.

    ``real_cores``: number of real cores of all hosts, if they share one machine and their facts count the
    same cores several times.
    """
    size = windows.boot
    if size is None:
        hosts = list(facts)
        size = default_window_size(hosts, label)
        if real_cores is not None:
            size = min(size, max(1, real_cores * VMS_PER_CORE[label(hosts)]))
    return SlotWindow(size) if windows.sleep is None else RateWindow(size, windows.sleep)


def reboot_window(
    windows: Windows, facts: Iterable[Facts], label: Label, *, real_cores: int | None = None
) -> Window:
    """The window for reboots in a deployment: the boot window, unless the specification has another."""
    if windows.reboot is not None or windows.reboot_sleep is not None:
        windows = replace(windows, boot=windows.reboot or windows.boot, sleep=windows.reboot_sleep)
    return boot_window(windows, facts, label, real_cores=real_cores)


def check_window_size(windows: Windows, cores: int, *, relayed: bool = False, by_hosts: bool = False) -> int:
    """Number of parallel ssh checks: as specified, or as many as ``cores`` of this machine can handle.

    ``relayed``: through a jump host, which others use too. ``by_hosts``: the hosts, whose cores they are,
    check their own VMs.
    """
    if windows.check is not None:
        return windows.check
    if by_hosts:
        return max(MIN_CHECKS, HOST_CHECKS_PER_CORE * cores)
    return MIN_CHECKS if relayed else max(MIN_CHECKS, CHECKS_PER_CORE * cores)


def check_window(windows: Windows, at_once: int) -> Window:
    """The window for checks of deployed VMs, ``at_once`` in parallel (see `check_window_size`)."""
    return SlotWindow(at_once) if windows.check_sleep is None else RateWindow(at_once, windows.check_sleep)


def boot_timeout(in_flight: int, cores: int, *, guest: str, attempt: int = 1) -> float:
    """Seconds to wait from power-on to the minimal system before a VM counts as failed. ``guest``: its label.

    If ``in_flight`` VMs share ``cores`` real cores, each boot takes about in_flight × CPU seconds / cores;
    the time-out is `SLOWDOWN` times that plus `BASE_SECONDS`, and grows linearly with the attempt.
    """
    if in_flight < 0 or cores < 1 or attempt < 1:
        raise ValueError(f"invalid load: {in_flight} VMs on {cores} cores, attempt {attempt}")
    share = max(1.0, in_flight / cores) * CPU_SECONDS[guest]
    return float(math.ceil((BASE_SECONDS + SLOWDOWN * share) * attempt))
