"""Prediction and looking at runs work on macOS and Windows; the rest says in a sentence what it needs.

The systems themselves are not there: what they do not have is taken away (`other_system`).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "support" / "other_system.py"
ROOT = Path(__file__).parents[2]

#: Windows has the least: what works there works on macOS too, which is tried with ``-m slow``.
pytestmark = pytest.mark.parametrize("system", ["windows", pytest.param("macos", marks=pytest.mark.slow)])


def run(system: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "small.yaml").write_text("{sites: {nancy: 2}, vms: 6}")
    (folder / "lab.yaml").write_text("sites: {nancy: 4}")
    return subprocess.run(
        [sys.executable, SCRIPT, system, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(ROOT), "HOME": str(folder), "PATH": "/usr/bin:/bin"},
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "output"),
    [
        ("predict small.yaml --vary windows.boot=1,none", "deployment on 6 VMs"),
        ("predict small.yaml --inventory lab.yaml", "machines of lab.yaml"),
        (f"predict small.yaml --inventory {ROOT}/data/runs/http", "machines of run http"),
        ("check small.yaml --inventory 2013", "predicted by the calibration grid5000"),
        ("run small.yaml --testbed simulated:2026 --name one", "prediction"),
        (f"show {ROOT}/data/runs/http", "deployed 8 of 8 VMs"),
        (f"calibrate {ROOT}/data/runs/http -o mine.yaml", "mine.yaml"),
        (f"show {ROOT}/data/runs/http --json", '"deployed": 8'),
        ("runs", "there are no runs"),
        ("completion bash", "-F _shtab_g5kvirt g5kvirt"),
        ("--help", "predict"),
    ],
)
def test_works_without_linux(system: str, words: str, output: str, tmp_path: Path) -> None:
    done = run(system, tmp_path, *words.split())
    assert done.returncode == 0, done.stderr
    assert output in done.stdout


@pytest.mark.parametrize(
    "words", ["local up", "local status", "demo", "doctor", "run small.yaml --testbed local"]
)
def test_the_local_testbed_says_that_it_needs_linux(system: str, words: str, tmp_path: Path) -> None:
    done = run(system, tmp_path, *words.split())
    assert done.returncode == 3, done.stderr
    name = {"macos": "Darwin", "windows": "Windows"}[system]
    assert f"g5kvirt: the local testbed needs root on Linux, and this is {name}: " in done.stderr
    assert "check --inventory" in done.stderr, "what works here"


def test_figures_of_a_run_are_drawn(system: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "data/runs/window-1", tmp_path / "runs/one")
    done = run(system, tmp_path, "show", "one", "--figures", "--tables")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/one/figures/boot.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "runs/one/tables/vms.csv").exists()


def test_grid5000_needs_a_system_that_execo_knows(system: str, tmp_path: Path) -> None:
    done = run(system, tmp_path, "check", "small.yaml", "--testbed", "grid5000")
    assert done.returncode == 3
    sentence = "Grid'5000 can be used from Linux or macOS, not from Windows"
    assert (sentence in done.stderr) == (system == "windows")
