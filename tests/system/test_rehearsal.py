"""`g5kvirt rehearse` on real OAR, machines and VMs, and the report about that run."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from localbed import MARKS, on, temporary_testbed

from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local import layers
from g5kvirt.testbeds.local.state import State

pytestmark = MARKS


@pytest.fixture(scope="module")
def grid() -> Iterator[State]:
    with temporary_testbed("rehearse", make({"nancy": 3})) as state:
        yield state


def g5kvirt(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "g5kvirt", *words],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "PYTHONPATH": layers.python_path(), "SOME_TOKEN": "nancy-secret-token"},
    )


def test_rehearsal_and_its_report(grid: State, tmp_path: Path) -> None:
    words = ["rehearse", "--testbed", f"local:{grid.name}", "--site", "nancy"]
    unasked = g5kvirt(tmp_path, *words, "--name", "unasked")
    assert unasked.returncode == 2
    assert "there is no terminal: add --yes" in unasked.stderr
    assert not (tmp_path / "runs").exists()
    assert on(grid, "nancy.grid5000.fr", "oarstat").strip() == ""

    done = g5kvirt(tmp_path, *words, "--name", "first", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "runs" / "first" / "rehearsal.txt").read_text()
    assert "3 machines (2 hosts, 1 service machine)" in done.stdout
    assert done.stdout.endswith(text)
    for step in ("check", "reserve", "deploy", "configure", "place", "launch", "measure", "run", "release"):
        assert f"✓ {step} " in text
    assert "4 of 4 VMs deployed" in text
    assert on(grid, "nancy.grid5000.fr", "oarstat").strip() == ""

    packed = g5kvirt(tmp_path, "report", "first", "--yes")
    assert packed.returncode == 0, packed.stderr
    with tarfile.open(tmp_path / "first-report.tar.gz") as archive:
        files = {m.name: archive.extractfile(m).read().decode() for m in archive.getmembers()}  # type: ignore[union-attr]
    transcript = files["g5kvirt-report/transcript.jsonl"]
    # No oarstat: while the API calls the job alive, it is not needed.
    for said in ("oarsub -l", "OAR_JOB_ID=", "kadeploy3 ", "oardel", "/sites/nancy/jobs/"):
        assert said in transcript, said
    public = (tmp_path / "runs" / "first" / "ssh" / "id_ed25519.pub").read_text().split()[1]
    for name, content in files.items():
        assert public not in content, name
    assert '"vm-1"' in files["g5kvirt-report/journal.jsonl"], "a host that is called vm hides no VM"
