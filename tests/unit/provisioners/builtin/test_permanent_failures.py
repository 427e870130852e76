"""A failure that no other try can mend: from the guest's report, through the server's log, to the engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib import resources
from ipaddress import IPv4Address

import pytest

from g5kvirt.inventory import VM
from g5kvirt.netboot.bootlog import BootLog, Milestone

VM_1 = VM(1, "vm-1", "h-1", "nancy", IPv4Address("10.144.0.9"), "02:00:90:00:00:09")
DEPLOY = resources.files("g5kvirt.images").joinpath("guest", "deploy").read_text(encoding="utf-8")


def reported(*reports: str) -> Milestone:
    """What the log says after the guest's ``failed`` was called so."""
    busybox = shutil.which("busybox")
    if not busybox:
        pytest.skip("needs busybox")
    functions = "".join(
        re.search(rf"(?ms)^{name}\(\) \{{.*?^\}}\n", DEPLOY)[0]  # type: ignore[index]
        for name in ("escaped", "failed")
    )
    script = f'report() {{ printf %s "/report?step=$1&name=vm-1&$2"; }}\n{functions}\nfailed "$@"'
    given = ["env", "step=partition", "deployment=d1.1", "target=/nowhere", busybox, "sh", "-c", script, "sh"]
    done = subprocess.run([*given, *reports], capture_output=True, text=True, timeout=10)
    assert done.returncode == 1
    line = {"t": 1.0, "took": 0.0, "status": 200, "bytes": 0, "from": str(VM_1.ip), "uri": done.stdout}
    seen = BootLog([VM_1]).read(json.dumps(line))
    assert seen is not None
    return seen


def test_guest_reports_whether_another_try_would_help() -> None:
    seen = reported("the disk is too small & slow", "hopeless")
    assert (seen.step, seen.deployment, seen.status) == ("partition", "d1.1", "failed")
    assert seen.reason == "the disk is too small & slow"
    assert seen.permanent
    assert not reported("wget: connection reset").permanent


def test_only_a_failure_can_be_permanent() -> None:
    assert not Milestone("vm-1", "image", 1.0, {"status": "ok", "hopeless": "1"}).permanent


def test_what_the_procedure_calls_permanent() -> None:
    said = re.findall(r'failed "([^"]+)(?:\$\(.*\)")?" hopeless', DEPLOY)
    starts = {" ".join(text.split()[:3]) for text in said}
    assert {"the VM has", "the disk is", "the image's SHA-256", "the image has"} <= starts
