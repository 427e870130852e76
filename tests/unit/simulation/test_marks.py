"""Nothing that a prediction makes can be taken for a measurement."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from g5kvirt import Experiment, Spec, compare
from g5kvirt.cli import main
from g5kvirt.errors import RunError, SpecError
from g5kvirt.run.directory import find
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


def test_every_page_says_so(experiment: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    assert "(prediction by the calibration grid5000, assumed)" in repr(experiment)
    assert "prediction" in experiment._repr_html_()
    assert main(["show", str(experiment.path)]) == 0
    assert "(prediction by the calibration grid5000, assumed)" in capsys.readouterr().out


def test_a_run_of_the_command_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spec.yaml").write_text("{sites: {nancy: 2}, vms: 4}")
    words = ["run", str(tmp_path / "spec.yaml"), "--testbed", "simulated:2026", "--runs", str(tmp_path)]
    assert main([*words, "--name", "one"]) == 0
    assert "run one on simulated:2026 (prediction by the calibration grid5000, assumed): " in (
        capsys.readouterr().out
    )
    about = find(tmp_path, "one").document["calibration"]
    assert (about["name"], about["kind"]) == ("grid5000", "assumed")
    assert about["source"]


def test_its_service_machines_are_no_hosts_on_the_map(experiment: Experiment) -> None:
    assert len(experiment.frames.state.service_machines) == 1
    assert experiment.figures.map().data["host"].nunique() == 4
    assert "dhcp, http" in repr(experiment.configure())


def test_figures_name_the_calibration_and_no_path_of_this_machine(experiment: Experiment) -> None:
    folder, testbed = experiment.path.parent, f"simulated:{experiment.path}//local-emulated"
    again = Experiment(experiment.spec, testbed=testbed, name="again", runs=folder)
    for step in (again.reserve, again.deploy, again.configure, again.place):
        step()
    words = "run again, testbed simulated:model (prediction by the calibration local-emulated, measured)"
    caption = again.figures.map().caption
    assert words in caption
    assert str(folder) not in caption
    assert str(experiment.path) in again._runner.run.document["testbed"], "to be opened again"


def test_a_predicted_line_over_measured_points_says_whose_it_is(experiment: Experiment) -> None:
    real = Experiment.open(ROOT / "data" / "runs" / "http")
    predicted = real.predict([2, 4])
    for figures in (real.figures, compare(real)):
        (footer,) = figures.scalability(prediction=predicted).figure.texts
        words = "dotted: prediction by the calibration local-emulated, measured"
        assert words in footer.get_text().replace("\n", " ")
    with pytest.raises(SpecError, match=r"prediction must be a mapping .*, such as exp.predict\(\)"):
        real.figures.scalability(prediction=experiment)  # type: ignore[arg-type]
    with pytest.raises(RunError, match=r"is not a run: .* those of a prediction are kept by g5kvirt predict"):
        compare(real, predicted)  # type: ignore[arg-type]
    assert predicted.scalability["prediction"].all()
    assert predicted.phases["prediction"].all()


def test_a_prediction_on_the_machines_of_a_run_has_its_name_beside_it(tmp_path: Path) -> None:
    real = ROOT / "data" / "runs" / "http"  # recorded when a specification had fewer fields
    spec = Experiment.open(real).spec
    model = Experiment(spec, testbed=f"simulated:{real}", name="model", runs=tmp_path)
    model.reserve()
    assert compare(real, model).labels == ["http", "model (predicted)"]


def dashes(picture: Picture) -> set[object]:
    """Of all curves in a figure, points and straight lines aside."""
    lines = picture.figure.axes[0].get_lines()
    return {line.get_linestyle() for line in lines if len(line.get_xdata()) > 2} - {"None"}


def test_lines_of_predictions_are_dotted_and_no_others(experiment: Experiment) -> None:
    assert PREDICTED not in {dashes for _, dashes, _ in SERIES}
    assert dashes(experiment.figures.distribution()) == {PREDICTED}
    real = ROOT / "data" / "runs" / "http"
    assert PREDICTED not in dashes(Experiment.open(real).figures.distribution())
    (legend,) = experiment.figures.scalability().figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["prediction", "transfer bound"]
    both = compare({"real": real, "model": experiment.path})
    for picture in (both.boot(), both.deployment(), both.scalability()):
        assert PREDICTED in dashes(picture), "that of the model"
        assert dashes(picture) - {PREDICTED}, "that of the real run"
