"""Signals that end a process, while it works and while it ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from g5kvirt.termination import EXIT_CODE, orderly_end, uninterrupted

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """As in a program of its own, whatever runs the tests; afterwards they are as they were."""
    before = {number: signal.getsignal(number) for number in (INT, TERM, HUP)}
    signal.signal(INT, signal.default_int_handler)
    for number in (TERM, HUP):
        signal.signal(number, signal.SIG_DFL)
    yield
    now = [signal.getsignal(number) for number in (INT, TERM, HUP)]
    for number, old in before.items():
        signal.signal(number, old)
    assert now == [signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL]


@pytest.mark.parametrize("first", [INT, TERM, HUP])
def test_an_end_is_not_disturbed_by_later_signals(
    first: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    released = []

    def work() -> None:
        try:
            signal.raise_signal(first)
        finally:
            for number in (TERM, INT, HUP, TERM):
                signal.raise_signal(number)
            with uninterrupted():
                signal.raise_signal(HUP)
            released.append(True)

    with pytest.raises((KeyboardInterrupt, SystemExit)) as caught, orderly_end():
        work()
    assert released
    if isinstance(caught.value, SystemExit):
        assert caught.value.code == EXIT_CODE
    assert capsys.readouterr().err.count("press Ctrl-C again") == 1


def test_the_third_ctrl_c_interrupts_the_end_too(capsys: pytest.CaptureFixture[str]) -> None:
    released = []

    def work() -> None:
        try:
            signal.raise_signal(INT)
        finally:
            signal.raise_signal(INT)
            signal.raise_signal(INT)
            released.append(True)

    with pytest.raises(KeyboardInterrupt), orderly_end():
        work()
    assert not released
    assert "may still be reserved" in capsys.readouterr().err


@pytest.mark.parametrize("number", [INT, TERM, HUP])
@pytest.mark.parametrize("around", [True, False])
def test_what_came_during_a_release_ends_the_process_afterwards(number: signal.Signals, around: bool) -> None:
    released: list[bool] = []

    def release() -> None:
        with uninterrupted():
            signal.raise_signal(number)
            released.append(True)
        released.append(False)

    with pytest.raises((KeyboardInterrupt, SystemExit)), orderly_end() if around else nullcontext():
        release()
    assert released == [True]


def test_an_error_of_a_release_is_not_hidden_by_a_signal() -> None:
    def fail() -> None:
        signal.raise_signal(TERM)
        _ = 1 / 0

    with pytest.raises(ZeroDivisionError), uninterrupted():
        fail()


def test_a_handler_of_somebody_else_stays(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []
    signal.signal(TERM, lambda number, _: seen.append(number))
    with orderly_end():
        signal.raise_signal(TERM)
    assert seen == [TERM]
    signal.signal(TERM, signal.SIG_DFL)
