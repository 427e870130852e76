"""How long an experiment will about take: a stated model with stated constants, in seconds.

It knows what bounds each phase (processors, the image servers' links, windows) and takes the largest. Where
guests are emulated on one machine its constants were measured; for Grid'5000 itself they were published by
others, or are assumed: nobody has run this project there. So it says an order of magnitude, and
`planning.preflight` asks for twice as much walltime.

Left out: the wait for the machines (a walltime begins when the job does), links between sites, retries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from g5kvirt.planning.windows import CPU_SECONDS, VMS_A_CORE
from g5kvirt.spec.spec import Windows

__all__ = ["Expected", "Work", "expectation", "total"]

#: An example of Kadeploy3's API documentation: SetDeploymentEnv, BroadcastEnv, BootNewEnv.
PUBLISHED_DEPLOYMENT = 165.0 + 68.0 + 46.0
#: Assumed: services installed, host agents answering, on machines that share nothing.
CONFIGURE = 60.0
#: A connection from the notebook's side, processor seconds a machine (docs/decisions/remote.md).
SSH = 0.014

#: The local testbed, measured with 5 machines on 2 cores (data/runs): 1.0–1.4 s and 2.2–3.1 s.
LOCAL_DEPLOY, LOCAL_CONFIGURE = 0.28, 0.62

#: One VM alone, netbooted, emulated, on an idle machine: measured 8 s. With KVM assumed no slower.
BOOT = 8.0
#: What a VM fetches to boot: Debian's kernel (14.2 MB) and our initrd (1.2 MB), bytes.
FETCHED = 15.4e6
#: The image of ``mini``, bytes.
IMAGE = 21.7e6
#: A host more in the chain (docs/decisions/broadcast.md: a millisecond or so).
HOP = 0.001
#: CPU seconds that a VM takes for a deployment, emulated: 2 VMs on 2 cores took 18.7–27.5 s (data/runs/http,
#: other work on the machine, so rather too much).
DEPLOYMENT_EMULATED = 22.0


@dataclass(frozen=True)
class Work:
    """What is to be done, and with what."""

    vms: int
    hosts: int
    machines: int  #: hosts and service machines
    cores: int  #: that stand behind the VMs, each counted once
    emulated: bool
    servers: int  #: machines that serve kernels and images
    rate: float = 1e9  #: bits per second of a server's link, and of a host's
    windows: Windows = Windows()  # noqa: RUF009 - frozen


@dataclass(frozen=True)
class Expected:
    """A phase, how long it will about take, and what bounds it."""

    phase: str
    seconds: float
    why: str


def total(expected: Iterable[Expected]) -> float:
    """Seconds of all phases together."""
    return sum(one.seconds for one in expected)


def expectation(work: Work) -> tuple[Expected, ...]:
    """The phases from `deploy` to one deployment of ``mini`` on all VMs."""
    if work.emulated:
        deploy = Expected("deploy", LOCAL_DEPLOY * work.machines, "containers, measured here")
        configure = Expected("configure", LOCAL_CONFIGURE * work.machines, "measured here")
    else:
        deploy = Expected("deploy", PUBLISHED_DEPLOYMENT, "Kadeploy3's own example, no retry")
        configure = Expected("configure", CONFIGURE + SSH * work.machines, "assumed")
    launch, why = _boots(work, FETCHED, work.windows.boot, work.windows.sleep)
    return deploy, configure, Expected("launch", launch, why), _measure(work)


def _measure(work: Work) -> Expected:
    """One deployment: everybody reboots, gets the image, and boots it."""
    windows = work.windows
    own = windows.reboot is not None or windows.reboot_sleep is not None
    size, sleep = (
        (windows.reboot or windows.boot, windows.reboot_sleep) if own else (windows.boot, windows.sleep)
    )
    first, why = _boots(work, FETCHED, size, sleep)
    chain = IMAGE * 8 / work.rate + HOP * work.hosts
    if work.emulated:
        # What was measured holds both boots and all steps between.
        cpu = DEPLOYMENT_EMULATED * max(1.0, work.vms / work.cores)
        rest = _by_window(work.vms, size, sleep)
        seconds, why = (cpu, _PROCESSORS) if cpu >= rest else (rest, _WINDOW)
        return Expected("measure", seconds + chain, f"one deployment of mini: {why}")
    second, _ = _boots(work, 0.0, size, sleep)
    return Expected("measure", first + chain + second, f"one deployment of mini, two boots: {why}")


_PROCESSORS = "bound by the processors"
_WINDOW = "bound by the window"
_LINK = "bound by the servers' links"
_ONE = "as one alone"


def _boots(work: Work, fetched: float, size: int | None, sleep: float | None) -> tuple[float, str]:
    """Seconds until all VMs have booted, and what bounds them."""
    cpu = CPU_SECONDS["tcg" if work.emulated else "kvm"]
    slots = size or max(1, work.cores * VMS_A_CORE["tcg" if work.emulated else "kvm"])
    return max(
        (BOOT, _ONE),
        (work.vms * cpu / work.cores, _PROCESSORS),
        (_by_window(work.vms, slots, sleep), _WINDOW),
        (work.vms * fetched * 8 / (work.servers * work.rate), _LINK),
    )


def _by_window(vms: int, size: int | None, sleep: float | None) -> float:
    """A rate lets a batch go every ``sleep`` seconds; a slot is held for a boot."""
    if size is None:
        return 0.0
    batches = math.ceil(vms / size)
    return BOOT * batches if sleep is None else BOOT + (batches - 1) * sleep
