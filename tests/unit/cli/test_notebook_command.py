"""The notebooks as they are kept: without output, with parameters, and Python throughout."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import nbformat
import pytest

from g5kvirt import cli
from g5kvirt.cli import notebooks
from g5kvirt.errors import PhaseError, SpecError

FOLDER = Path(__file__).parents[3] / "notebooks"
KEPT = sorted(FOLDER.glob("*.ipynb"))
STORIES = {"quickstart", "scalability", "netboot-http-vs-tftp", "windows", "broadcast", "grid5000"}


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def test_all_notebooks_are_shipped() -> None:
    assert {path.stem for path in KEPT} >= STORIES
    assert set(notebooks.shipped()) == {path.stem for path in KEPT}


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_notebook_has_a_title_parameters_and_no_output(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell for cell in code if cell.outputs or cell.execution_count is not None] == []
    assert len([cell for cell in code if "parameters" in cell.metadata.get("tags", [])]) == 1
    for cell in code:
        ast.parse(cell.source)
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("name", sorted(STORIES))
def test_notebook_has_the_common_parameters(name: str) -> None:
    known = notebooks.parameters_of(FOLDER / f"{name}.ipynb")
    assert {"testbed", "sites", "vms", "name", "runs"} <= set(known)
    assert known["testbed"] == '"local"', "without a parameter it runs where it costs nobody anything"


def test_parameters_are_checked_and_parsed_as_python() -> None:
    path = FOLDER / "scalability.ipynb"
    pairs = [
        ("vms", "32"),
        ("sizes", "[8, 16]"),
        ("sites", "{'nancy': 2}"),
        ("name", "None"),
        ("testbed", "local:x"),
    ]
    assert notebooks.values(pairs, path) == {
        "vms": 32,
        "sizes": [8, 16],
        "sites": {"nancy": 2},
        "name": None,
        "testbed": "local:x",
    }
    # papermill would hand a tuple to the notebook as a string
    assert notebooks.values([("windows", "[(5, 1.0), {'a': (2,)}]")], FOLDER / "slides.ipynb") == {
        "windows": [[5, 1.0], {"a": [2]}]
    }
    with pytest.raises(SpecError, match=r"scalability\.ipynb has no parameter 'vm': did you mean 'vms'\?"):
        notebooks.values([("vm", "32")], path)


def test_notebook_is_found_by_name_or_file(tmp_path: Path) -> None:
    assert notebooks.find("scalability") == FOLDER / "scalability.ipynb"
    own = tmp_path / "own.ipynb"
    with pytest.raises(SpecError, match="there is no notebook"):
        notebooks.find(str(own))
    own.write_text("{}")
    assert notebooks.find(str(own)) == own
    with pytest.raises(SpecError, match="did you mean 'scalability'"):
        notebooks.find("scalibility")
    own.write_text("not a notebook")
    with pytest.raises(SpecError, match="cannot be read as a notebook"):
        notebooks.parameters_of(own)


def own_notebook(folder: Path, *cells: str) -> Path:
    path = folder / "own.ipynb"
    make = nbformat.v4
    document = make.new_notebook()  # type: ignore[no-untyped-call]
    document.cells = [make.new_code_cell(text) for text in cells]  # type: ignore[no-untyped-call]
    document.cells[0].metadata["tags"] = ["parameters"]
    document.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(document, path)  # type: ignore[no-untyped-call]
    return path


MAKE_RUN = "from pathlib import Path; Path(runs, name).mkdir(parents=True); print(n + 1)"


def test_notebook_is_executed_and_saved_in_its_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = own_notebook(tmp_path, "n = 1\nname = None\nruns = 'runs'", MAKE_RUN)
    arguments = ["notebook", str(path), "-p", "n", "41", "--runs", str(tmp_path / "runs")]
    assert cli.main([*arguments, "-p", "name", "mine"]) == 0
    kept = tmp_path / "runs" / "mine" / "own.ipynb"
    output = capsys.readouterr().out
    assert f"notebook {kept}" in output
    assert f"html     {kept.with_suffix('.html')}" in output
    assert [path.name for path in kept.parent.parent.iterdir()] == ["mine"]
    assert read(kept).cells[-1].outputs[0].text == "42\n"
    assert "42" in kept.with_suffix(".html").read_text(encoding="utf-8")
    assert read(path).cells[-1].outputs == [], "the source stays as it is"
    assert cli.main([*arguments, "-p", "name", "mine"]) == 2, "nothing is written over"


def test_failing_cell_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = own_notebook(tmp_path, "name = None", "1 / 0")
    out = tmp_path / "out"
    assert cli.main(["notebook", str(path), "--output", str(out), "--runs", str(tmp_path / "runs")]) == 1
    output = capsys.readouterr().err
    assert output.startswith("g5kvirt: the notebook failed in cell 3 (ZeroDivisionError: division by zero)")
    assert output.endswith(f": see the output up to there in {out / 'own.ipynb'}\n")
    assert {file.name for file in out.iterdir()} == {"own.ipynb", "own.html"}


def test_failing_notebook_releases_its_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from g5kvirt.experiment import Experiment
    from g5kvirt.run.directory import create

    released: list[str] = []

    class Run:
        def __init__(self, path: Path) -> None:
            self.path = path

        def release(self) -> None:
            released.append(str(self.path.relative_to(tmp_path / "runs")))

    def fail(*_: object, **__: object) -> None:
        for folder, name in (("runs", "other"), ("runs/mine", "http"), ("runs/mine", "tftp")):
            create(tmp_path / folder, name, {})
        raise PhaseError("a cell failed", phase="notebook")

    monkeypatch.setattr(Experiment, "open", Run)
    monkeypatch.setattr(notebooks, "execute", fail)
    arguments = ["notebook", "windows", "-p", "name", "mine", "--runs", str(tmp_path / "runs")]
    assert cli.main(arguments) == 1
    assert sorted(released) == ["mine/http", "mine/tftp"]


def test_notebooks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["notebook"]) == 0
    output = capsys.readouterr().out
    assert "Netboot: HTTP vs. TFTP" in output
    assert "-p sizes [2, 4, 8]" in output
