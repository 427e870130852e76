"""The rehearsal: it always gives the machines back, and its page says what to do."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from g5kvirt import Spec, cli
from g5kvirt.cli.rehearse import Outcome, page, plan_text, rehearse_steps
from g5kvirt.errors import PhaseError, TestbedError
from g5kvirt.inventory import GIB, Host, Reservation

STEPS = ["reserve", "deploy", "configure", "place", "launch", "measure", "run", "release"]


class Fake:
    """An experiment that fails at one step, or whose VMs do in part."""

    def __init__(self, fails: str = "", error: BaseException | None = None, up: int = 4) -> None:
        self.fails, self.error, self.up = fails, error or PhaseError("no", phase=fails, advice="do this"), up
        self.calls: list[str] = []
        self.spec = Spec(sites={"nancy": 2}, vms=4)
        host = Host("gros-1.nancy.grid5000.fr", "nancy", "gros", 4, GIB)
        self.reservation: Reservation | None = Reservation({"nancy": 7}, (host,), (), 14, "nancy", 0.0, 1.0)
        self.journal = SimpleNamespace(state=SimpleNamespace(guest="kvm"))

    def __getattr__(self, step: str) -> Any:
        if step == "frames":
            return SimpleNamespace(account=SimpleNamespace(up=self.up))
        if step not in STEPS:
            raise AttributeError(step)

        def call(*_: object) -> Any:
            self.calls.append(step)
            if step == self.fails:
                raise self.error
            if step == "run":
                return pd.DataFrame({"ok": [True] * self.up})
            return SimpleNamespace(facts={"hosts": "2"}, summary=SimpleNamespace(deployed=self.up, failed=0))

        return call


def rehearsed(fake: Fake) -> list[Outcome]:
    outcomes: list[Outcome] = []
    rehearse_steps(fake, outcomes, lambda _: None)  # type: ignore[arg-type]
    return outcomes


def test_all_steps_in_their_order() -> None:
    fake = Fake()
    outcomes = rehearsed(fake)
    assert fake.calls == STEPS
    assert [one.state for one in outcomes] == ["ok"] * 8
    text = page("r", "grid5000", outcomes, Path("runs/r"))
    assert text.startswith("Rehearsal r on grid5000: 8 of 8 steps worked\n")
    assert "job 7 at nancy, KaVLAN 14: gros-1" in text
    assert "4 of 4 VMs up (kvm)" in text
    assert "Everything worked" in text


@pytest.mark.parametrize("step", STEPS[:-1])
def test_machines_are_given_back_whatever_fails(step: str) -> None:
    fake = Fake(step)
    outcomes = rehearsed(fake)
    assert fake.calls == [*STEPS[: STEPS.index(step) + 1], "release"]
    states = {one.step: one.state for one in outcomes}
    assert (states[step], states["release"]) == ("failed", "ok")
    assert [s for s, state in states.items() if state == "not tried"] == STEPS[STEPS.index(step) + 1 : -1]
    text = page("r", "grid5000", outcomes, Path("runs/r"))
    assert f"Start with the first that did not work: {step} failed" in text
    assert "g5kvirt report r" in text


def test_machines_are_given_back_after_an_interrupt() -> None:
    fake = Fake("launch", KeyboardInterrupt())
    outcomes: list[Outcome] = []
    with pytest.raises(KeyboardInterrupt):
        rehearse_steps(fake, outcomes, lambda _: None)  # type: ignore[arg-type]
    assert fake.calls[-1] == "release"
    assert outcomes[-1].step == "release"


def test_page_says_what_to_do() -> None:
    text = page("r", "grid5000", rehearsed(Fake("configure")), Path("runs/r"))
    assert "→ do this; if packages could not be fetched" in text
    kept = rehearsed(Fake("release", TestbedError("job 7 could not be deleted", advice="call it again")))
    assert "oardel JOB on the frontend" in page("r", "grid5000", kept, Path("runs/r"))


def test_vms_that_fail_are_not_everything() -> None:
    outcomes = rehearsed(Fake(up=3))
    assert [one.state for one in outcomes if one.step == "launch"] == ["partly"]
    assert outcomes[-2].step == "run", "it goes on with those that are up"
    assert outcomes[-2].state != "not tried"
    text = page("r", "grid5000", outcomes, Path("runs/r"))
    assert "3 of 4 VMs up (kvm)" in text
    assert "launch worked in part" in text


def test_what_is_about_to_be_reserved_is_said() -> None:
    text = plan_text(Spec(sites={"nancy": 2}, vms=4, walltime="0:30:00"), "grid5000")
    for words in ("grid5000", "nancy", "3 machines (2 hosts, 1 service machine)", "KaVLAN", "30 min"):
        assert words in text


def test_a_prediction_rehearses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["rehearse", "--testbed", "simulated:2013", "--site", "nancy", "--runs", str(tmp_path), "--yes"]
    assert cli.main(words) == 2
    assert "a prediction cannot be rehearsed" in capsys.readouterr().err


def test_without_a_terminal_nothing_is_made_before_the_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    runs = tmp_path / "runs"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert cli.main(["rehearse", "--testbed", "grid5000", "--site", "nancy", "--runs", str(runs)]) == 2
    assert "add --yes" in capsys.readouterr().err
    assert not runs.exists()
