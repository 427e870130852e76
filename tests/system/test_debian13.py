"""The first command of the README on a bare Debian 13, which is made for it. Minutes: only with ``-m slow``.

Packages, Python and what VMs boot are Debian 13's; the kernel that runs, and the network, are this machine's.
Measured once, on two busy cores: ready in 2 min 45 s, the demonstration with 8 VMs in 9 min 0 s, of which the
testbed with its layers took 43 s; 8 of 8 VMs deployed.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from indebian import argv
from localbed import MARKS

from g5kvirt.images import debian_system, repository
from g5kvirt.run.journal import read_events
from g5kvirt.run.tables import Frames

pytestmark = [*MARKS, pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(3600)]

CHECKOUT = Path(__file__).resolve().parents[2]
LIMIT = 3000.0  # seconds


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[Path]:
    """The root of a bare Debian 13 with this checkout in ``/root/g5kvirt``."""
    root, scratch = tmp_path / "root", tmp_path / "scratch"
    scratch.mkdir()
    command = [
        *(debian_system.program(scratch), "--mode=root", "--variant=minbase", "--format=directory"),
        *("--include=ca-certificates", '--aptopt=APT::Sandbox::User "root"'),
        *(repository.RELEASES[13], str(root), *repository.sources(repository.RELEASES[13])),
    ]
    subprocess.run(command, check=True, timeout=900)
    checkout = root / "root/g5kvirt"
    checkout.mkdir()
    files = subprocess.run(
        ["git", "-C", str(CHECKOUT), "ls-files", "-z"], check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, files.split("\0")):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, checkout / name)
    yield root
    shutil.rmtree(root)


def test_the_demonstration_runs_on_a_bare_debian_13(debian: Path) -> None:
    command = "cd /root/g5kvirt && exec ./bootstrap demo --vms 2"
    done = subprocess.run(
        argv(debian, ["sh", "-c", command]), capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    (journal,) = debian.glob("root/g5kvirt/runs/*/journal.jsonl")
    frames = Frames(read_events(journal))
    assert list(frames.vms["state"]) == ["up", "up"]
    assert set(frames.measurements.vms["outcome"]) == {"deployed"}
