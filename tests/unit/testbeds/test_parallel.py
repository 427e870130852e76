"""Calls for several sites at once."""

from __future__ import annotations

import threading
import time

import pytest

from g5kvirt.testbeds.parallel import call_within, collect, for_each


def test_for_each_waits_for_all_before_it_raises() -> None:
    done = []

    def call(site: str) -> None:
        if site == "bad":
            raise ValueError("no")
        done.append(site)

    with pytest.raises(ValueError, match="no"):
        for_each(call, ["bad", "nancy", "rennes"])
    assert sorted(done) == ["nancy", "rennes"]


def test_collect_does_not_wait_for_a_call_that_hangs() -> None:
    released = threading.Event()
    began = time.monotonic()
    results = collect(lambda item: released.wait(30) if item else item, [True, False], 1.0)
    released.set()
    assert time.monotonic() - began < 20
    assert isinstance(results[True], TimeoutError)
    assert results[False] is False


def test_call_within_gives_the_result_or_the_exception() -> None:
    def fail() -> int:
        raise KeyError("no")

    assert call_within(30, lambda: 7) == 7
    assert isinstance(call_within(30, fail), KeyError)
