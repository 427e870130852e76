"""Nothing that a prediction makes can be taken for a measurement."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from g5kvirt import Experiment, Spec, compare
from g5kvirt.cli import main
from g5kvirt.errors import RunError
from g5kvirt.prediction import calibrate
from g5kvirt.views.drawing import Picture
from g5kvirt.views.style import PREDICTED, SERIES

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("marks")
    exp = Experiment(Spec(sites={"nancy": 4}, vms=8), testbed="simulated:2013", name="model", runs=folder)
    results = [step() for step in (exp.reserve, exp.deploy, exp.configure, exp.place, exp.launch)]
    measured = exp.measure(sizes=[2, 4, 8])
    for one in (*results, measured):
        assert "(run model, a prediction)" in repr(one)
        assert "prediction" in one._repr_html_()
    return exp


def test_every_table_says_so(experiment: Experiment, tmp_path: Path) -> None:
    written = experiment.frames.export(tmp_path)
    assert len(written) == 10
    for path in written:
        assert pd.read_csv(path)["prediction"].all(), path.name
    real = Experiment.open(ROOT / "data" / "runs" / "http").frames
    assert not any("prediction" in pd.read_csv(path) for path in real.export(tmp_path / "real"))


def test_a_run_says_so_by_its_testbed_too(experiment: Experiment, tmp_path: Path) -> None:
    shutil.copytree(experiment.path, tmp_path / "edited")
    document = json.loads((tmp_path / "edited" / "run.json").read_text())
    del document["prediction"]
    (tmp_path / "edited" / "run.json").write_text(json.dumps(document))
    assert "(prediction)" in repr(Experiment.open(tmp_path / "edited"))
    with pytest.raises(RunError, match="is a prediction"):
        calibrate([tmp_path / "edited"], "mine")


def test_every_page_says_so(experiment: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    assert "(prediction)" in repr(experiment)
    assert "prediction" in experiment._repr_html_()
    assert main(["show", str(experiment.path)]) == 0
    assert "(prediction)" in capsys.readouterr().out


def test_a_run_of_the_command_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spec.yaml").write_text("{sites: {nancy: 2}, vms: 4}")
    words = ["run", str(tmp_path / "spec.yaml"), "--testbed", "simulated:2026", "--runs", str(tmp_path)]
    assert main([*words, "--name", "one"]) == 0
    assert "run one on simulated:2026 (prediction): " in capsys.readouterr().out


def dashes(picture: Picture) -> set[object]:
    """Of all curves in a figure, points and straight lines aside."""
    lines = picture.figure.axes[0].get_lines()
    return {line.get_linestyle() for line in lines if len(line.get_xdata()) > 2} - {"None"}


def test_lines_of_predictions_are_dotted_and_no_others(experiment: Experiment) -> None:
    assert PREDICTED not in {dashes for _, dashes, _ in SERIES}
    assert dashes(experiment.figures.distribution()) == {PREDICTED}
    real = ROOT / "data" / "runs" / "http"
    assert PREDICTED not in dashes(Experiment.open(real).figures.distribution())
    both = compare({"real": real, "model": experiment.path})
    for picture in (both.boot(), both.deployment(), both.scalability()):
        assert PREDICTED in dashes(picture), "that of the model"
        assert dashes(picture) - {PREDICTED}, "that of the real run"
