"""The tests that need sshd, QEMU, dnsmasq or nginx, run where these are: in the node layer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from xml.etree import ElementTree

import inlayer
import pytest
from localbed import MARKS, below, wait

from g5kvirt.images import environments, minimal, tools
from g5kvirt.testbeds.local import layers
from g5kvirt.testbeds.local import namespaces as ns

pytestmark = [
    *MARKS,
    pytest.mark.skipif(inlayer.INSIDE in os.environ, reason="already inside the node layer"),
]

LIMIT = 300.0  # seconds for one file; on a quiet machine it takes less than one


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    layers.ensure()
    # with this machine's own package lists; inside, all of it comes from the cache
    minimal.build()
    tools.build()
    environments.obtain("mini")
    return {**os.environ, "PYTHONPATH": layers.python_path()}


def run(command: list[str], environment: dict[str, str], limit: float) -> tuple[int, str]:
    """Exit code and output of ``command`` inside; -1, and all inside has ended, after ``limit`` seconds."""
    process = subprocess.Popen(
        inlayer.argv(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,  # Ctrl-C is for us alone, and we end it
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate(timeout=30)
        return -1, f"not done after {limit:.0f} s:\n{output}"
    finally:
        process.kill()
        process.wait(30)
    return process.returncode, output


@pytest.mark.vm
@pytest.mark.timeout(2 * LIMIT + 120)
@pytest.mark.parametrize("file", inlayer.FILES)
def test_in_the_node_layer(file: str, environment: dict[str, str], tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    options = ["-v", "--durations=5", "-p", "no:cacheprovider", f"--junit-xml={report}"]
    words = [sys.executable, "-m", "pytest", *options, f"--basetemp={tmp_path / 'inside'}"]
    for again in (True, False):
        code, output = run([*words, str(Path(__file__).with_name(file))], environment, LIMIT)
        print(output)  # pytest shows it if this test fails
        if code == 0 or not again:
            break
        # Seen once in some thirty runs, not understood: from one test on no sshd of the lab answered.
        bad = [line for line in output.splitlines() if "FAILED" in line or "not done" in line]
        warnings.warn(f"{file} failed and is run again: {'; '.join(bad)}", stacklevel=1)
    assert code == 0
    cases = ElementTree.parse(report).findall(".//testcase")
    skipped = {case.get("name"): note.get("message") for case in cases for note in case.findall("skipped")}
    assert cases
    assert not skipped, "nothing may be missing in the layer"


def test_the_layer_changes_nothing_outside(environment: dict[str, str], tmp_path: Path) -> None:
    marker = Path("/usr/local/g5kvirt-was-here")
    programs = "for p in sshd dnsmasq nginx qemu-system-x86_64 taktuk; do command -v $p; done"
    script = f"{programs}; echo x | tee {marker} >$0; exit 7"
    code, output = run(["sh", "-c", script, str(tmp_path / "seen")], environment, 60)
    assert code == 7, output
    assert len(output.split()) == 5, output
    assert not marker.exists()
    assert (tmp_path / "seen").exists(), "files in /tmp are this machine's"


def test_processes_in_the_layer_end_with_their_parent(environment: dict[str, str]) -> None:
    """kill -9, and what inside has left its session goes as well."""
    words = inlayer.argv(["sh", "-c", "setsid sleep 3600 & sleep 3600"])
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, env=environment)
    try:
        wait(lambda: len(below(process.pid)) >= 5)
        started = {pid: ns.start_time(pid) for pid in below(process.pid)[1:]}
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        wait(lambda: all(ns.start_time(pid) != then for pid, then in started.items()), 30)
    finally:
        process.kill()
        process.wait(30)
    assert all(started.values())
