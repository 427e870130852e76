"""In which order VMs start, how many at once, and how long to wait for one.

Windows only decide: they are asked with the time and the number of VMs on their way, and answer how
many more may start now.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from g5kvirt.inventory import VM, Facts
from g5kvirt.planning.ranks import rank_within
from g5kvirt.spec.spec import Windows

__all__ = [
    "Decision",
    "RateWindow",
    "SlotWindow",
    "Window",
    "boot_timeout",
    "check_window",
    "checks_at_once",
    "default_window",
    "interleave",
    "interleaved_order",
    "reboot_window",
    "window_for",
]

Ints = NDArray[np.int64]

#: VMs on their way for each core: emulated guests keep 2 cores busy from 8 at once on, and all of 64 at
#: once make the first wait for the last (measured); with KVM a boot mostly waits.
VMS_A_CORE = {"tcg": 4, "kvm": 16}

#: CPU seconds from power-on to the minimal system (measured: 2.3 with a small kernel, 6.8 with Debian's
#: under emulation).
CPU_SECONDS = {"tcg": 7.0, "kvm": 1.5}

#: Checks of deployed VMs on their way: at least, and at most where one ssh server in between carries all.
CHECKS = 8

#: Beyond, for each core of the machine that checks: one costs it two connections of 15 ms (measured), and
#: lasts some twenty trips over the network.
CHECKS_A_CORE = 4

#: What every boot may take whatever the load: DHCP that is tried again, a slow link.
BASE_SECONDS = 60.0

#: How much slower than measured a machine may be that others use too.
PATIENCE = 5.0


def interleaved_order(host_of: Ints, site_of: Ints) -> Ints:
    """Positions in an order that alternates sites, then hosts of a site, then VMs of a host.

    Taken host by host, a window would fill one host's link and cores while the others idle.
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
    """The VMs in the order in which to start them."""
    hosts: dict[str, int] = {}
    sites: dict[str, int] = {}
    host_of = np.fromiter((hosts.setdefault(v.host, len(hosts)) for v in vms), np.int64, len(vms))
    site_of = np.fromiter((sites.setdefault(v.site, len(sites)) for v in vms), np.int64, len(vms))
    return [vms[i] for i in interleaved_order(host_of, site_of).tolist()]


@dataclass(frozen=True)
class Decision:
    """``start`` so many now; ask again when a VM comes up or fails, and at ``again`` at the latest."""

    start: int
    again: float | None = None


class Window(Protocol):
    """Decides how many VMs may start now."""

    def decide(self, now: float, *, waiting: int, in_flight: int, last: float | None) -> Decision:
        """``waiting`` have not started, ``in_flight`` are started but not up; the last batch's commands
        had returned at ``last`` (None: none yet)."""


@dataclass(frozen=True)
class SlotWindow:
    """At most ``size`` VMs on their way: a slot is held until its VM is up or given up."""

    size: int

    def decide(self, now: float, *, waiting: int, in_flight: int, last: float | None) -> Decision:
        """See `Window.decide`."""
        return Decision(max(0, min(waiting, self.size - in_flight)))


@dataclass(frozen=True)
class RateWindow:
    """``size`` VMs every ``sleep`` seconds, up or not: Kadeploy3's reboot window.

    There a chunk's slots are free again when its commands have returned and the sleep is over, so the
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


def default_window(facts: Iterable[Facts]) -> int:
    """How many VMs on their way these hosts take well: some a core, fewer where guests are emulated."""
    return max(1, sum(f.cores * VMS_A_CORE["kvm" if f.kvm else "tcg"] for f in facts))


def window_for(windows: Windows, facts: Iterable[Facts], *, real_cores: int | None = None) -> Window:
    """The window that was asked for, or the default one.

    ``real_cores``: cores that really stand behind all hosts together, where these share one machine
    and their facts count the same cores several times.
    """
    size = windows.boot
    if size is None:
        known = list(facts)
        size = default_window(known)
        if real_cores is not None:
            kvm = bool(known) and all(f.kvm for f in known)
            size = min(size, default_window([Facts(cores=real_cores, memory=0, kvm=kvm)]))
    return SlotWindow(size) if windows.sleep is None else RateWindow(size, windows.sleep)


def reboot_window(windows: Windows, facts: Iterable[Facts], *, real_cores: int | None = None) -> Window:
    """The window for the reboots of a deployment: that of `window_for`, unless another one was asked for."""
    if windows.reboot is not None or windows.reboot_sleep is not None:
        windows = replace(windows, boot=windows.reboot or windows.boot, sleep=windows.reboot_sleep)
    return window_for(windows, facts, real_cores=real_cores)


def checks_at_once(windows: Windows, cores: int, *, relayed: bool = False) -> int:
    """How many VMs are reached by ssh at once: as was asked, or as ``cores`` of this machine can carry.

    ``relayed``: through an ssh server in between, which others use too.
    """
    if windows.check is not None:
        return windows.check
    return CHECKS if relayed else max(CHECKS, CHECKS_A_CORE * cores)


def check_window(windows: Windows, at_once: int) -> Window:
    """The window for checks of deployed VMs, ``at_once`` as by `checks_at_once`."""
    return SlotWindow(at_once) if windows.check_sleep is None else RateWindow(at_once, windows.check_sleep)


def boot_timeout(in_flight: int, cores: int, *, kvm: bool, attempt: int = 1) -> float:
    """Seconds to wait from power-on to the minimal system before a VM is taken for dead.

    With ``in_flight`` VMs sharing ``cores`` real cores, each boot lasts about in_flight × CPU seconds /
    cores; that, times `PATIENCE`, and `BASE_SECONDS`. Every further attempt waits as much longer again.
    """
    if in_flight < 0 or cores < 1 or attempt < 1:
        raise ValueError(f"no time-out for {in_flight} VMs on {cores} cores, attempt {attempt}")
    share = max(1.0, in_flight / cores) * CPU_SECONDS["kvm" if kvm else "tcg"]
    return float(math.ceil((BASE_SECONDS + PATIENCE * share) * attempt))
