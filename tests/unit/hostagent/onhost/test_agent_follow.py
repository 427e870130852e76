"""Following files that grow."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import agent_copy

from g5kvirt.hostagent import protocol


def test_follow_streams_lines_from_an_offset_and_ends_with_its_input(tmp_path: Path) -> None:
    log, later = tmp_path / "log", tmp_path / "later"
    log.write_text("old\nnew\n")
    request = json.dumps({"requests": [protocol.follow({str(log): 4, str(later): 0}, poll=0.01)]})
    process = subprocess.Popen(
        agent_copy.argv(request),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None

    def line() -> protocol.Line:
        assert process.stdout is not None
        while True:
            if found := protocol.parse_line(process.stdout.readline()):
                return found

    assert line() == protocol.Line(str(log), 8, "new")
    with log.open("a") as file:
        file.write("to")
        file.flush()
        time.sleep(0.05)
        file.write("rn\n")
    assert line() == protocol.Line(str(log), 13, "torn")
    later.write_text("é\n")
    assert line() == protocol.Line(str(later), 3, "é")
    log.rename(tmp_path / "log.1")
    log.write_text("anew\n")
    assert line() == protocol.Line(str(log), 5, "anew")
    process.stdin.close()
    assert process.wait(10) == 0
    process.stdout.close()
