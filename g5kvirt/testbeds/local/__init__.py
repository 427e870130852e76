"""The local testbed: a miniature Grid'5000 on one machine, built from real components."""

import platform

from g5kvirt.errors import MachineError

# Before anything of it is imported that exists on Linux only.
if platform.system() != "Linux":
    raise MachineError(
        f"the local testbed needs root on Linux, and this is {platform.system()}",
        advice='these need neither: g5kvirt predict, testbed="simulated:2013", check --inventory, and all'
        " that reads a run (show, figures, Experiment.open)",
    )
