"""A frontend that refuses connections for a moment costs no step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from g5kvirt.testbeds.grid5000 import frontends

REFUSED = "ssh: connect to host nancy.grid5000.fr port 22: Connection refused"
UNREACHABLE = "ssh: connect to host nancy.grid5000.fr port 22: Network is unreachable"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(frontends.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(frontends.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def answers(monkeypatch: pytest.MonkeyPatch, *ends: tuple[int, str, str]) -> list[float]:
    """What the connections end with: exit code, standard output, standard error. Returns their time-outs."""
    left, timeouts = list(ends), []

    def start(site: str, command: str, timeout: float) -> Any:
        code, out, err = left.pop(0) if len(left) > 1 else left[0]
        timeouts.append(timeout)
        return SimpleNamespace(
            exit_code=code, stdout=out, stderr=err, timeouted=False, timeout=timeout, wait=lambda: None
        )

    monkeypatch.setattr(frontends, "start_on_frontend", start)
    return timeouts


OK = (0, "g5kvirt-out:done\ng5kvirt-end:0\n", "")


def test_a_refused_connection_is_tried_again(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    timeouts = answers(monkeypatch, (255, "", REFUSED), (255, "", REFUSED), OK)
    assert frontends.run_on_frontend("nancy", "true", 30.0).text == "done\n"
    assert timeouts == [30.0, 29.5, 28.5]


def test_one_that_refuses_for_good_gives_its_reason(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    timeouts = answers(monkeypatch, (255, "", REFUSED))
    assert "refuses connections" in frontends.run_on_frontend("nancy", "true", 30.0).failure
    assert len(timeouts) == 4
    assert clock[0] == 3.5
    timeouts = answers(monkeypatch, (255, "", REFUSED))
    assert not frontends.run_on_frontend("nancy", "true", 1.0).ok
    assert len(timeouts) == 2, "no longer than its time"


@pytest.mark.parametrize("end", [(255, "", UNREACHABLE), (1, "g5kvirt-err:no\ng5kvirt-end:1\n", REFUSED)])
def test_what_is_no_refused_connection_is_not_tried_again(
    end: tuple[int, str, str], monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    timeouts = answers(monkeypatch, end)
    assert not frontends.run_on_frontend("nancy", "true", 30.0).ok
    assert len(timeouts) == 1
