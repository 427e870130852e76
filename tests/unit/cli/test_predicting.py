"""``g5kvirt predict`` and ``calibrate``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from g5kvirt.cli import main
from g5kvirt.cli.predicting import _run_name, variations
from g5kvirt.errors import SpecError
from g5kvirt.run.directory import list_runs

RUNS = Path(__file__).parents[3] / "data" / "runs"
SPEC = "sites: {nancy: 4}\nvms: 40\nvm: {memory: 350, disk: 564}\nwindows: {reboot: 10, reboot_sleep: 5}\n"


def test_variations_are_lists_of_yaml_values() -> None:
    given = ["windows.reboot=50,80,none", "windows=[{boot: 2}, null]", "netboot=http,tftp"]
    assert variations(given) == {
        "windows.reboot": [50, 80, None],
        "windows": [{"boot": 2}, None],
        "netboot": ["http", "tftp"],
    }
    for wrong in ("windows.reboot", "=3", "vms=", "windows=[1"):
        with pytest.raises(SpecError, match="--vary"):
            variations([wrong])


def test_each_variation_is_predicted_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "large.yaml").write_text(SPEC)
    words = ["predict", str(tmp_path / "large.yaml"), "--into", str(tmp_path), "--json"]
    assert (
        main([*words, "--measure", "10,40", "--vary", "windows=[{reboot: 10, reboot_sleep: 5}, null]"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert [one["variation"] for one in found] == ["reboot 10, reboot_sleep 5", "windows auto"]
    assert all(one["prediction"] is True and list(one["deployments"]) == ["10", "40"] for one in found)
    slow, fast = (one["deployments"]["40"] for one in found)
    assert slow > fast + 8, "three pauses of five seconds, some of which the link would have cost anyway"
    kept = list_runs(tmp_path / "large-prediction")
    assert [run.name for run in kept] == ["reboot-10-reboot_sleep-5", "windows-auto"]
    assert [one["run"] for one in found] == [str(run.path) for run in kept]
    assert (tmp_path / "large-prediction" / "scalability.pdf").exists()


def test_a_calibration_of_ones_own_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "large.yaml").write_text(SPEC)
    mine = tmp_path / "mine.yaml"
    assert main(["calibrate", str(RUNS / "http"), "-o", str(mine)]) == 0
    assert "deployment: the steps alone gave 9" in capsys.readouterr().out
    words = ["predict", str(tmp_path / "large.yaml"), "--into", str(tmp_path), "--calibration", str(mine)]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "calibration 'mine' (measured, on one machine that all hosts shared); no machine ran" in out
    assert "mine: measured on a local testbed, whose processors, reserve, deploy and configure" in out
    folder = tmp_path / "large-prediction"
    assert f"run      {folder / 'large'}\n" in out
    (of_one_size,) = folder.glob("*.pdf")
    assert of_one_size.stem == "deployment", "one point would make no curve"
    assert "by the calibration mine, measured)" in list_runs(folder)[0].testbed


def test_light_guests_get_the_environment_of_light_guests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "light.yaml").write_text("{sites: {nancy: 2}, vms: 8, guest: light}")
    words = ["predict", str(tmp_path / "light.yaml"), "--summary", "--json"]
    assert main([*words, "--calibration", "local-light"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["failed"] == {"8": 0}


def test_a_summary_keeps_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "large.yaml").write_text("{sites: {nancy: 4}, vms: 40}")
    words = ["predict", str(tmp_path / "large.yaml"), "--into", str(tmp_path), "--json", "--summary"]
    assert main([*words, "--vary", "windows.reboot=10,20", "--measure", "10,40"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["variation"], list(one["deployments"])) for one in found] == [
        ("reboot 10", ["10", "40"]),
        ("reboot 20", ["10", "40"]),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["large.yaml"]


def test_names_of_runs_are_readable_and_each_is_another() -> None:
    taken: list[Path] = []
    for label in ("reboot 50", "Reboot/50", "", "–"):
        taken.append(Path(_run_name(label, taken)))
    assert [path.name for path in taken] == ["reboot-50", "Reboot-50-2", "prediction", "prediction-2"]


def test_what_cannot_be_predicted_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "large.yaml").write_text(SPEC.replace("vms: 40", "vms: 40000"))
    assert main(["predict", str(tmp_path / "large.yaml"), "--into", str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main(["calibrate", str(tmp_path / "none"), "-o", str(tmp_path / "x.yaml")]) == 2
    assert "there is no run" in capsys.readouterr().err
