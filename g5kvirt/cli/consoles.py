"""``g5kvirt console``."""

from __future__ import annotations

import argparse

from g5kvirt.cli.options import command_parser, runs_option

__all__ = ["add_console", "console"]


def add_console(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``console``."""
    parser = command_parser(
        sub,
        "console",
        "print the end of a VM's serial console, also while it boots",
        "Works from the first power-on of the VM until the run releases its machines, also while another "
        "process runs a step. Changes nothing.\n\n"
        "examples:\n"
        "  g5kvirt console first vm-3\n"
        "  watch -n 2 g5kvirt console first vm-3 --size 1500",
    )
    parser.add_argument("run", metavar="RUN", help="name or directory of the run")
    parser.add_argument("vm", metavar="VM", help="name of the virtual machine, such as vm-3")
    parser.add_argument(
        "--size", type=int, default=8192, metavar="BYTES", help="number of bytes to print (default: 8192)"
    )
    runs_option(parser)
    parser.set_defaults(do=console)


def console(arguments: argparse.Namespace) -> int:
    """Print the end of a VM's serial console."""
    from g5kvirt.experiment import Experiment
    from g5kvirt.run.directory import locate

    experiment = Experiment.open(locate(arguments.runs, arguments.run).path)
    print(experiment.console(arguments.vm, arguments.size), end="")
    return 0
