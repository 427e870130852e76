"""An image of one's own: built, checked; the how-to's recipe as typed. Minutes: only with ``-m slow``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from localbed import MARKS

from g5kvirt.images import packages
from g5kvirt.testbeds.local import layers

pytestmark = [*MARKS, pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(3600)]

PAGE = Path(__file__).parents[2] / "docs/howto/environment.md"


def g5kvirt(folder: Path, *words: str, **environment: str) -> str:
    """The output of a command; the test fails if that fails."""
    done = subprocess.run(
        [sys.executable, "-m", "g5kvirt", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=2400,
        env={**os.environ, "PYTHONPATH": layers.python_path(), **environment},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("debian", ["12", "13"])
def test_an_image_is_built_and_boots(debian: str, tmp_path: Path) -> None:
    script = tmp_path / "setup"
    script.write_text("#!/bin/sh\niperf3 --version > /etc/made\n")
    request = (
        "--debian",
        debian,
        "--packages",
        "iperf3",
        "--script",
        "setup",
        "--compression",
        "zstd",
        "--refresh",
    )
    out = g5kvirt(tmp_path, "image", "build", *request, "mine")
    assert re.search(r"installing packages: \d+ of \d+ \(\d+ %\)", out)
    out = g5kvirt(tmp_path, "image", "check", "environments/mine.yaml")
    assert "root could log in" in out
    assert "✗" not in out


def test_the_recipe_of_the_howto_makes_an_image_that_boots(tmp_path: Path) -> None:
    found = re.search(r"```sh title=\"own.sh\"\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    (package,) = packages.fetch(["debootstrap"], tmp_path).values()
    packages.unpack(package, tmp_path / "debootstrap")
    place = tmp_path / "debootstrap/usr"
    environment = {
        "DEBOOTSTRAP_DIR": f"{place}/share/debootstrap",
        "PATH": f"{place}/sbin:{os.environ['PATH']}",
    }
    subprocess.run(
        ["sh", "-c", found[1]], cwd=tmp_path, env={**os.environ, **environment}, check=True, timeout=1800
    )
    out = g5kvirt(tmp_path, "image", "check", "own.tar.zst")
    assert "root could log in" in out
    assert "✗" not in out
    subprocess.run(["rm", "-rf", "rootfs"], cwd=tmp_path, check=True)
