"""Testbeds for the tests of this directory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from localbed import DESCRIPTION, PREFIX, nothing_left

from g5kvirt.testbeds.local import lifecycle
from g5kvirt.testbeds.local.state import State, directory


@pytest.fixture(scope="session")
def bed() -> Iterator[State]:
    """A testbed of two sites with two nodes each, for all tests that do not harm it."""
    name = f"{PREFIX}-bed"
    try:
        yield lifecycle.up(name, DESCRIPTION)
    finally:
        lifecycle.down(name)
        assert nothing_left(name)


@pytest.fixture
def name() -> Iterator[str]:
    """A name for a testbed of one's own, which is down at the end."""
    word = f"{PREFIX}-own"
    yield word
    lifecycle.down(word)
    shutil.rmtree(lifecycle._failed_logs(directory(word)), ignore_errors=True)
    assert nothing_left(word)
