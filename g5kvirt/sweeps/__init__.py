"""Sweeps: one experiment for every combination of parameters of a specification and of `measure`.

`plan` reads and checks the file and decides which combinations share a virtual cluster; `drive` carries them
out, records which are done, and continues where it was interrupted.
"""

from g5kvirt.sweeps.drive import INDEX, SweepOutcome, carry_out, finished, read_index, sweep_folder
from g5kvirt.sweeps.plan import Combination, Sweep, check_measure, load, parse

__all__ = [
    "INDEX",
    "Combination",
    "Sweep",
    "SweepOutcome",
    "carry_out",
    "check_measure",
    "finished",
    "load",
    "parse",
    "read_index",
    "sweep_folder",
]
