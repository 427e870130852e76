"""An ssh agent of our own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from g5kvirt.errors import MachineError
from g5kvirt.remote.key_agent import KeyAgent

pytestmark = pytest.mark.skipif(shutil.which("ssh-agent") is None, reason="needs ssh-agent")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True, timeout=30
    )
    return tmp_path / "key"


def test_agent_holds_the_key_and_ends(key: Path) -> None:
    agent = KeyAgent(key, os.environ)
    env = {**os.environ, "SSH_AUTH_SOCK": str(agent.socket)}
    listed = subprocess.run(
        ["ssh-add", "-L"], env=env, capture_output=True, text=True, check=True, timeout=30
    )
    assert listed.stdout.split()[1] == key.with_suffix(".pub").read_text().split()[1]
    assert agent.socket.parent.stat().st_mode & 0o777 == 0o700
    agent.close()
    assert not agent.socket.parent.exists()
    _ended(str(agent.socket))


def _ended(path: str) -> None:
    """No process has ``path`` in its command any more."""
    deadline = time.monotonic() + 5
    while path in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout:
        assert time.monotonic() < deadline, "the agent still runs"
        time.sleep(0.05)


def test_key_that_is_none_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("no key\n")
    (tmp_path / "key").chmod(0o600)
    # A folder of this test's own, short enough for a socket: agents of other tests run beside it.
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        with pytest.raises(MachineError, match="ssh-add does not take"):
            KeyAgent(tmp_path / "key", os.environ)
        assert not list(Path(folder).iterdir())
        _ended(folder)


def test_missing_program_is_an_error(key: Path) -> None:
    with pytest.raises(MachineError, match="ssh-agent not found"):
        KeyAgent(key, {"PATH": "/nonexistent"})
