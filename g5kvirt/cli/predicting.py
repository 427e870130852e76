"""The commands ``predict`` and ``calibrate``."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.markup import escape

from g5kvirt.cli.console import Console
from g5kvirt.errors import SpecError

if TYPE_CHECKING:
    from g5kvirt.prediction import Prediction
    from g5kvirt.spec.spec import Spec
    from g5kvirt.sweeps.plan import Combination
    from g5kvirt.testbeds.simulated.driver import Simulated

__all__ = ["calibrate", "predict", "variations"]

#: What of a deployment can be varied.
_MEASURE = ("measure.sizes", "measure.environment", "measure.broadcast")


def predict(arguments: argparse.Namespace) -> int:
    """Predict an experiment, once for each combination of what is varied."""
    from g5kvirt.phases.reservation_request import with_sites
    from g5kvirt.planning.checks import check_against
    from g5kvirt.spec.spec import Spec
    from g5kvirt.testbeds.simulated.driver import simulated, with_calibration

    console = Console(stderr=arguments.json)
    spec = Spec.load(arguments.spec)
    where = with_calibration(arguments.inventory, arguments.calibration)
    combinations = _combinations(spec, arguments)
    for one in combinations:  # all of them, before the first takes its time
        testbed = simulated(where)
        check_against(with_sites(one.spec, testbed), testbed.hosts())
        _check_guests(one.spec, testbed)
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    if not arguments.json:
        say(f"predicted for   {testbed.machines_name}\ncalibration     {_about(testbed)}\n")
    folder = None if arguments.summary else _folder(arguments.into, arguments.spec.stem)
    found: dict[str, Prediction] = {}
    kept: dict[str, Path] = {}
    for one in combinations:
        label = _label(one.levels) or arguments.spec.stem
        name = _run_name(label, kept.values())
        with console.status(f"predicting {escape(label)}") if console.is_terminal else nullcontext():
            found[label] = _prediction(one, simulated(where), folder, name)
        if folder is not None:
            kept[label] = folder / name
        if not arguments.json:
            say(f"{label}\n{found[label]!r}\n")
    if arguments.json:
        runs = {label: {"run": str(path)} for label, path in kept.items()}
        plain = [{"variation": label, **one.plain(), **runs.get(label, {})} for label, one in found.items()]
        print(json.dumps(plain, indent=2))
    for path in kept.values():
        say(f"run      {path}")
    for path in _figure(kept, found) if folder is not None else ():
        say(f"figure   {path}")
    return 1 if any(sum(one.failed.values()) for one in found.values()) else 0


def _about(testbed: Simulated) -> str:
    """What the durations are from, and how far they may be from those of these machines."""
    calibration = testbed.world.calibration
    if calibration.assumed:
        return (
            f"{calibration.name}: published figures and assumptions, nothing was measured;"
            " for a better one see g5kvirt calibrate --help"
        )
    if calibration.shared and testbed.real_cores is None:
        return (
            f"{calibration.name}: measured on a local testbed, whose processors, reserve, deploy and"
            " configure are not those of these machines"
        )
    return f"{calibration.name}: {calibration.kind}"


def _run_name(label: str, taken: Iterable[Path]) -> str:
    """The name of the run of a variation, such as ``reboot-50``, unlike those that are ``taken``."""
    stem = re.sub(r"[^A-Za-z0-9_.]+", "-", label).strip("-.")[:80] or "prediction"
    names = {path.name.lower() for path in taken}  # not all file systems tell "a" from "A"
    several = (f"{stem}-{number}" for number in count(2))
    return next(name for name in chain([stem], several) if name.lower() not in names)


def _figure(kept: Mapping[str, Path], found: Mapping[str, Prediction]) -> list[Path]:
    """The deployment time against the sizes; of a single one, over its VMs unless all of them failed."""
    from g5kvirt.views.compare import compare

    runs, sizes = compare(kept), {size for one in found.values() for size in one}
    folder = next(iter(kept.values())).parent
    if len(sizes) > 1 or any(one.failed.get(size) == size for one in found.values() for size in one):
        return runs.scalability(columns=2).save(folder / "scalability")
    return runs.deployment(columns=2).save(folder / "deployment")


def _check_guests(spec: Spec, testbed: Simulated) -> None:
    """Raises SpecError if the calibration is of another kind of guest."""
    testbed.world.calibration.check_guests(spec.guest)


def _prediction(one: Combination, testbed: Simulated, folder: Path | None, name: str) -> Prediction:
    """Of one combination; kept as a run in ``folder``, or a summary without one."""
    from g5kvirt.prediction import Prediction, predict, simulate

    measure = one.measure or {}
    sizes = measure.get("sizes") or [one.spec.vms]
    environment, broadcast = str(measure["environment"]), measure.get("broadcast", "chain")
    if folder is None:
        return predict(
            one.spec, testbed, sizes=sizes, environment=environment, broadcast=broadcast, summary=True
        )
    runner = simulate(one.spec, testbed, folder, name, sizes, environment, broadcast)
    return Prediction(list(runner.journal), testbed.world.calibration)


def _combinations(spec: Spec, arguments: argparse.Namespace) -> Sequence[Combination]:
    """Each combination of what is varied. Raises SpecError for the first mistake in any of them."""
    from g5kvirt.planning.forecast import SMALLEST
    from g5kvirt.sweeps.plan import parse

    vary = variations(arguments.vary)
    environment = arguments.environment or SMALLEST[spec.guest]
    measure = {"environment": environment, "sizes": arguments.measure or None}
    fixed = {key: value for key, value in measure.items() if value and f"measure.{key}" not in vary}
    document = {"spec": _without(spec.to_dict(), vary), "measure": fixed, "vary": vary}
    return parse(document, "prediction").combinations


def calibrate(arguments: argparse.Namespace) -> int:
    """Make a calibration from measured runs."""
    from g5kvirt import prediction
    from g5kvirt.simulation.calibration import save

    console = Console()
    found = prediction.calibrate(arguments.runs, arguments.output.stem)
    save(found, arguments.output)
    for what, ratio in found.fit.items():
        line = f"{what}: the steps alone gave {ratio:.0%} of the measured time, so they were scaled to it"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"calibration   {arguments.output}", markup=False, highlight=False, soft_wrap=True)
    return 0


def variations(given: Sequence[str]) -> dict[str, list[Any]]:
    """``windows.reboot=50,80,none`` → the values of that key; a list in YAML is taken as it is.

    Raises SpecError for what has no ``=``, or is no YAML.
    """
    found: dict[str, list[Any]] = {}
    for text in given:
        key, equals, values = text.partition("=")
        if not equals or not key or not values:
            raise SpecError(f"--vary takes KEY=VALUE,VALUE such as windows.reboot=50,80,none, not {text!r}")
        try:
            if values.lstrip().startswith("["):
                read = yaml.safe_load(values)
            else:
                words = [word.strip() for word in values.split(",")]
                read = [None if word == "none" else yaml.safe_load(word) for word in words]
                if not all(words):
                    raise SpecError(f"--vary {text} has an empty value: write none for no value")
        except yaml.YAMLError as error:
            raise SpecError(f"--vary {text}: {values!r} is not a list of values") from error
        if key.strip() in found:
            raise SpecError(f"--vary {key.strip()} is given twice", advice="name all of its values at once")
        if key.startswith("measure.") and key.strip() not in _MEASURE:
            raise SpecError(f"a prediction does not vary {key.strip()}", advice=f"vary {', '.join(_MEASURE)}")
        found[key.strip()] = read
    return found


def _label(levels: Mapping[str, Any]) -> str:
    """What is varied, in a few words: ``reboot 50, reboot_sleep 10``; ``windows auto``."""
    words = []
    for factor, level in levels.items():
        if level is None:
            words.append(f"{factor.rpartition('.')[2]} auto")
        elif isinstance(level, Mapping):
            words.append(", ".join(f"{key} {value}" for key, value in level.items()))
        else:
            words.append(f"{factor.rpartition('.')[2]} {level}")
    return ", ".join(words)


def _without(spec: dict[str, Any], vary: Mapping[str, Any]) -> dict[str, Any]:
    """The specification without the keys that are varied."""
    for key in vary:
        inside: Any = spec
        *before, last = key.split(".")
        for part in before:
            inside = inside.get(part) if isinstance(inside, dict) else None
        if isinstance(inside, dict):
            inside.pop(last, None)
    if {"sites", "hosts"} & {key.partition(".")[0] for key in vary}:
        spec.pop("hosts", None)
    return spec


def _folder(into: Path, name: str) -> Path:
    """A new folder for the predicted runs."""
    for number in range(1, 1000):
        folder = into / f"{name}-prediction{'' if number == 1 else f'-{number}'}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise SpecError(f"{folder} cannot be made ({error.strerror}): choose another --into") from error
        return folder
    raise SpecError(f"there are a thousand predictions of {name} in {into}: choose another --into")
