"""The notebook that predicts, top to bottom as a batch job runs it: no root, no testbed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from g5kvirt.testbeds.local import layers


@pytest.mark.timeout(300)
def test_the_notebook_of_predictions_runs_from_top_to_bottom(tmp_path: Path) -> None:
    small = {"hosts": "12", "site_count": "2", "vms": "60", "sizes": "[20, 60]", "larger": "[100]"}
    small["largest"] = "1000"
    words = [sys.executable, "-m", "g5kvirt", "notebook", "predict", "--runs", str(tmp_path)]
    for key, value in {**small, "name": "model"}.items():
        words += ["-p", key, value]
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "PYTHONPATH": layers.python_path()},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "model"
    cells = json.loads((folder / "predict.ipynb").read_text(encoding="utf-8"))["cells"]
    text = json.dumps([cell.get("outputs") for cell in cells])
    assert "no machine ran" in text
    assert "100 VMs on 12 hosts" in text
    assert "1,000 VMs on 12 hosts of 2026" in text
    assert {path.stem for path in (folder / "figures").glob("*.pdf")} >= {"compare-scalability"}
