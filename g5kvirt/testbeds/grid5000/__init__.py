"""Grid'5000: reservations, calendar, Kadeploy3 and what its usage policy allows."""

import platform

from g5kvirt.errors import MachineError

# execo drives ssh in ways that Windows does not have.
if platform.system() == "Windows":
    raise MachineError(
        "Grid'5000 can be used from Linux or macOS, not from Windows",
        advice="use its Jupyter service; on Windows you can use g5kvirt predict, testbed='simulated:2013',"
        " check --inventory, and everything that reads a run (show, figures, Experiment.open)",
    )
