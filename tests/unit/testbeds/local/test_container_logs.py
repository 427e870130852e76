"""Logs of containers, out of pipes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from g5kvirt.testbeds.local import container_logs
from g5kvirt.testbeds.local.container_logs import ContainerLogs


def test_what_comes_out_of_pipes_is_in_files_with_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container_logs, "LIMIT", 100)
    logs = ContainerLogs()
    ends = []
    for number in range(3):
        output, end = os.pipe()
        logs.add(output, tmp_path / f"{number}.log")
        ends.append((output, end))
    for line in range(20):
        for number, (_, end) in enumerate(ends):
            os.write(end, f"{number} says {line}\n".encode())
    for _, end in ends:
        os.close(end)
    deadline = time.monotonic() + 10
    while logs._files and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not logs._files, "each pipe is closed at its end"
    for number in range(3):
        pieces = [tmp_path / f"{number}.log.1", tmp_path / f"{number}.log"]
        text = "".join(piece.read_text() for piece in pieces if piece.exists())
        assert text.endswith(f"{number} says 19\n")
        assert len(text) < 400 + 100
        assert pieces[0].stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_written_holds_up_no_pipe(tmp_path: Path) -> None:
    logs = ContainerLogs()
    output, end = os.pipe()
    logs.add(output, tmp_path / "none" / "log")
    for _ in range(100):
        os.write(end, b"x" * 4096)
    os.close(end)
