"""The check of an experiment: what it asks, what it shows, how the command line ends."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from backgroundbeds import Bed
from htmlcheck import Checker

from g5kvirt import Experiment, Spec, cli
from g5kvirt.errors import CapacityError, TestbedError
from g5kvirt.phases import check as phase
from g5kvirt.planning.preflight import Preflight, Row
from g5kvirt.views.checked import CheckResult

ROOT = Path(__file__).parents[3]
SLIDES = str(ROOT / "data/scenarios/slides-2013.yaml")


@pytest.fixture(autouse=True)
def apt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine's apt knows."""
    monkeypatch.setattr(phase.minimal, "unavailable_reason", lambda: "")


def statuses(found: Preflight) -> dict[str, str]:
    return {row.what: row.status for row in found.rows}


def everything(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_a_testbed_that_says_little(tmp_path: Path) -> None:
    found = phase.check(Spec(sites={"nancy": 2}, vms=4), Bed("give@/"), tmp_path / "runs")  # type: ignore[arg-type]
    known = statuses(found)
    assert known["machines"] == known["room for VMs"] == known["names"] == "ok"
    assert known["frontend"] == known["start"] == known["usage charter"] == known["sub-network"] == "unknown"
    assert found.ok
    assert everything(tmp_path) == [], "nothing is made"


def test_a_start_that_is_over(tmp_path: Path) -> None:
    spec = Spec(sites={"nancy": 2}, vms=4, start="2020-01-01 12:00")
    found = phase.check(spec, Bed("give@/"), tmp_path)  # type: ignore[arg-type]
    [row] = [row for row in found.rows if row.what == "start"]
    assert (row.status, row.says) == ("problem", "2020-01-01 12:00:00 in Paris is in the past")


def test_a_process_that_speaks_to_another_testbed_asks_nothing(tmp_path: Path) -> None:
    bed = Bed("give@/")

    def connect() -> None:
        raise phase.SpecError("this process already speaks to another")

    bed.connect = connect  # type: ignore[method-assign]
    found = phase.check(Spec(sites={"nancy": 2}, vms=4), bed, tmp_path)  # type: ignore[arg-type]
    known = statuses(found)
    assert known["testbed"] == "problem"
    assert known["room for VMs"] == "unknown"
    assert known["names"] == "ok"
    assert "API" not in known


@pytest.mark.parametrize(
    ("prepare", "what", "status"),
    [
        (lambda runs: None, "run directory", "ok"),
        (lambda runs: (runs / "first").mkdir(parents=True), "run directory", "problem"),
        (lambda runs: runs.write_text("a file"), "run directory", "problem"),
    ],
)
def test_this_side(prepare: Any, what: str, status: str, tmp_path: Path) -> None:
    prepare(tmp_path / "runs")
    rows = phase._here(Spec(sites={"nancy": 1}, vms=1), tmp_path / "runs", "first")
    assert status in [row.status for row in rows if row.what == what]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    rows = phase._here(Spec(sites={"nancy": 1}, vms=1), tmp_path / "runs", None)
    assert rows[-1].says.endswith("cannot be written")


def test_no_ssh_keygen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phase.shutil, "which", lambda _: None)
    rows = phase._here(Spec(sites={"nancy": 1}, vms=1), tmp_path, None)
    assert [row.todo for row in rows if row.what == "run's key"] == ["install openssh-client"]


@pytest.mark.parametrize(
    ("why", "status", "says", "todo"),
    [
        ("", "ok", "is there, or its packages are known to apt", ""),
        (
            "apt does not know ipxe: run apt-get update",
            "problem",
            "(apt does not know ipxe)",
            "run apt-get update, or",
        ),
    ],
)
def test_what_vms_boot_has_to_be_made_here(
    why: str, status: str, says: str, todo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phase.minimal, "unavailable_reason", lambda: why)
    [row] = phase._guests(SimpleNamespace(simulated=False))  # type: ignore[arg-type]
    assert row.status == status
    assert says in row.says
    assert row.todo.startswith(todo)
    assert list(phase._guests(SimpleNamespace(simulated=True))) == []  # type: ignore[arg-type]


def test_an_experiment_checks_itself(tmp_path: Path) -> None:
    exp = Experiment(Spec(sites={"nancy": 2}, vms=4), testbed=Bed("give@/"), name="first", runs=tmp_path)  # type: ignore[arg-type]
    before = everything(tmp_path)
    result = exp.check()
    assert result.ok
    assert everything(tmp_path) == before
    assert "check of run first on bed" in repr(result)
    assert "with its key" in " ".join(repr(result).split()), "a row may be broken anywhere"
    exp.journal.close()


ROWS = (
    Row("API", "", "ok", "answers"),
    Row("frontend", "nancy", "problem", "cannot be reached (<timeout>)", "try ssh nancy; " + "word " * 40),
    Row("usage charter", "", "unknown", "nobody says"),
    Row("clusters", "lyon", "warning", "odd", "exclude them"),
)


def test_how_it_shows_itself() -> None:
    result = CheckResult(Preflight(ROWS, None), of="run first", testbed="local")
    assert not result.ok
    assert result.verdict == "1 problem, 1 warning, 1 unknown"
    text = repr(result)
    for mark in ("✓ API", "✗ frontend", "? usage charter", "! clusters", "→ try ssh nancy"):
        assert mark in text
    assert max(map(len, text.splitlines())) <= 110
    page = Checker()
    page.feed(result._repr_html_())
    assert page.open == []
    assert "cannot be reached (<timeout>)" in page.text
    assert list(result.frame.columns) == ["what", "subject", "status", "says", "todo"]
    assert result.frame["status"].tolist() == [row.status for row in ROWS]


def test_the_plan_is_shown() -> None:
    found = phase.on_table(Spec.load(SLIDES), "2013")
    result = CheckResult(found, of="slides", testbed="2013")
    for shown in (repr(result), result._repr_html_()):
        assert "3 to 16" in shown
        assert "nancy slash_19" in shown
        assert "355 hosts" in shown


def test_the_command_on_the_tables(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["check", SLIDES, "--inventory", "2026"]) == 0
    assert "all is well" in capsys.readouterr().out
    large = tmp_path / "large.yaml"
    large.write_text("{hosts: 355, sites: 6, vms: 400000}")
    assert cli.main(["check", str(large), "--inventory", "2026", "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert [row["what"] for row in document["rows"] if row["status"] == "problem"] == ["sites"]


@pytest.mark.parametrize(
    ("problems", "code"),
    [((), 0), (("frontend",), 3), (("API", "ssh key"), 3), (("machines",), 2), (("API", "walltime"), 2)],
)
def test_exit_codes(
    problems: tuple[str, ...], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (Row("x", "", "ok", ""), *(Row(what, "", "problem", "bad", "mend it") for what in problems))
    monkeypatch.setattr(phase, "check", lambda *_: Preflight(rows, None))
    monkeypatch.setattr("g5kvirt.testbeds.open_testbed", lambda word: SimpleNamespace(name=word))
    spec = tmp_path / "spec.yaml"
    spec.write_text("{sites: {nancy: 1}, vms: 1}")
    assert cli.main(["check", str(spec)]) == code


@pytest.mark.parametrize(
    ("given", "statuses_of_sites", "sites"),
    [
        (Spec(sites={"nancy": 2}, vms=4), [], {"nancy": 2}),  # as the experiment chose
        (TestbedError("down"), ["unknown"], {"nancy": 2}),
        (CapacityError("nothing is free: wait", asked=2, available=0), ["problem"], {"nancy": 2}),
    ],
)
def test_sites_are_chosen_as_the_experiment_would(
    given: Any,
    statuses_of_sites: list[str],
    sites: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def with_sites(*_: object) -> Spec:
        if isinstance(given, Exception):
            raise given
        return given  # type: ignore[no-any-return]

    monkeypatch.setattr(phase, "with_sites", with_sites)
    found = phase.check(Spec(hosts=2, sites=1, vms=4), Bed("give@/"), tmp_path)  # type: ignore[arg-type]
    assert [row.status for row in found.rows if row.what == "sites"] == statuses_of_sites
    assert found.plan is not None
    assert found.plan.sites == sites


def test_where_no_sites_will_do_that_is_said_once(tmp_path: Path) -> None:
    found = phase.check(Spec(hosts=200, sites=1, vms=4), Bed("give@/"), tmp_path)  # type: ignore[arg-type]
    [row] = [row for row in found.rows if row.what == "sites"]
    assert row.status == "problem"
    assert row.todo
    assert found.plan is None
