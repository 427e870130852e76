"""Estimated durations of the phases of an experiment in seconds, from a simple model with explicit constants.

The model takes the largest of the bounds of each phase (CPUs, the links of the image servers, windows). The
constants for guests emulated on one machine were measured; those for Grid'5000 were published by others or
are assumptions, because this project has not been run there. The result is an order of magnitude, and
`planning.preflight` recommends twice as much walltime.

Not included: waiting for the machines (a walltime starts with the job), links between sites, retries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from g5kvirt.planning.windows import CPU_SECONDS, VMS_PER_CORE
from g5kvirt.spec.spec import Windows

__all__ = ["PhaseEstimate", "Workload", "estimate_phases", "total_seconds"]

#: From an example in Kadeploy3's API documentation: SetDeploymentEnv, BroadcastEnv, BootNewEnv.
PUBLISHED_DEPLOYMENT = 165.0 + 68.0 + 46.0
#: Assumption: installing services and running host agents on independent machines.
CONFIGURE = 60.0
#: CPU seconds per ssh connection on the machine of the notebook (docs/decisions/remote.md).
SSH = 0.014

#: Per machine on the local testbed; 5 machines on 2 cores took 1.0–1.4 s and 2.2–3.1 s (data/runs).
LOCAL_DEPLOY, LOCAL_CONFIGURE = 0.28, 0.62

#: Netboot of a single emulated VM on an idle machine: measured 8 s. Assumed to be no slower with KVM.
BOOT = 8.0
#: Bytes that a VM downloads to boot: Debian's kernel (14.2 MB) and our initrd (1.2 MB).
FETCHED = 15.4e6
#: Bytes of the image of ``mini``.
IMAGE = 21.7e6
#: Seconds per host in the chain (about a millisecond, docs/decisions/broadcast.md).
HOP = 0.001
#: CPU seconds of a deployment per emulated VM: 2 VMs on 2 cores took 18.7–27.5 s (data/runs/http; the machine
#: had other load, so this is rather too high).
DEPLOYMENT_EMULATED = 22.0


@dataclass(frozen=True)
class Workload:
    """The VMs of an experiment and the machines that carry and serve them."""

    vms: int
    hosts: int
    machines: int  #: hosts and service machines
    cores: int  #: real cores that run the VMs, each counted once
    emulated: bool
    servers: int  #: machines that serve kernels and images
    rate: float = 1e9  #: bits per second of the link of a server or host
    windows: Windows = Windows()  # noqa: RUF009 - frozen


@dataclass(frozen=True)
class PhaseEstimate:
    """The estimated duration of a phase, and what bounds it."""

    phase: str
    seconds: float
    why: str


def total_seconds(expected: Iterable[PhaseEstimate]) -> float:
    """Total duration of all phases."""
    return sum(one.seconds for one in expected)


def estimate_phases(work: Workload) -> tuple[PhaseEstimate, ...]:
    """Estimates for the phases from `deploy` to one deployment of ``mini`` on all VMs."""
    if work.emulated:
        deploy = PhaseEstimate("deploy", LOCAL_DEPLOY * work.machines, "containers, measured")
        configure = PhaseEstimate("configure", LOCAL_CONFIGURE * work.machines, "measured")
    else:
        deploy = PhaseEstimate("deploy", PUBLISHED_DEPLOYMENT, "example of Kadeploy3, without retries")
        configure = PhaseEstimate("configure", CONFIGURE + SSH * work.machines, "assumed")
    launch, why = _boots(work, FETCHED, work.windows.boot, work.windows.sleep)
    return deploy, configure, PhaseEstimate("launch", launch, why), _measure(work)


def _measure(work: Workload) -> PhaseEstimate:
    """One deployment: all VMs reboot, receive the image, and boot it."""
    windows = work.windows
    own = windows.reboot is not None or windows.reboot_sleep is not None
    size, sleep = (
        (windows.reboot or windows.boot, windows.reboot_sleep) if own else (windows.boot, windows.sleep)
    )
    first, why = _boots(work, FETCHED, size, sleep)
    chain = IMAGE * 8 / work.rate + HOP * work.hosts
    if work.emulated:
        # The measured value includes both boots and all steps between them.
        cpu = DEPLOYMENT_EMULATED * max(1.0, work.vms / work.cores)
        rest = _by_window(work.vms, size, sleep)
        seconds, why = (cpu, _PROCESSORS) if cpu >= rest else (rest, _WINDOW)
        return PhaseEstimate("measure", seconds + chain, f"one deployment of mini: {why}")
    second, _ = _boots(work, 0.0, size, sleep)
    return PhaseEstimate("measure", first + chain + second, f"one deployment of mini, two boots: {why}")


_PROCESSORS = "bound by the CPUs"
_WINDOW = "bound by the window"
_LINK = "bound by the servers' links"
_ONE = "as long as a single VM"


def _boots(work: Workload, fetched: float, size: int | None, sleep: float | None) -> tuple[float, str]:
    """Seconds until all VMs have booted, and what bounds them."""
    cpu = CPU_SECONDS["tcg" if work.emulated else "kvm"]
    slots = size or max(1, work.cores * VMS_PER_CORE["tcg" if work.emulated else "kvm"])
    return max(
        (BOOT, _ONE),
        (work.vms * cpu / work.cores, _PROCESSORS),
        (_by_window(work.vms, slots, sleep), _WINDOW),
        (work.vms * fetched * 8 / (work.servers * work.rate), _LINK),
    )


def _by_window(vms: int, size: int | None, sleep: float | None) -> float:
    """Seconds due to the window: a batch every ``sleep`` seconds, or a slot per boot."""
    if size is None:
        return 0.0
    batches = math.ceil(vms / size)
    return BOOT * batches if sleep is None else BOOT + (batches - 1) * sleep
