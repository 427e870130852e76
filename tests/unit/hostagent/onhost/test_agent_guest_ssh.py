"""Outputs of guests, as a host keeps them and sends them on. Its logins: tests/system/test_libssh.py."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from g5kvirt.guests import commands
from g5kvirt.hostagent.onhost import guest_ssh


def test_output_that_is_no_text_takes_little_more_than_its_bytes() -> None:
    for data in (bytes(1 << 20), b"\xff" * (1 << 20), os.urandom(1 << 20), "é".encode() * (1 << 19)):
        found = json.loads(json.dumps(guest_ssh.encoded("out", data)))
        assert len(json.dumps(json.dumps(found))) < 1.5 * len(data)
        assert commands._output(found, "out") == data
    assert guest_ssh.encoded("out", b"a line\n") == {"out": "a line\n"}
    assert commands._output({"out": "", "out64": "no base64!"}, "out") == b""


def test_outputs_leave_room_on_their_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = guest_ssh.Files(None, str(tmp_path / "output"))
    assert not files.are_full()
    monkeypatch.setattr(guest_ssh, "LEAST_ROOM", 1 << 60)
    assert files.are_full()
    assert not guest_ssh.Files(None, None).are_full()
