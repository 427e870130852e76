"""The machines of a simulated testbed."""

from __future__ import annotations

from pathlib import Path

import pytest

from g5kvirt import Experiment, Spec
from g5kvirt.cli import main
from g5kvirt.errors import SpecError
from g5kvirt.simulation.calibration import load, save
from g5kvirt.testbeds.simulated.driver import simulated, with_calibration

RUNS = Path(__file__).parents[3] / "data" / "runs"
LAB = "sites: {nancy: {clusters: {big: {nodes: 4, cores: 24, memory_gib: 96, nic_gbps: 10}}}}"


def test_the_machines_of_a_description_are_real_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab.yaml").write_text(LAB)
    monkeypatch.chdir(tmp_path)
    exp = Experiment(
        Spec(sites={"nancy": 3}, vms=40), testbed="simulated:lab.yaml", name="lab", runs=tmp_path
    )
    exp.reserve()
    monkeypatch.chdir("/")
    again = Experiment.open(tmp_path / "lab")
    for step in ("deploy", "configure", "place", "launch"):
        getattr(again, step)()
    assert again.frames.account.up == 40
    assert all(name.startswith("big-") for name in again.frames.hosts["host"])
    assert again.testbed.real_cores is None
    assert again.testbed_name.startswith("simulated:lab.yaml (prediction")
    assert str(tmp_path / "lab.yaml") in again.testbed.name


def test_a_calibration_of_ones_own_is_found_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(load("grid5000"), tmp_path / "mine.yaml")
    monkeypatch.chdir(tmp_path)
    bed = simulated("2013/mine.yaml")
    monkeypatch.chdir("/")
    again = simulated(bed.name.removeprefix("simulated:"))
    assert again.name == bed.name
    with pytest.raises(SpecError, match=r"there is no calibration 'mine\.yaml'"):
        simulated("2013/mine.yaml")


def test_the_machines_of_a_run_share_what_they_shared() -> None:
    bed = simulated(str(RUNS / "emulated-24"))
    assert bed.real_cores == 2
    assert bed.world.calibration.name == "local-emulated"
    light = simulated(str(RUNS / "slides-light"))
    assert light.world.calibration.name == "local-light"
    assert sum(map(len, light.machines().values())) >= 355


def test_a_calibration_of_ones_own_is_in_the_name() -> None:
    file = Path(__file__).parents[3] / "data" / "calibrations" / "local-light.yaml"
    for machines in ("2013", str(RUNS / "http")):
        bed = simulated(with_calibration(machines, str(file)))
        assert bed.world.calibration.name == "local-light"
        again = simulated(bed.name.partition(":")[2])
        assert (again.name, again.world.calibration.name) == (bed.name, "local-light")


@pytest.mark.parametrize("name", ["2014", "nothing.yaml", "runs/none", "\0", "x" * 5000, "lab.yaml"])
def test_what_is_no_source_of_machines_is_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.yaml").write_text("sites: {nancy: 1000000}")
    with pytest.raises(SpecError) as caught:
        simulated(name)
    assert "\n" not in caught.value.message


def test_predict_takes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spec.yaml").write_text("{sites: {nancy: 2}, vms: 8}")
    words = ["predict", str(tmp_path / "spec.yaml"), "--into", str(tmp_path), "--json"]
    assert main([*words, "--inventory", str(RUNS / "http")]) == 0
    assert '"8"' in capsys.readouterr().out
    assert main([*words, "--inventory", str(tmp_path / "none")]) == 2
    assert "a testbed's description" in capsys.readouterr().err
