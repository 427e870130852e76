"""The options of ``predict`` and ``calibrate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from g5kvirt.cli.options import command_parser

__all__ = ["add_calibrate", "add_predict"]


def add_predict(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``predict``."""
    from g5kvirt.cli import commands, predicting
    from g5kvirt.planning.inventories import TABLES

    predict = command_parser(
        sub,
        "predict",
        "say how long an experiment would take, without any machine",
        "The same steps on a model: no root, no testbed, on any system. Each prediction is kept as a run\n"
        "that says so, beside a figure of the deployment time. How good it is depends on the calibration:\n"
        "that for Grid'5000 is made of published figures and assumptions; a small run of your own makes a\n"
        "better one (g5kvirt calibrate).\n\n"
        "examples:\n"
        "  g5kvirt predict data/scenarios/slides-2013.yaml --measure 500,1000,4552\n"
        "  g5kvirt predict spec.yaml --inventory 2026 --vary windows.reboot=50,100,none\n"
        "  g5kvirt predict spec.yaml --vary measure.broadcast=chain,http --calibration mine.yaml",
    )
    predict.add_argument("spec", type=Path, metavar="SPEC.yaml", help="the specification")
    predict.add_argument(
        "--inventory",
        default="2013",
        metavar="MACHINES",
        help=f"Grid'5000 of {' or '.join(sorted(TABLES))}, a testbed's description (YAML), or a run"
        " (its directory) for the machines that it had (default: 2013)",
    )
    predict.add_argument(
        "--measure", type=commands.sizes, default=[], metavar="N,…", help="VMs to deploy on (default: all)"
    )
    predict.add_argument("--environment", default="mini", help="what is deployed (default: mini)")
    predict.add_argument(
        "--vary", action="append", default=[], metavar="KEY=V,…", help="predict once for each of these values"
    )
    predict.add_argument(
        "--calibration", metavar="FILE", help="durations (default: those for these machines)"
    )
    predict.add_argument(
        "--summary",
        action="store_true",
        help="durations only, from a sample of the hosts: quick for any number of VMs, and no run is kept",
    )
    predict.add_argument("--into", type=Path, default=Path(), metavar="DIR", help="where to keep it")
    predict.add_argument("--json", action="store_true", help="print the predictions as JSON")
    predict.set_defaults(do=predicting.predict)


def add_calibrate(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``calibrate``."""
    from g5kvirt.cli import predicting

    calibrate = command_parser(
        sub,
        "calibrate",
        "take the durations for predictions from measured runs",
        "The runs have guests of one kind, and a deployment. Several sizes are better than one.\n\n"
        "example:\n"
        "  g5kvirt calibrate runs/small -o mine.yaml",
    )
    calibrate.add_argument("runs", nargs="+", metavar="RUN", help="directory of a run")
    calibrate.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE.yaml", help="where to write it"
    )
    calibrate.set_defaults(do=predicting.calibrate)
