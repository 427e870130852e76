"""The local testbed: a miniature Grid'5000 on one machine, built from real components."""

import platform

from g5kvirt.errors import MachineError

# Before anything of it is imported that exists on Linux only.
if platform.system() != "Linux":
    raise MachineError(
        f"the local testbed needs root on Linux, and this is {platform.system()}",
        advice='predictions need neither: g5kvirt predict, or testbed="simulated:2013"',
    )
