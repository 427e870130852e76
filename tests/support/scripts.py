"""Scripts in a process of their own, as a notebook's would be: execo knows one testbed a process."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from g5kvirt.testbeds.local.state import State

#: What every script has at hand.
PREAMBLE = """
import datetime, json, sys, time
from dataclasses import replace
from g5kvirt import Experiment, Spec
from g5kvirt.errors import G5kvirtError, PhaseOrderError
testbed, runs = sys.argv[1:3]
"""
#: All steps but measure. To be filled in: more of the specification, the run's name, what follows.
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
    words = [sys.executable, "-c", PREAMBLE + textwrap.dedent(script), f"local:{state.name}", str(runs)]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, stdin=subprocess.DEVNULL, text=True)


def end(process: subprocess.Popen[str], timeout: float = 300) -> str:
    """What it printed; the test fails if it fails."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode == 0, f"{out}\n{err}"
    return out


def answer(process: subprocess.Popen[str], timeout: float = 300) -> Any:
    """The JSON document in the last line that it printed."""
    return json.loads(end(process, timeout).splitlines()[-1])
