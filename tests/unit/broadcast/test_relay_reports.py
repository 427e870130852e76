"""What relays report, and what is left of a killed one."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import agent_copy
from chainhosts import HEAD, IMAGE, SUM, host

from g5kvirt.broadcast.chain import chain
from g5kvirt.broadcast.reports import read_report, results_by_host
from g5kvirt.hostagent import protocol


def report(name: str, **changes: Any) -> str:
    line = {"op": "broadcast", "host": name, "state": "ok", "have": 1000, "size": 1000, "seconds": 1.5}
    line |= {"checked": 2.0, "t": 1e9, "cpu": 0.1, "from": "x", "skipped": ["y"], "reason": ""}
    return json.dumps(line | changes)


def test_read_report_ignores_anything_else() -> None:
    found = read_report(report("node-1.nancy"))
    assert found is not None
    assert found.ok
    assert found.skipped == ("y",)
    for line in (
        "",
        "Traceback",
        "[]",
        "7",
        '{"op": "follow"}',
        report("x", have="many"),
        report("x", t=None),
    ):
        assert read_report(line) is None


def test_every_host_has_a_result_and_a_reason() -> None:
    plan = chain([host("nancy", "", n) for n in (1, 2, 3, 4)], IMAGE, head_url=HEAD)
    names = [s.host.name for s in plan.stops]
    reports = {}
    for line in (
        report(names[0]),
        report(names[1], state="receiving", have=400, checked=None),
        report(names[2], state="failed", reason="its SHA-256 is x"),
    ):
        progress = read_report(line)
        assert progress is not None
        reports[progress.host] = progress
    results = results_by_host(plan, reports, {names[1]: "connection lost", names[2]: "not this"})
    assert list(results) == names
    assert [r.ok for r in results.values()] == [True, False, False, False]
    assert results[names[1]].reason == "connection lost after 400 of 1000 bytes"
    assert results[names[2]].reason == "its SHA-256 is x"
    assert results[names[3]].reason == "its relay did not report how it ended"
    assert all(r.ended for r in results.values())


def test_stop_removes_the_files_of_a_killed_relay(tmp_path: Path) -> None:
    for name in (SUM, f"{SUM}.json", "else"):
        (tmp_path / name).touch()
    files = [str(tmp_path / SUM), f"{tmp_path / SUM}.json", str(tmp_path / "gone")]
    request = protocol.stop_service(["relay"], remove=files)
    document = protocol.document(request, home=str(tmp_path / "home"))
    done = subprocess.run(agent_copy.argv(), input=document, capture_output=True, check=True, timeout=10)
    assert [answer.subject for answer in protocol.parse(done.stdout)] == ["relay"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["else", "home"]
