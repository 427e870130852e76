"""`g5kvirt check` on real OAR, frontends and API: it says what is wrong, and changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from localbed import MARKS, below, command_line, on, wait

from g5kvirt.testbeds.local import layers
from g5kvirt.testbeds.local.state import State

pytestmark = MARKS

#: The command, with less patience: ssh itself would wait for 20 s where nobody says a word.
SCRIPT = """
import sys
from g5kvirt import cli
from g5kvirt.testbeds.grid5000 import preflight
preflight.FRONTEND_LIMIT = float(sys.argv[1])
sys.exit(cli.main(["check", *sys.argv[2:]]))
"""
GOOD = "{sites: {nancy: 1, rennes: 1}, vms: 4, properties: cluster = 'graphene' or cluster = 'paradent'}"
#: A job of another test may just be ending.
START = ("start", "")
BAD = "{sites: {nancy: 2, renes: 1}, vms: 4000, host_environment: not-there, walltime: 300}"


def check(
    bed: State, folder: Path, spec: str, patience: float = 30
) -> tuple[int, dict[tuple[str, str], Any]]:
    """The exit code, and the rows by what they are about."""
    (folder / "spec.yaml").write_text(spec)
    words = [
        str(folder / "spec.yaml"),
        "--testbed",
        f"local:{bed.name}",
        "--runs",
        str(folder / "runs"),
        "--json",
    ]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(patience), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": layers.python_path()},
    )
    assert done.stdout, done.stderr
    rows = json.loads(done.stdout)["findings"]
    return done.returncode, {(row["what"], row["subject"]): row for row in rows}


def test_check_of_a_possible_request_is_ok(bed: State, tmp_path: Path) -> None:
    code, rows = check(bed, tmp_path, GOOD)
    assert {key: row for key, row in rows.items() if row["status"] != "ok" and key != START} == {}
    assert rows[START]["status"] in ("ok", "warning")
    assert code == 0
    assert ("environment", "rennes") in rows
    assert "2 alive" in rows["machines now", "nancy"]["message"]
    assert "slash_22" in rows["sub-network", "nancy"]["message"]
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"], "no run is made"
    # and nothing is reserved: what there is at most is the end of another test's job
    wait(lambda: on(bed, "nancy.grid5000.fr", "oarstat -u").strip() == "")


def test_check_reports_problems_with_advice(bed: State, tmp_path: Path) -> None:
    code, rows = check(bed, tmp_path, BAD)
    assert code == 2
    wrong = {key for key, row in rows.items() if row["status"] == "problem"}
    assert wrong == {
        ("environment", "nancy"),
        ("machines", "nancy"),
        ("machines", "renes"),
        ("room for VMs", ""),
    }
    assert all(rows[key]["advice"] for key in wrong)
    assert rows["machines", "renes"]["advice"] == "did you mean 'rennes'?"


def test_a_frontend_that_does_not_answer(bed: State, tmp_path: Path) -> None:
    [sshd] = [pid for pid in below(bed.pid) if _is_frontend(pid, "rennes")]
    os.kill(sshd, signal.SIGSTOP)  # one that is killed is back at once
    try:
        code, rows = check(bed, tmp_path, GOOD, patience=9)
    finally:
        os.kill(sshd, signal.SIGCONT)
    assert code == 3
    assert rows["frontend", "rennes"]["status"] == "problem"
    assert rows["environment", "rennes"]["status"] == "unknown"
    assert {rows[key]["status"] for key in rows if key[1] != "rennes" and key != START} == {"ok"}, (
        "the others come all the same"
    )


def _is_frontend(pid: int, site: str) -> bool:
    words = command_line(pid)
    if "sshd -D -e [listener]" not in words:  # OAR's own has a configuration of its own
        return False
    return Path(f"/proc/{pid}/root/etc/hostname").read_text().strip() == site
