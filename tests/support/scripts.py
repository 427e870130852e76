"""Scripts in separate processes, like notebooks: execo supports only one testbed per process."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from g5kvirt.testbeds.local.state import State

#: The start of every script.
PREAMBLE = """
import datetime, json, sys, time
from dataclasses import replace
from g5kvirt import Experiment, Spec
from g5kvirt.errors import G5kvirtError, PhaseOrderError
testbed, runs = sys.argv[1:3]
"""
#: All steps but measure. Parameters: more of the specification, the name of the run, the rest of the script.
LAUNCHED = """
exp = Experiment(Spec(sites={"nancy": 1, "rennes": 1}, %s), testbed=testbed, name="%s", runs=runs)
try:
    for step in ("reserve", "deploy", "configure", "place", "launch"):
        getattr(exp, step)()
    %s
finally:
    exp.release()
"""


def start(script: str, state: State, runs: Path) -> subprocess.Popen[str]:
    """Start a script on the testbed ``state``, with its runs below ``runs``."""
    argv = [sys.executable, "-c", PREAMBLE + textwrap.dedent(script), f"local:{state.name}", str(runs)]
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, stdout=pipe, stderr=pipe, stdin=subprocess.DEVNULL, text=True)


def end(process: subprocess.Popen[str], timeout: float = 300) -> str:
    """The output of a script; the test fails if the script fails."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode == 0, f"{out}\n{err}"
    return out


def answer(process: subprocess.Popen[str], timeout: float = 300) -> Any:
    """The JSON document in the last line of its output."""
    return json.loads(end(process, timeout).splitlines()[-1])
