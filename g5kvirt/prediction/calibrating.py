"""Calibrations from measured runs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from g5kvirt.errors import RunError, SpecError
from g5kvirt.phases.measure import MeasureRequest
from g5kvirt.prediction.predicting import simulate
from g5kvirt.run.deployment_state import DeploymentState
from g5kvirt.run.directory import Run, locate
from g5kvirt.run.journal import read_events
from g5kvirt.simulation.calibration import Calibration, StepTime
from g5kvirt.simulation.fit import RunTimes, fit
from g5kvirt.spec.spec import Spec
from g5kvirt.testbeds.simulated.driver import Simulated
from g5kvirt.testbeds.simulated.recorded import inventory_of, on_given_machines, shared_cores

__all__ = ["calibrate"]


@dataclass(frozen=True)
class _Measured:
    """A run that a calibration is made from."""

    run: Run
    times: RunTimes
    cores: int | None

    @property
    def deployments(self) -> list[DeploymentState]:
        """Those that came to their end, in their order."""
        return [one for one in self.times.state.deployments.values() if one.end == one.end]

    @property
    def calls(self) -> Iterator[list[DeploymentState]]:
        """Deployments that one call of `measure` may have made: alike but for their size. One on VMs that
        were not rebooted first is a call of its own."""

        def alike(one: DeploymentState) -> tuple[str, str, bool]:
            return one.environment, one.broadcast, one.fresh > 0

        for (_, _, fresh), group in groupby(self.deployments, alike):
            own = list(group)
            yield from [[one] for one in own] if fresh else [own]


def calibrate(runs: Sequence[str | Path], name: str) -> Calibration:
    """A calibration from measured runs, of the same kind of guest.

    First each step's work is read off the runs (`g5kvirt.simulation.fit`), then the same runs are predicted,
    and boots and deployments are scaled so that they take as long as they did: what belongs to none of the
    steps (agents, services, OAR on the same machine) is shared out among them. ``fit`` keeps by how much:
    predicted / measured before that. Raises RunError and SpecError.
    """
    measured = [_read(Path(path)) for path in runs]
    source = "measured: " + ", ".join(one.run.name for one in measured)
    images = {name: size for one in measured for name, size in _images(one).items()}
    found = fit([one.times for one in measured], name, source, images=images)
    ratios = _ratios(found, measured)
    found = replace(found, fit={key: round(1 / ratio, 3) for key, ratio in ratios.items()})
    found = _scaled(found, ratios)
    return _scaled(found, _ratios(found, measured))  # what one step of it changed in the others


def _read(path: Path) -> _Measured:
    run = locate(path.parent, str(path))
    if run.predicted:
        raise RunError(f"{path} is a prediction: a calibration is made from measured runs")
    try:
        return _measured(run)
    except (RunError, SpecError) as error:
        raise RunError(f"{path}: {error.message}") from error


def _measured(run: Run) -> _Measured:
    document = run.document
    cores = shared_cores(document)
    Spec.from_dict(document.get("spec", {}))  # now: it is needed after the first minute
    if cores is None and str(document.get("testbed")).partition(":")[0] == "local":
        raise RunError(
            "it does not say how many cores its hosts shared, since it was made by an older version:"
            " measure it again"
        )
    return _Measured(run, RunTimes(read_events(run.journal), cores), cores)


#: Bytes of the images that the project builds, for runs that do not say it yet.
_IMAGES = {"mini": 21.66e6, "light": 2.45e6, "debian12-min": 116.2e6}


def _images(one: _Measured) -> dict[str, float]:
    """Environment → bytes of its image."""
    sizes = {d.environment: d.about.get("bytes", _IMAGES.get(d.environment)) for d in one.deployments}
    return {name: float(size) for name, size in sizes.items() if size}


def _ratios(calibration: Calibration, measured: Sequence[_Measured]) -> dict[str, float]:
    """``launch`` and ``deployment``: measured seconds / predicted ones, over all runs."""
    sums: dict[str, list[float]] = {"launch": [0.0, 0.0], "deployment": [0.0, 0.0]}
    for one in measured:
        for key, real, model in _again(calibration, one):
            sums[key][0] += real
            sums[key][1] += model
    return {key: real / model for key, (real, model) in sums.items() if real and model}


def _again(calibration: Calibration, one: _Measured) -> Iterator[tuple[str, float, float]]:
    """The run's launch and deployments, predicted: which, measured and predicted seconds."""
    granted = one.times.state.reservation
    assert granted is not None  # it was launched
    bed = Simulated(inventory_of(granted.hosts, one.run.name), calibration, real_cores=one.cores)
    spec = on_given_machines(Spec.from_dict(one.run.document["spec"]))
    with tempfile.TemporaryDirectory(prefix="g5kvirt-prediction-") as folder:
        runner = simulate(spec, bed, Path(folder), "again", [])
        up = len(runner.journal.state.up_vms)
        for call in one.calls:
            sizes = tuple(min(len(deployment.vms), up) for deployment in call)
            broadcast: Any = call[0].broadcast
            runner.measure(MeasureRequest(call[0].environment, (), sizes, 1, broadcast, None))
        predicted = RunTimes(runner.journal, one.cores)
    real, model = one.times.phase("launch"), predicted.phase("launch")
    if real is not None and model is not None:
        yield "launch", real, model
    for measured, again in zip(one.deployments, predicted.state.deployments.values(), strict=True):
        yield "deployment", measured.end - measured.start, again.end - again.start


def _scaled(calibration: Calibration, ratios: Mapping[str, float]) -> Calibration:
    boot, deployment = ratios.get("launch", 1.0), ratios.get("deployment", 1.0)
    return replace(
        calibration,
        boot={name: _times(step, boot) for name, step in calibration.boot.items()},
        deployment={name: _times(step, deployment) for name, step in calibration.deployment.items()},
        reboot=_times(calibration.reboot, deployment),
        reboot_boot=_times(calibration.reboot_boot, deployment),
        environment=_times(calibration.environment, deployment),
        check=_times(calibration.check, deployment),
        broadcast=_times(calibration.broadcast, deployment),
    )


def _times(step: StepTime, factor: float) -> StepTime:
    values = asdict(step)
    return StepTime(**{**values, "seconds": step.seconds * factor, "cpu": step.cpu * factor})
