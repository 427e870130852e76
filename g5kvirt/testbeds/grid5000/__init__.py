"""Grid'5000: reservations, calendar, Kadeploy3 and what its usage policy allows."""

import platform

from g5kvirt.errors import MachineError

# execo drives ssh in ways that Windows does not have.
if platform.system() == "Windows":
    raise MachineError(
        "Grid'5000 is driven from Linux or macOS, and this is Windows",
        advice='use its Jupyter service, or predict: g5kvirt predict, or testbed="simulated:2013"',
    )
