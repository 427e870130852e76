"""The recorded runs, as they were written, still open: every table has the bytes that it had.

``golden/recorded-tables.json`` has the SHA-256 of each CSV. When a table is meant to change, look at the
difference, and write the file anew: ``python tests/unit/run/test_recorded_runs.py``.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import pytest

from g5kvirt.experiment import Experiment

ROOT = Path(__file__).parents[3]
GOLDEN = Path(__file__).parents[1] / "golden" / "recorded-tables.json"
RUNS = sorted(path.parent for path in (ROOT / "data" / "runs").glob("*/run.json"))


def digests(run: Path, folder: Path) -> dict[str, str]:
    """CSV → SHA-256, of all tables of a run, and of the numbers behind its figures."""
    experiment = Experiment.open(run)
    experiment.frames.export(folder / "tables")
    if (run / "journal.jsonl").exists():  # else a large one, of which the paper figures are drawn
        experiment.figures.save(folder / "figures")
    files = sorted(folder.rglob("*.csv"))
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_tables_of_recorded_runs_are_unchanged(run: Path, tmp_path: Path) -> None:
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))[run.name]
    assert digests(run, tmp_path) == expected
    assert len(expected) >= 5


def test_every_recorded_run_has_digests() -> None:
    assert RUNS
    assert [run.name for run in RUNS] == sorted(json.loads(GOLDEN.read_text(encoding="utf-8")))


if __name__ == "__main__":
    document = {}
    for one in RUNS:
        with tempfile.TemporaryDirectory() as scratch:
            document[one.name] = digests(one, Path(scratch))
    GOLDEN.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    sys.exit(0)
