"""``g5kvirt extend``."""

from __future__ import annotations

import argparse
import time

from g5kvirt.cli.options import command_parser, runs_option
from g5kvirt.views.formatting import duration

__all__ = ["add_extend", "extend"]


def add_extend(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``extend``."""
    parser = command_parser(
        sub,
        "extend",
        "extend the walltime of a run, also while a step is running",
        "Extends either all jobs of the run or none: if one site refuses, the extensions at the other sites "
        "are undone. OAR extends a job until the next reservation of its machines at most.\n\n"
        "Exit code 3: a site refused, and the message says why.\n\n"
        "example:\n"
        "  g5kvirt extend first 1:00:00",
    )
    parser.add_argument("run", metavar="RUN", help="name or directory of the run")
    parser.add_argument("walltime", metavar="H:MM:SS", help="additional walltime, such as 1:00:00")
    runs_option(parser)
    parser.set_defaults(do=extend)


def extend(arguments: argparse.Namespace) -> int:
    """Give the machines of a run more walltime."""
    from g5kvirt.experiment import Experiment
    from g5kvirt.run.directory import locate

    experiment = Experiment.open(locate(arguments.runs, arguments.run).path)
    reservation = experiment.extend(arguments.walltime)
    left = reservation.start + reservation.walltime - time.time()
    print(f"run {experiment.name} has its machines for another {duration(left)}")
    return 0
