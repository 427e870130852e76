"""The tables and the figures of archived runs, made of their journals alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from g5kvirt.errors import RunError
from g5kvirt.run.directory import list_runs
from g5kvirt.run.tables import Frames
from g5kvirt.views.compare import compare
from g5kvirt.views.figures import Figures

__all__ = ["draw", "made", "same"]

#: What `draw` fills: below a run, and beside the runs.
_OF_RUNS, _OF_ALL = ("figures", "tables"), "comparison"


def draw(runs: Path, target: Path) -> list[Path]:
    """Make tables and figures of all runs in the folder ``runs``, below ``target``; returns the files.

    ``target/runs/NAME/figures`` and ``…/tables``; of several runs ``target/comparison`` too. Needs neither a
    testbed nor root. Raises RunError for a run that cannot be read.
    """
    found = list_runs(runs)
    if not found:
        raise RunError(f"there is no run in {runs}")
    for run in found:
        place = target / "runs" / run.name
        figures = Figures.open(run.path)
        figures.save(place / "figures")
        Frames(figures.frames.journal).export(place / "tables")
    if len(found) > 1:
        _compare([run.path for run in found], target / _OF_ALL)
    return sorted(target / path for path in made(target))


def _compare(runs: list[Path], target: Path) -> None:
    """What compares the runs: figures, and the table of differences if there are any."""
    both = compare(*runs)
    both.save(target)
    try:
        table = both.differences()
    except RunError:  # nothing was deployed, or all in the same way
        return
    target.mkdir(exist_ok=True)
    table.to_csv(target / "differences.csv", index=False, float_format="%.6f")


def made(folder: Path) -> Iterator[Path]:
    """What `draw` made below ``folder``, as paths relative to it."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        of_run = len(inside.parts) == 4 and inside.parts[0] == "runs" and inside.parts[2] in _OF_RUNS
        if path.is_file() and (of_run or inside.parts[0] == _OF_ALL):
            yield inside


def same(archived: Path, anew: Path) -> dict[str, bool]:
    """For each table and figure below either folder, whether it is in both, and the same to the byte."""
    names = sorted({*made(archived), *made(anew)})
    return {str(name): _bytes(archived / name) == _bytes(anew / name) for name in names}


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
