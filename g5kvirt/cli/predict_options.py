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
        "predict how long an experiment would take, with a model",
        "Runs the same steps on a model: needs no root and no testbed, and works on any system. Each "
        "prediction is saved as a run, which is marked as a prediction, with a figure of the deployment "
        "time. Its accuracy depends on the calibration: the one for Grid'5000 consists of published figures "
        "and assumptions; g5kvirt calibrate makes a better one from a small run of your own.\n\n"
        "examples:\n"
        "  g5kvirt predict spec.yaml --measure 500,1000,4552\n"
        "  g5kvirt predict spec.yaml --inventory 2026 --vary windows.reboot=50,100,none\n"
        "  g5kvirt predict spec.yaml --vary measure.broadcast=chain,http",
    )
    predict.add_argument("spec", type=Path, metavar="SPEC.yaml", help="the specification")
    predict.add_argument(
        "--inventory",
        default="2013",
        metavar="MACHINES",
        help=f"machines: Grid'5000 in {' or '.join(sorted(TABLES))}, a testbed's description (YAML), or the"
        " directory of a run, for the machines that it used (default: 2013)",
    )
    predict.add_argument(
        "--measure",
        type=commands.sizes,
        default=[],
        metavar="N,…",
        help="numbers of VMs to deploy on (default: all)",
    )
    predict.add_argument("--environment", default="mini", help="environment to deploy (default: mini)")
    predict.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="KEY=V,…",
        help="make one prediction for each of these values",
    )
    predict.add_argument(
        "--calibration", metavar="FILE", help="file with the durations (default: the one for these machines)"
    )
    predict.add_argument(
        "--summary",
        action="store_true",
        help="print durations only, from a sample of the hosts, and save no run: fast for any number of VMs",
    )
    predict.add_argument(
        "--into", type=Path, default=Path(), metavar="DIR", help="where to save it (default: here)"
    )
    predict.add_argument("--json", action="store_true", help="print the predictions as JSON")
    predict.set_defaults(do=predicting.predict)


def add_calibrate(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``calibrate``."""
    from g5kvirt.cli import predicting

    calibrate = command_parser(
        sub,
        "calibrate",
        "make a calibration for predictions from measured runs",
        "The runs must have guests of the same kind, and at least one deployment; several sizes give better "
        "predictions than one.\n\n"
        "example:\n"
        "  g5kvirt calibrate runs/small -o mine.yaml",
    )
    calibrate.add_argument("runs", nargs="+", metavar="RUN", help="directory of a run")
    calibrate.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE.yaml", help="where to write it"
    )
    calibrate.set_defaults(do=predicting.calibrate)
