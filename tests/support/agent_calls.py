"""Calls of the host agent on this machine, each in a process of its own, as on a host."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import agent_copy

from g5kvirt.hostagent import protocol
from g5kvirt.hostagent.protocol import Answer


def call(home: Path, *requests: dict[str, Any]) -> list[Answer]:
    """The agent's answers to these requests."""
    document = protocol.document(*requests, home=str(home))
    done = subprocess.run(agent_copy.argv(), input=document, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return protocol.parse(done.stdout)
