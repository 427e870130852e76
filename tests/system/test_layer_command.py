"""A command with the programs of the node layer: whose it is, what it sees, and when it ends."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from localbed import MARKS, below, process_name, wait

from g5kvirt.testbeds.local import in_layer

pytestmark = [*MARKS]

USER = 61_000


def test_a_command_is_another_users_and_has_the_layers_programs(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    script = (
        "id -u; command -v qemu-system-x86_64; echo here > written; touch /etc/x 2>/dev/null || echo safe"
    )
    done = subprocess.run(
        in_layer.argv(tmp_path, USER, ["sh", "-c", script]),
        env=in_layer.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == [str(USER), "/usr/bin/qemu-system-x86_64", "safe"]
    assert (tmp_path / "written").read_text() == "here\n"


@pytest.mark.parametrize("ending", ["kill", "terminate"])
def test_a_command_ends_with_the_process_that_started_it(ending: str, tmp_path: Path) -> None:
    process = subprocess.Popen(in_layer.argv(tmp_path, USER, ["sleep", "600"]), env=in_layer.environment())
    try:
        wait(lambda: any(process_name(pid) == "sleep" for pid in below(process.pid)))
        started = [pid for pid in below(process.pid) if process_name(pid) == "sleep"]
        time.sleep(0.1)
    finally:
        getattr(process, ending)()
        process.wait(30)
    wait(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), timeout=20)
