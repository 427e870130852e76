"""The script that records runs: what it records on which testbed. No testbed is raised here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "data" / "runs" / "record.py"


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Any:
    found = importlib.util.spec_from_file_location("record", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, "record", module)  # dataclasses look their module up
    found.loader.exec_module(module)
    return module


def run(record: Any, monkeypatch: pytest.MonkeyPatch, *words: str, up: tuple[str, ...] = ()) -> list[str]:
    """What ``record.py`` did, in order."""
    done: list[str] = []
    monkeypatch.setattr(record.lifecycle, "testbed_names", lambda: list(up))
    monkeypatch.setattr(
        record.lifecycle,
        "up",
        lambda name, about: done.append(f"up {'default' if about is None else about.switch}"),
    )
    monkeypatch.setattr(record.lifecycle, "down", lambda name: done.append("down"))
    monkeypatch.setattr(record, "_record", lambda name, *_: done.append(name))
    monkeypatch.setattr(record.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["record.py", "rec", *words])
    done.append(f"code {record.main()}")
    return done


def test_all_small_runs_share_a_testbed(record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["http", "tftp", "window-1", "window-2", "window-4", "window-8"]
    assert run(record, monkeypatch) == ["up default", *names, "down", "down", "code 0"]


def test_slides_have_a_testbed_of_their_own(record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(record, monkeypatch, "--only", "http", "slides-light") == [
        *("up default", "http", "down"),
        *("up managed", "slides-light", "down", "down", "code 0"),
    ]
    spec = record.what(None)["slides-light"].spec
    assert (spec.vms, sum(spec.sites.values()), spec.guest) == (4552, 355, "light")


def test_testbed_that_is_up_is_left_alone(record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(record, monkeypatch, up=("rec",)) == ["code 1"]


def test_unknown_run_is_refused(record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        run(record, monkeypatch, "--only", "nothing")
