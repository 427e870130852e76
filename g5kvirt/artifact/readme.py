"""The page that a reader of an archive sees first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from g5kvirt.artifact.crate import METADATA, About
from g5kvirt.artifact.packing import MANIFEST
from g5kvirt.run.directory import Run

__all__ = ["readme"]

_PAGE = """\
# {title}

{about}

| where | what |
|---|---|
| `runs/NAME/run.json` | what was requested: the specification, the testbed, versions of software |
| `runs/NAME/journal.jsonl` | what happened, one event per line: the only source of all tables and figures |
| `runs/NAME/figures/` | each figure as PDF and PNG, and its numbers as CSV |
| `runs/NAME/tables/` | all numbers of the run as CSV |
{more}\
| `requirements.txt`, `versions.json` | the software with which the figures were drawn |
| `{metadata}` | machine-readable metadata (RO-Crate) |
| `{manifest}` | the checksum of every file: `sha256sum -c {manifest}` |

## Runs

| run | testbed | created (UTC) |
|---|---|---|
{runs}

## Redraw the figures

This requires Python, but neither root nor a testbed, and no network once the software is installed:

    python3 -m venv again
    again/bin/pip install -r requirements.txt
    again/bin/pip install {wheel}
    again/bin/g5kvirt open .

The last command verifies all checksums, redraws every figure from the journals into `redrawn/`, and compares
each with the one here. With the versions in `versions.json` they are byte-identical. With other versions the
data (CSV) is still the same, and the command lists the versions that differ.

To draw a figure yourself:

    from g5kvirt.views.figures import Figures
    figures = Figures.open("runs/{first}")
    figures.boot(columns=2).save("boot")
    figures.frames.vms             # the tables, as pandas data frames

Logins, keys, tokens, passwords, e-mail addresses and home directories were replaced by placeholders such as
`user-1`. The transcript of the testbed's answers and the consoles of the virtual machines are not included.
"""


def readme(runs: Sequence[Run], about: About, versions: Mapping[str, str], files: Sequence[str]) -> str:
    """README.md of an archive that has ``files`` (paths inside it)."""
    first = ", ".join(run.name for run in runs)
    more = "| `comparison/` | figures over all runs |\n" if len(runs) > 1 else ""
    if any(name.endswith(".ipynb") for name in files):
        more += "| `runs/NAME/*.ipynb`, `notebooks/` | notebooks with their output |\n"
    if any(name.startswith("more/") for name in files):
        more += "| `more/` | files that the authors added |\n"
    wheel = next((name for name in files if name.endswith(".whl")), f"g5kvirt=={versions['g5kvirt']}")
    by = f"By {', '.join(about.authors)}. " if about.authors else ""
    licence = f"Licence: {about.licence}. " if about.licence else ""
    return _PAGE.format(
        title=about.title or f"Runs of g5kvirt: {first}",
        about=f"{by}{licence}Archived by g5kvirt {versions['g5kvirt']}.",
        more=more,
        metadata=METADATA,
        manifest=MANIFEST,
        runs="\n".join(f"| {run.name} | {run.testbed} | {_date(run.created)} |" for run in runs),
        wheel=wheel,
        first=runs[0].name,
    )


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
