"""Sweeps: one experiment for every combination of what a specification and `measure` may say.

`plan` reads and checks the file and decides which combinations share a virtual cluster; `drive` carries them
out, remembers which are done, and goes on where it was cut short.
"""

from g5kvirt.sweeps.drive import INDEX, Account, carry_out, finished, folder_of, read_index
from g5kvirt.sweeps.plan import Combination, Sweep, check_measure, load, parse

__all__ = [
    "INDEX",
    "Account",
    "Combination",
    "Sweep",
    "carry_out",
    "check_measure",
    "finished",
    "folder_of",
    "load",
    "parse",
    "read_index",
]
