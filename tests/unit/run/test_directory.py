"""Run directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.errors import RunError
from g5kvirt.run import directory
from g5kvirt.views.compare_tables import open_run


def test_created_run_is_found(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "runs"
    run = directory.create(root, "first-1_a.b", {"spec": {"vms": 3}})
    assert run.path == root / "first-1_a.b"
    assert run.journal == run.path / "journal.jsonl"
    found = directory.find(root, "first-1_a.b")
    assert found == run
    assert found.document["spec"] == {"vms": 3}
    assert json.loads((run.path / "run.json").read_text())["name"] == "first-1_a.b"
    assert [p.name for p in run.path.iterdir()] == ["run.json"], "no temporary file stays behind"


def test_a_reader_learns_the_testbed_and_its_network(tmp_path: Path) -> None:
    plain = directory.create(tmp_path, "plain", {"testbed": "local:bed", "network": ""})
    managed = directory.create(tmp_path, "managed", {"testbed": "local:bed", "network": "managed switch"})
    older = directory.create(tmp_path, "older", {"testbed": "local:bed"})
    assert [run.testbed for run in (plain, managed, older)] == [
        "local:bed",
        "local:bed (managed switch)",
        "local:bed",
    ]


def test_existing_name_is_refused(tmp_path: Path) -> None:
    directory.create(tmp_path, "one", {"spec": 1})
    with pytest.raises(RunError, match=r"already a run 'one' .*Experiment.open\(.*one.*nothing was done"):
        directory.create(tmp_path, "one", {"spec": 2})
    assert directory.find(tmp_path, "one").document["spec"] == 1


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "-x", ".x", "a b", "ä", "a\n", "a\0", "x" * 101, 3]
)
def test_invalid_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match="cannot be named"):
        directory.create(tmp_path / "runs", name, {})
    assert not (tmp_path / "runs").exists(), "nothing is touched"


def test_directory_with_an_invalid_name_is_not_read_as_a_run(tmp_path: Path) -> None:
    directory.create(tmp_path, "one", {}).path.rename(tmp_path / "a b")
    with pytest.raises(RunError, match="cannot be named 'a b'"):
        directory.find(tmp_path, "a b")


@given(name=st.text(max_size=8))
def test_any_name_creates_a_directory_inside_runs_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    root = tmp_path_factory.mktemp("r") / "runs"
    try:
        path: Path | None = directory.create(root, name, {}).path
    except RunError:
        path = None
    assert (path is None) == (not root.exists())
    assert path is None or path.parent == root


def test_default_names_are_unique(tmp_path: Path) -> None:
    made = [directory.create(tmp_path, None, {}) for _ in range(5)]
    assert len({run.name for run in made}) == 5
    assert directory.list_runs(tmp_path) == sorted(made, key=lambda run: (run.created, run.name))


def test_list_runs_ignores_other_directories(tmp_path: Path) -> None:
    assert directory.list_runs(tmp_path / "none") == []
    run = directory.create(tmp_path, "one", {})
    (tmp_path / "file").write_text("")
    (tmp_path / "directory").mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    for text in ("", "[]", "{}", '{"created": "x"}'):
        (broken / "run.json").write_text(text)
        assert directory.list_runs(tmp_path) == [run]
        with pytest.raises(RunError, match="cannot be read"):
            directory.find(tmp_path, "broken")


def test_unknown_run_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    directory.create(tmp_path, "nancy-1", {})
    with pytest.raises(RunError, match="did you mean 'nancy-1'"):
        directory.find(tmp_path, "nancy-2")


@pytest.mark.parametrize("given", ["nope", "a b", "-x", "nope/"])
def test_unknown_name_is_refused_with_the_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    for name in ("http", "tftp"):
        directory.create(tmp_path / "runs", name, {})
    monkeypatch.chdir(tmp_path)
    sentence = rf"^there is no run '{given.rstrip('/')}' in runs: known: http, tftp$"
    with pytest.raises(RunError, match=sentence):
        directory.locate(Path("runs"), given)
    with pytest.raises(RunError, match=sentence):
        directory.find(Path("runs"), given.rstrip("/"))


def test_unknown_path_is_refused_where_the_path_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.create(tmp_path / "data" / "runs", "http", {})
    directory.create(tmp_path / "runs" / "sweep", "point", {})
    monkeypatch.chdir(tmp_path)
    for path, sentence in {
        "data/runs/nope": "there is no run 'nope' in data/runs: known: http",
        "sweep/nope": "there is no run 'nope' in runs/sweep: known: point",
        "./nope": f"there is no run 'nope' in {tmp_path}: none is known",
        "data/runs": "data/runs is not a run but a folder of runs: choose one of http",
        "no/where": "there is no run 'where' in no: none is known",
        "x" * 300: "'xxx.* cannot be read .File name too long.: give the directory of a run",
    }.items():
        with pytest.raises(RunError, match=f"^{sentence}$"):
            directory.locate(Path("runs"), path)


def test_run_is_located_by_its_name_or_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"
    one = directory.create(runs, "one", {})
    point = directory.create(runs / "sweep", "point", {})
    (tmp_path / "one").mkdir()
    monkeypatch.chdir(tmp_path)
    for path in ("one", "one/", "runs/one", str(one.path)):
        assert directory.locate(runs, path).path.resolve() == one.path
    assert directory.locate(runs, "sweep/point") == point
    (one.path / "figures").mkdir()
    for folder, path in ((one.path, "."), (one.path / "figures", "..")):
        monkeypatch.chdir(folder)
        assert directory.locate(runs, path) == one
        assert directory.find(Path(path).parent, Path(path).name) == one


def test_unusable_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot create a run"):
        directory.create(tmp_path / "file", "one", {})


def test_failed_write_leaves_no_run(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        directory.create(tmp_path, "one", {"spec": object()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spec", "vms"),
    [
        ({"vms": 8}, 8),
        ({"vms": [{"name": "server", "count": 2}, {"name": "client", "count": 6}]}, 8),
        ({"vms": ["x", {"count": "many"}, {"count": True}]}, 0),
        ({"vms": True}, 0),
        ({}, 0),
        ("x", 0),
        (None, 0),
    ],
)
def test_a_run_says_how_many_vms_were_requested(spec: Any, vms: int, tmp_path: Path) -> None:
    run = directory.create(tmp_path, "one", {"spec": spec})
    assert run.vms == vms
    assert isinstance(run.spec, dict)
    (run.path / "journal.jsonl").touch()
    assert open_run(run.path, None).spec.keys() >= run.spec.keys(), "figures can be drawn of it"


def test_testbed_of_a_damaged_run_is_a_line_that_figures_can_draw(tmp_path: Path) -> None:
    assert len(directory.Run(tmp_path, {"testbed": "x" * 100_000}).testbed) <= 200
    assert "\n" not in directory.Run(tmp_path, {"testbed": "a\nb\x1b[31m"}).testbed
