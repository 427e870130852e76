"""Following the logs of a service machine: reconnections, and the error when the machine is lost."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest
from fakestream import FakeStream, fake_stream

from g5kvirt.errors import PhaseError
from g5kvirt.inventory import GIB, Host
from g5kvirt.netboot import log_tail
from g5kvirt.netboot.log_tail import TRIES, LogTail
from g5kvirt.netboot.services import ACCESS_LOG
from g5kvirt.planning.services import ServiceMachine

NAME = "head.nancy.grid5000.fr"
MACHINE = ServiceMachine(
    Host(NAME, "nancy", "h", 4, GIB, address="head"), ("http",), {"nancy": IPv4Address("10.144.0.1")}
)
NO_ACCESS: Any = None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as the only element."""
    now = [0.0]
    monkeypatch.setattr(log_tail.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[FakeStream]:
    """Every connection that was made."""
    fake = fake_stream()
    monkeypatch.setattr(log_tail, "Stream", fake)
    return fake.made


def break_until_it_raises(tail: LogTail, streams: list[FakeStream], clock: list[float]) -> PhaseError:
    for _ in range(10 * TRIES):
        streams[-1].break_off("no route to host")
        try:
            tail.keep_alive()
        except PhaseError as error:
            return error
        clock[0] += 10.0
    raise AssertionError("it never gives up")


@pytest.mark.parametrize("phase", ["launch", "measure"])
def test_a_lost_machine_is_an_error_of_the_phase_that_follows(
    phase: str, streams: list[FakeStream], clock: list[float]
) -> None:
    with LogTail(NO_ACCESS, MACHINE, lambda _: None, phase=phase) as tail:
        error = break_until_it_raises(tail, streams, clock)
    assert (error.phase, error.step) == (phase, "follow")
    assert f"call {phase}() again once {NAME} is reachable" in str(error)
    assert "no route to host" in str(error)
    assert len(streams) == 1 + TRIES


def test_log_tail_reconnects_after_a_delay_behind_the_last_line(
    streams: list[FakeStream], clock: list[float]
) -> None:
    lines: list[str] = []
    with LogTail(NO_ACCESS, MACHINE, lines.append, phase="launch") as tail:
        assert streams[0].request()["files"] == {ACCESS_LOG: 0}
        streams[0].send("first", offset=6)
        streams[0].break_off("reset")
        tail.keep_alive()
        tail.keep_alive()
        assert len(streams) == 1
        clock[0] += 1.0
        tail.keep_alive()
        assert streams[1].request()["files"] == {ACCESS_LOG: 6}
        streams[1].send("second", offset=13)
    assert lines == ["first", "second"]
    assert not streams[1].alive


def test_a_line_resets_the_count_of_tries(streams: list[FakeStream], clock: list[float]) -> None:
    with LogTail(NO_ACCESS, MACHINE, lambda _: None, phase="launch") as tail:
        for number in range(3 * TRIES):
            streams[-1].send("line", offset=number)
            streams[-1].break_off("reset")
            for _ in range(2):
                tail.keep_alive()
                clock[0] += 10.0
        break_until_it_raises(tail, streams, clock)


def test_exception_of_a_line_reaches_the_caller(streams: list[FakeStream]) -> None:
    with LogTail(NO_ACCESS, MACHINE, lambda _: None, phase="launch") as tail:
        streams[0].error = ZeroDivisionError()
        streams[0].break_off("")
        with pytest.raises(ZeroDivisionError):
            tail.keep_alive()
