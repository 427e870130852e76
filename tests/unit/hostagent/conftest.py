"""A home for the host agent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_calls import call

from g5kvirt.hostagent import protocol


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home for the agent; whatever services a test starts there are ended."""
    yield tmp_path / "home"
    if (tmp_path / "home").exists():
        call(tmp_path / "home", protocol.stop_service())
