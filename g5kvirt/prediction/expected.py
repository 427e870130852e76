"""The expected times of a check, by a prediction."""

from __future__ import annotations

from dataclasses import replace

from g5kvirt.errors import SpecError
from g5kvirt.planning.forecast import SMALLEST, Forecast, PhaseEstimate
from g5kvirt.prediction.predicting import calibration_for, predict
from g5kvirt.prediction.sample import sample
from g5kvirt.testbeds.simulated.driver import Simulated
from g5kvirt.testbeds.simulated.recorded import inventory_of, on_given_machines

__all__ = ["expected_times"]

#: The time in the queue is no part of the walltime, and `place` takes none.
_PHASES = ("deploy", "configure", "launch", "measure")
#: VMs that are predicted in a check at most: half a minute.
_MOST_VMS = 15_000


def expected_times(forecast: Forecast) -> tuple[PhaseEstimate, ...]:
    """Each phase from `deploy` to one deployment of the smallest environment on all VMs, predicted.

    On the machines that can carry VMs and have the most room, all of them free, with the built-in
    provisioner. Raises SpecError, CapacityError and TestbedError for what does not fit there, PhaseError for
    what would fail.
    """
    spec, cores = forecast.spec, forecast.real_cores
    calibration = calibration_for(spec.guest, shared=cores is not None)
    machines = [host for own in forecast.fit.values() for host in own]
    inventory = replace(inventory_of(machines, "check"), uplinks=forecast.inventory.uplinks)
    testbed = Simulated(inventory, calibration, real_cores=cores)
    alone = replace(on_given_machines(spec), clusters=None, queue=None, provisioner="g5kvirt")
    part = sample(alone, testbed)
    if part.spec.vms > _MOST_VMS:
        raise SpecError(
            f"a prediction of {part.spec.vms:,} VMs takes minutes, and with these windows no sample will do",
            advice="predict it by g5kvirt predict",
        )
    found = predict(part.spec, part.testbed, environment=SMALLEST[spec.guest])
    why = f"predicted by the calibration {calibration.name}, {calibration.kind}"
    seconds = found.phases.set_index("phase")["seconds"]
    return tuple(PhaseEstimate(phase, float(seconds[phase]), why) for phase in _PHASES)
