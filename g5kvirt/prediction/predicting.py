"""Experiments on a simulated testbed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence, Sized
from dataclasses import replace
from pathlib import Path

from g5kvirt.phase_runner import ENVIRONMENTS, Broadcast, PhaseRunner
from g5kvirt.phases.measure import check_sizes, known_image
from g5kvirt.planning.forecast import SMALLEST
from g5kvirt.planning.inventories import Inventory
from g5kvirt.prediction.result import Prediction
from g5kvirt.prediction.sample import Sample, sample
from g5kvirt.run.bulk import collector_paused
from g5kvirt.simulation import calibration as calibrations
from g5kvirt.simulation.calibration import Calibration
from g5kvirt.spec.fields import wrong
from g5kvirt.spec.spec import Spec
from g5kvirt.testbeds.simulated.driver import Simulated
from g5kvirt.testbeds.simulated.recorded import inventory_of, on_given_machines, shared_cores
from g5kvirt.testbeds.simulated.sources import calibration_name

__all__ = ["calibration_for", "predict", "predict_run", "simulate"]

_BEFORE = ("reserve", "deploy", "configure", "place", "launch")


def predict(
    spec: Spec,
    testbed: Simulated,
    *,
    sizes: Sequence[int] | None = None,
    environment: str | None = None,
    broadcast: Broadcast = "chain",
    summary: bool = False,
) -> Prediction:
    """The whole experiment on a simulated testbed, with one deployment on each of ``sizes`` (default: all).

    ``summary``: only the durations, from a sample of the hosts (`g5kvirt.prediction.sample`), so that any
    number of VMs takes some seconds. Raises SpecError and CapacityError for what does not fit, and PhaseError
    as the phases do.
    """
    if sizes is not None and not (isinstance(sizes, Sized) and len(sizes) == 0):
        sizes = check_sizes(sizes, spec.vms)
    part = sample(spec, testbed) if summary else Sample(spec, testbed)
    own = None if sizes is None else [part.size(vms) for vms in sizes]
    with tempfile.TemporaryDirectory(prefix="g5kvirt-prediction-") as folder:
        runner = simulate(part.spec, part.testbed, Path(folder), "prediction", own, environment, broadcast)
        measured = [spec.vms] if sizes is None else sizes
        return Prediction(list(runner.journal), testbed.world.calibration, part.factor, measured)


def simulate(
    spec: Spec,
    testbed: Simulated,
    runs: Path,
    name: str,
    sizes: Sequence[int] | None = None,
    environment: str | None = None,
    broadcast: Broadcast = "chain",
) -> PhaseRunner:
    """The same as a run that is kept in ``runs / name``, marked as a prediction."""
    environment = environment or SMALLEST[spec.guest]
    measured = sizes is None or len(sizes) > 0
    if measured:
        known_image(environment, testbed.world)  # before the first step
    # A start that was given may be over, and everything is free.
    runner = PhaseRunner.create(replace(spec, start="now"), testbed, name, runs)
    with collector_paused():
        for phase in _BEFORE:
            runner.execute(phase)
        if measured:
            request = runner.measure_request(environment, sizes, 1, broadcast, ENVIRONMENTS)
            runner.measure(replace(request, alike=True))
    return runner


def predict_run(
    runner: PhaseRunner,
    calibration: str,
    *,
    sizes: Sequence[int] | None,
    environment: str | None,
    broadcast: Broadcast,
    summary: bool = False,
) -> Prediction:
    """The same for the experiment of ``runner``, on the machines that it has reserved, or else all of its
    testbed. ``calibration``: a name or a file; "" for that of this kind of testbed and guest.

    A run that has its machines needs no testbed any more. Raises as `predict`, and TestbedError if there is
    no testbed to ask.
    """
    if not isinstance(calibration, str | Path):
        wrong("calibration", "the name of a calibration or a file", calibration)
    testbed = _simulated_like(runner, str.__str__(os.fspath(calibration)))
    spec = runner.spec if runner.reservation is None else on_given_machines(runner.spec)
    return predict(spec, testbed, sizes=sizes, environment=environment, broadcast=broadcast, summary=summary)


def calibration_for(guest: str, *, shared: bool) -> Calibration:
    """The shipped one for guests of this kind on hosts that share one machine, or on real ones."""
    return calibrations.load(calibration_name(guest, shared=shared))


def _simulated_like(runner: PhaseRunner, calibration: str) -> Simulated:
    """A simulated testbed with the machines of `predict_run`."""
    granted, document = runner.reservation, runner.run.document
    if granted is not None and ("real_cores" in document or "recorded" in document):
        inventory = inventory_of(granted.hosts, runner.run.testbed)
        cores = shared_cores(document)
        world = None
    else:
        testbed = runner.testbed
        cores, world = testbed.real_cores, testbed.world
        machines = {site: tuple(own) for site, own in testbed.machines().items()}
        inventory = Inventory(testbed.name, machines, uplinks={} if world is None else world.uplinks)
    if calibration:
        found = calibrations.load(calibration)
        found.check_guests(runner.spec.guest)
    elif world is not None:
        found = world.calibration
    else:
        found = calibration_for(runner.spec.guest, shared=cores is not None)
    return Simulated(inventory, found, name=f"simulated:{inventory.name}", real_cores=cores)
