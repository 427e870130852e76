"""Testbeds for the tests that need one."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator

import inlayer
import pytest
from localbed import DESCRIPTION, PREFIX, nothing_left, temporary_testbed

from g5kvirt.testbeds.local import lifecycle
from g5kvirt.testbeds.local.state import State, directory


def pytest_configure() -> None:
    """Ctrl-C counts, also where the suite was started in the background of a script.

    There a shell has SIGINT ignored, and a process hands that on to all that it starts: none of the
    experiments that a test interrupts would hear of it.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever needs programs that this machine need not have runs where they are."""
    if inlayer.INSIDE not in os.environ:
        elsewhere = pytest.mark.skipif(True, reason="runs inside the node layer (test_in_layer.py)")
        for item in items:
            if item.path.name in inlayer.FILES:
                item.add_marker(elsewhere, append=False)  # the first reason is the one that is shown


@pytest.fixture(scope="session")
def bed() -> Iterator[State]:
    """A testbed of two sites with two nodes each, for all tests that do not harm it."""
    with temporary_testbed("bed", DESCRIPTION) as state:
        yield state


@pytest.fixture
def name() -> Iterator[str]:
    """A name for a testbed of one's own, which is down at the end."""
    word = f"{PREFIX}-own"
    yield word
    lifecycle.down(word)
    shutil.rmtree(lifecycle._failed_logs(directory(word)), ignore_errors=True)
    assert nothing_left(word)
