"""The vocabulary of a journal, defined only here: phases, steps, states.

See `g5kvirt.run.events` for what an event is and `g5kvirt.run.state` for what a
sequence of them means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

__all__ = [
    "BOOT_STATES",
    "BOOT_STEPS",
    "CONSOLE",
    "DEPLOYED",
    "DEPLOYMENT",
    "FAILED",
    "LAUNCH",
    "LOAD",
    "MACROS",
    "MINIMAL_SYSTEM",
    "PHASE",
    "PHASES",
    "PLANNED",
    "POWER_ON",
    "REBOOTING",
    "RELEASE",
    "TRANSFER",
    "UNFINISHED",
    "WRITING",
    "Kind",
    "PhaseStatus",
    "Status",
]

Kind = Literal["run", "site", "host", "service", "vm"]
Status = Literal["start", "ok", "failed", "skipped", "retry"]

#: The phases of an experiment, in their order.
PHASES = ("reserve", "deploy", "configure", "place", "launch", "measure")

#: The outcome of a phase, of a try of it, or of another span.
PhaseStatus = Literal["waiting", "unfinished", "ok", "failed"]

# ---- steps of the kind "run" -------------------------------------------------------------------------

PHASE = "phase"  #: one try of a whole phase
RELEASE = "release"  #: the machines are released (phase ``reserve``)
DEPLOYMENT = "deployment"  #: one deployment, and (kind ``vm``) the outcome of a VM in it (phase ``measure``)
TRANSFER = "transfer"  #: how far the image of a deployment is, every few seconds (phase ``measure``)

# ---- steps of a VM -----------------------------------------------------------------------------------

#: The steps of a boot in order, each named after the milestone that ends it.
BOOT_STEPS = ("power-on", "dhcp", "script", "kernel", "initrd", "minimal-system")
POWER_ON, MINIMAL_SYSTEM = BOOT_STEPS[0], BOOT_STEPS[-1]

LAUNCH = "launch"  #: a boot was restarted (``retry``) or given up (``failed``)
LOAD = "load"  #: a look at how busy the machines are
CONSOLE = "console"  #: the file with the end of a VM's serial console

#: The macro-steps of a deployment and their micro-steps in order. A deployment with others lists them in its
#: first event.
MACROS: Mapping[str, tuple[str, ...]] = {
    "SetDeploymentEnv": ("reboot", "minimal-system", "partition", "format"),
    "BroadcastEnv": ("broadcast", "image", "postinstall", "bootloader", "sync"),
    "BootNewEnv": ("boot", "reset", "ready"),
}

# ---- states ------------------------------------------------------------------------------------------

UNFINISHED = "unfinished"  #: a span, a VM or a deployment without an end

#: The states of a VM in `launch`: ``placed`` and ``booting`` are unfinished.
BOOT_STATES = ("placed", "booting", "up", "failed")

# Where a VM is at the moment: one of `BOOT_STEPS`, or one of these.
PLANNED = "planned"  #: placed, or power-on requested but not yet done
REBOOTING = "rebooting"  #: in `measure`: on the way into the minimal system, or into its own environment
WRITING = "writing"  #: in `measure`: the environment is written to its disk
DEPLOYED = "deployed"  #: answers as its own environment
FAILED = "failed"  #: given up
