"""What an experiment would take: the same phases on a simulated testbed, and calibrations from measured runs.

::

    predict(spec, Simulated(table("2013"), calibration.load("grid5000")), sizes=[500, 4552]).scalability
    calibrate(["runs/small"], "mine")

A prediction is a run of `g5kvirt.testbeds.simulated`: the decisions are those of any other run, only time is
a model's.
"""

from g5kvirt.prediction.calibrating import calibrate
from g5kvirt.prediction.expected import expected_times
from g5kvirt.prediction.predicting import predict, predict_run, simulate
from g5kvirt.prediction.result import Prediction
from g5kvirt.testbeds.simulated.recorded import inventory_of

__all__ = ["Prediction", "calibrate", "expected_times", "inventory_of", "predict", "predict_run", "simulate"]
