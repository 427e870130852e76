"""The options of ``predict`` and ``calibrate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from g5kvirt.cli.options import command_parser

__all__ = ["add_calibrate", "add_predict"]


def add_predict(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``predict``."""
    from g5kvirt.cli import predicting

    predict = command_parser(
        sub,
        "predict",
        "predict how long an experiment would take, with a model",
        "Runs the same steps on a model: needs no root and no testbed, and works on any system. Prints the "
        "seconds of each phase and of each deployment, and creates a folder SPEC-prediction here (or in "
        "--into) with each prediction as a run, which is marked as a prediction, and a figure of the "
        "deployment time; nothing is overwritten. The accuracy depends on the calibration: the one for "
        "Grid'5000 consists of published figures and assumptions; g5kvirt calibrate makes a better one from "
        "a small run of your own.\n\n"
        "examples:\n"
        "  g5kvirt predict large.yaml --measure 500,1000,4552\n"
        "  g5kvirt predict spec.yaml --inventory 2026 --vary windows.reboot=50,100,none\n"
        "  g5kvirt predict spec.yaml --vary measure.broadcast=chain,http",
    )
    _add_options(predict)
    predict.set_defaults(do=predicting.predict)


def _add_options(predict: argparse.ArgumentParser) -> None:
    from g5kvirt.cli import commands
    from g5kvirt.planning.inventories import TABLES
    from g5kvirt.simulation.calibration import SHIPPED

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
    predict.add_argument(
        "--environment",
        metavar="NAME",
        help="environment to deploy, one whose image size the calibration knows, such as mini or"
        " debian12-min (default: mini; for light guests: light)",
    )
    predict.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="KEY=V,…",
        help="make one prediction for each of these values of a key of the specification, or of"
        " measure.sizes, measure.environment or measure.broadcast; none stands for the key's default;"
        " several --vary: every combination",
    )
    predict.add_argument(
        "--calibration",
        metavar="NAME|FILE",
        help=f"durations: {', '.join(SHIPPED)}, or a file made by g5kvirt calibrate (default: the one for"
        " these machines)",
    )
    predict.add_argument(
        "--summary",
        action="store_true",
        help="print durations only, from a sample of the hosts, and save no run: fast for any number of VMs",
    )
    predict.add_argument(
        "--into",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="directory for the new folder SPEC-prediction, or SPEC-prediction-2 and so on if it exists"
        " (default: this one)",
    )
    predict.add_argument("--json", action="store_true", help="print the predictions as JSON")


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
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE.yaml",
        help="the calibration to write; one that is there is replaced",
    )
    calibrate.set_defaults(do=predicting.calibrate)
