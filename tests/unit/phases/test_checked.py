"""The check of an experiment: what it finds, how it is displayed, the exit codes of the command."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from backgroundbeds import Bed
from htmlcheck import text_of

from g5kvirt import Experiment, Spec, cli
from g5kvirt.errors import CapacityError, MachineError, TestbedError
from g5kvirt.phases import check as phase
from g5kvirt.planning.inventories import Inventory
from g5kvirt.planning.preflight import Finding, Preflight
from g5kvirt.views.check_result import CheckResult

ROOT = Path(__file__).parents[3]
SLIDES = str(ROOT / "data/scenarios/slides-2013.yaml")


@pytest.fixture(autouse=True)
def apt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The minimal system can be built, whatever this machine's apt knows."""
    monkeypatch.setattr(phase.minimal, "build_obstacle", lambda: None)


def statuses(found: Preflight) -> dict[str, str]:
    return {row.what: row.status for row in found.findings}


def everything(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_check_of_a_testbed_that_knows_only_its_machines(tmp_path: Path) -> None:
    found = phase.check(Spec(sites={"nancy": 2}, vms=4), Bed("give@/"), tmp_path / "runs")  # type: ignore[arg-type]
    known = statuses(found)
    assert known["machines"] == known["room for VMs"] == known["names"] == "ok"
    assert known["start"] == known["sub-network"] == known["KaVLAN"] == "unknown"
    assert found.ok
    assert everything(tmp_path) == [], "nothing is made"


def test_start_in_the_past_is_a_problem(tmp_path: Path) -> None:
    spec = Spec(sites={"nancy": 2}, vms=4, start="2020-01-01 12:00")
    found = phase.check(spec, Bed("give@/"), tmp_path)  # type: ignore[arg-type]
    [row] = [row for row in found.findings if row.what == "start"]
    assert (row.status, row.message) == ("problem", "2020-01-01 12:00:00 in Paris is in the past")


def test_reserved_machines_are_not_requested_again(tmp_path: Path) -> None:
    exp = Experiment(Spec(sites={"nancy": 2}, vms=4), testbed=Bed("give@/"), name="one", runs=tmp_path)  # type: ignore[arg-type]
    exp.reserve()
    assert "✓ start the machines of this run are held until " in " ".join(repr(exp.check()).split())
    exp.journal.close()


def test_unknown_sites_are_not_sent_to_the_testbed(tmp_path: Path) -> None:
    found = phase.check(Spec(sites={"mars": 2}, vms=4), Bed("give@/"), tmp_path)  # type: ignore[arg-type]
    known = {(one.what, one.subject): one.code for one in found.findings}
    assert known["machines", "mars"] == "unknown-site"
    assert known["frontend", ""] == "not-checked"
    assert known["start", ""] == known["usage charter", ""] == "machines-unknown"


def test_process_that_cannot_use_the_testbed_checks_only_this_machine(tmp_path: Path) -> None:
    class Unusable(Bed):
        def inventory(self, sites: Collection[str]) -> tuple[Inventory | None, Sequence[Finding]]:
            raise TestbedError("this process already uses another", advice="restart the kernel")

    found = phase.check(Spec(sites={"nancy": 2}, vms=4), Unusable("give@/"), tmp_path)  # type: ignore[arg-type]
    known = statuses(found)
    assert known["testbed"] == "problem"
    assert known["room for VMs"] == "unknown"
    assert known["names"] == "ok"
    assert "start" not in known
    assert [one.advice for one in found.findings if one.what == "testbed"] == ["restart the kernel"]


@pytest.mark.parametrize(
    ("prepare", "what", "status"),
    [
        (lambda runs: None, "run directory", "ok"),
        (lambda runs: (runs / "first").mkdir(parents=True), "run directory", "problem"),
        (lambda runs: runs.write_text("a file"), "run directory", "problem"),
    ],
)
def test_run_directory_must_be_new_and_writable(prepare: Any, what: str, status: str, tmp_path: Path) -> None:
    prepare(tmp_path / "runs")
    rows = phase._run_directory(Spec(sites={"nancy": 1}, vms=1), tmp_path / "runs", "first")
    assert status in [row.status for row in rows if row.what == what]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_run_directory_without_permission_is_a_problem(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    rows = phase._run_directory(Spec(sites={"nancy": 1}, vms=1), tmp_path / "runs", None)
    assert rows[-1].message.endswith("cannot be written")


def test_missing_ssh_keygen_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phase.shutil, "which", lambda _: None)
    rows = phase._run_directory(Spec(sites={"nancy": 1}, vms=1), tmp_path, None)
    assert [row.advice for row in rows if row.what == "run's key"] == ["install openssh-client"]


@pytest.mark.parametrize(
    ("error", "status", "message", "advice"),
    [
        (None, "ok", "is built already, or apt knows its packages", ""),
        (
            MachineError("apt does not know ipxe", advice="run apt-get update"),
            "problem",
            "(apt does not know ipxe)",
            "run apt-get update, or",
        ),
        (MachineError("no space"), "problem", "(no space)", "start the run from a Debian machine, or"),
    ],
)
def test_minimal_system_must_be_buildable_here(
    error: Any, status: str, message: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phase.minimal, "build_obstacle", lambda: error)
    [finding] = phase._minimal_system(SimpleNamespace(simulated=False))  # type: ignore[arg-type]
    assert finding.status == status
    assert message in finding.message
    assert finding.advice.startswith(advice)
    assert list(phase._minimal_system(SimpleNamespace(simulated=True))) == []  # type: ignore[arg-type]


def test_experiment_check_changes_nothing(tmp_path: Path) -> None:
    exp = Experiment(Spec(sites={"nancy": 2}, vms=4), testbed=Bed("give@/"), name="first", runs=tmp_path)  # type: ignore[arg-type]
    before = everything(tmp_path)
    result = exp.check()
    assert result.ok
    assert everything(tmp_path) == before
    assert "check of run first on bed" in repr(result)
    assert "with its key" in " ".join(repr(result).split()), "a row may be broken anywhere"
    exp.journal.close()


FINDINGS = (
    Finding("API", "", "ok", "ok", "answers"),
    Finding(
        "frontend",
        "nancy",
        "problem",
        "unreachable",
        "cannot be reached (<timeout>)",
        "try ssh; " + "word " * 40,
    ),
    Finding("usage charter", "", "unknown", "no-answer", "not known"),
    Finding("clusters", "lyon", "warning", "unsuitable-machines", "odd", "exclude them"),
)


def test_check_result_as_text_html_and_frame() -> None:
    result = CheckResult(Preflight(FINDINGS, None), of="run first", testbed="local")
    assert not result.ok
    assert result.verdict == "1 problem, 1 warning, 1 unknown"
    text = repr(result)
    for mark in ("✓ API", "✗ frontend", "? usage charter", "! clusters", "→ try ssh"):
        assert mark in text
    assert max(map(len, text.splitlines())) <= 110
    assert "cannot be reached (<timeout>)" in text_of(result._repr_html_())
    assert list(result.frame.columns) == ["what", "subject", "status", "code", "message", "advice"]
    assert result.frame["status"].tolist() == [finding.status for finding in FINDINGS]


def test_check_result_shows_the_plan() -> None:
    found = phase.on_table(Spec.load(SLIDES), "2013")
    result = CheckResult(found, of="slides", testbed="2013")
    for shown in (repr(result), result._repr_html_()):
        assert "3–16" in shown
        assert "nancy slash_19" in shown
        assert "355 hosts" in shown


def test_command_check_on_the_tables(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["check", SLIDES, "--inventory", "2026"]) == 0
    assert "no problems" in capsys.readouterr().out
    large = tmp_path / "large.yaml"
    large.write_text("{hosts: 355, sites: 6, vms: 400000}")
    assert cli.main(["check", str(large), "--inventory", "2026", "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert [row["what"] for row in document["findings"] if row["status"] == "problem"] == ["sites"]


@pytest.mark.parametrize(
    ("problems", "code"),
    [((), 0), (("frontend",), 3), (("API", "ssh key"), 3), (("machines",), 2), (("API", "walltime"), 2)],
)
def test_command_check_exit_codes(
    problems: tuple[str, ...], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = (Finding(what, "", "problem", "bad", "is bad", "repair it") for what in problems)
    findings = (Finding("x", "", "ok", "ok", ""), *bad)
    monkeypatch.setattr(phase, "check", lambda *_, **__: Preflight(findings, None))
    monkeypatch.setattr("g5kvirt.testbeds.open_testbed", lambda word: SimpleNamespace(name=word))
    spec = tmp_path / "spec.yaml"
    spec.write_text("{sites: {nancy: 1}, vms: 1}")
    assert cli.main(["check", str(spec)]) == code


@pytest.mark.parametrize(
    ("given", "statuses_of_sites", "sites"),
    [
        (Spec(sites={"nancy": 2}, vms=4), [], {"nancy": 2}),  # as the experiment chose
        (TestbedError("down"), ["unknown"], {"nancy": 2}),
        (
            CapacityError("nothing is free", requested=2, available=0, advice="wait"),
            ["problem"],
            {"nancy": 2},
        ),
    ],
)
def test_check_selects_sites_as_the_experiment_would(
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
    assert [row.status for row in found.findings if row.what == "sites"] == statuses_of_sites
    assert found.plan is not None
    assert found.plan.sites == sites


def test_impossible_selection_of_sites_is_one_problem(tmp_path: Path) -> None:
    found = phase.check(Spec(hosts=200, sites=1, vms=4), Bed("give@/"), tmp_path)  # type: ignore[arg-type]
    [row] = [row for row in found.findings if row.what == "sites"]
    assert row.status == "problem"
    assert row.advice
    assert found.plan is None
