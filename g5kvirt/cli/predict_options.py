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
        "say how long an experiment would take, without any machine",
        "The same steps on a model: no root, no testbed, on any system. It prints the seconds of each phase\n"
        "and of each deployment, and makes a folder SPEC-prediction here (or in --into) that holds each\n"
        "prediction as a run, marked as one, and a figure of the deployment time. Nothing is overwritten.\n"
        "How good it is depends on the calibration: that for Grid'5000 is made of published figures and\n"
        "assumptions; a small run of your own makes a better one (g5kvirt calibrate).\n\n"
        "examples:\n"
        "  g5kvirt predict large.yaml --measure 500,1000,4552\n"
        "  g5kvirt predict spec.yaml --inventory 2026 --vary windows.reboot=50,100,none\n"
        "  g5kvirt predict spec.yaml --vary measure.broadcast=chain,http --calibration mine.yaml",
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
        help=f"Grid'5000 of {' or '.join(sorted(TABLES))}, a testbed's description (YAML), or a run"
        " (its directory) for the machines that it had (default: 2013)",
    )
    predict.add_argument(
        "--measure", type=commands.sizes, default=[], metavar="N,…", help="VMs to deploy on (default: all)"
    )
    predict.add_argument(
        "--environment",
        metavar="NAME",
        help="what is deployed: one whose image size the calibration knows, such as mini or debian12-min"
        " (default: mini; for light guests: light)",
    )
    predict.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="KEY=V,…",
        help="predict once for each of these values of a key of the specification, or of measure.sizes,"
        " measure.environment or measure.broadcast; none is the key's default; several --vary: every"
        " combination",
    )
    predict.add_argument(
        "--calibration",
        metavar="NAME|FILE",
        help=f"durations: {', '.join(SHIPPED)}, or a file made by g5kvirt calibrate (default: that for"
        " these machines)",
    )
    predict.add_argument(
        "--summary",
        action="store_true",
        help="durations only, from a sample of the hosts: quick for any number of VMs, and no run is kept",
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
        "take the durations for predictions from measured runs",
        "The runs have guests of one kind, and a deployment. Several sizes are better than one.\n\n"
        "examples:\n"
        "  g5kvirt calibrate runs/small -o mine.yaml\n"
        "  g5kvirt predict large.yaml --calibration mine.yaml",
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
