"""The notebook that draws the figures of the README and the docs from the recorded runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
NOTEBOOK = json.loads((ROOT / "notebooks" / "paper-figures.ipynb").read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def run(**parameters: str) -> dict[str, Any]:
    """What the notebook's cells leave behind, its parameters replaced."""
    names: dict[str, Any] = {}
    for cell in CODE:
        exec("".join(cell["source"]), names)
        if "parameters" in cell["metadata"].get("tags", []):
            names |= parameters
    return names


def test_notebook_has_parameters_and_no_output() -> None:
    assert [cell for cell in CODE if cell["outputs"] or cell["execution_count"] is not None] == []
    assert [cell["metadata"].get("tags") for cell in CODE].count(["parameters"]) == 1


def test_notebook_draws_every_figure_of_the_docs(tmp_path: Path) -> None:
    written = run(out=str(tmp_path / "a"), docs=str(tmp_path / "docs"))["written"]
    assert len(written) == len(set(written)) >= 3 * 13
    pictures = {path.name for path in (tmp_path / "docs").iterdir()}
    assert pictures == {path.name for path in written if path.suffix == ".png"}
    kept = {path.name for path in (ROOT / "docs" / "images").glob("*.png")}
    assert pictures <= kept, "draw them: set docs to the folder docs/images in the notebook"
