"""The documentation names only files and directories that exist.

Checked are names in backticks and in blocks of code. A path may begin at the checkout, at the package, beside
the page, or in a directory that its paragraph names. A bare name such as ``figures.py`` is looked for below
the directories of its paragraph (in a table: of its row and of the paragraph before), so that a module that
moved to another room is found missing; if there are none, the whole package is searched. In a table headed
``module`` the names of the first column are modules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "g5kvirt"
PAGES = [
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "data/README.md", "data/runs/README.md")
    ),
    *sorted((ROOT / "docs").rglob("*.md")),
]
TOP = {".ci", "benchmarks", "data", "docs", "g5kvirt", "notebooks", "tests"}
ROOMS = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
#: Written by runs, sweeps and continuous integration, or by the user: not in a checkout.
WRITTEN = {"runs/", "artefacts/", "consoles/", "sweeper/", "spec.yaml", "sweep.yaml", "broadcasts.yaml"}
WRITTEN |= {"environments/mine.yaml", "small.yaml", "large.yaml", "large/", "reboot-50/"}
WRITTEN |= {"inventory/", "inventory/client/", "inventory/selected/"}
#: What an archive of runs has.
WRITTEN |= {"tables/", "figures/", "comparison/", "more/"}

_BACKTICKS = re.compile(r"`([\w./-]+)`")
_IN_CODE = re.compile(r"(?<![\w./~$-])([\w.-]+(?:/[\w.-]+)+/?|\w+\.py)(?![\w/])")
_PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b(?!\.md)")


def missing(text: str, beside: Path) -> list[str]:
    """The paths named in a page that do not exist; ``beside`` is the page's directory."""
    lacking = []
    earlier: list[Path] = []
    for lines in passages(text):
        names = list(names_in(lines))
        folders = [folder for name in names for folder in folders_of(name, beside)]
        if lines.startswith("|"):
            folders += earlier
        else:
            earlier = folders
        lacking += [name for name in names if not exists(name, beside, folders)]
    return lacking


def passages(text: str) -> Iterator[str]:
    """Paragraphs, lists and blocks of code; of a table each row, with ``.py`` in a column of modules."""
    for block in re.split(r"\n\s*\n", text):
        if not block.startswith("|"):
            yield block
            continue
        head, _, *rows = block.splitlines()
        for row in rows:
            if head.startswith("| module |"):
                first, rest = re.fullmatch(r"\|([^|]*)(\|.*)", row).groups()  # type: ignore[union-attr]
                yield "|" + re.sub(r"`(\w+)`", r"`\1.py`", first) + rest
            else:
                yield row


def names_in(passage: str) -> Iterator[str]:
    """The names of files and directories that a checkout must have."""
    is_code = passage.startswith(("    ", "```"))
    for name in (_IN_CODE if is_code else _BACKTICKS).findall(passage):
        first = name.split("/")[0]
        ours = "/" in name and first in TOP | ROOMS
        file = name.endswith((".py", ".md", ".ipynb", ".yaml"))
        folder = name.endswith("/") and not name.startswith("/")
        if (ours or ((file or folder) and not is_code) or name.endswith(".py")) and name not in WRITTEN:
            yield _PLACEHOLDER.sub("*", name)


def folders_of(name: str, beside: Path) -> list[Path]:
    """The directories that a name stands for: itself, or the one that contains it; none for a bare file."""
    if "/" not in name:
        return []
    found = [path for base in (ROOT, PACKAGE, beside) for path in base.glob(name.rstrip("/"))]
    found = found or [path for path in PACKAGE.rglob(name.rstrip("/")) if path.is_dir()]
    return [path if path.is_dir() else path.parent for path in found]


def exists(name: str, beside: Path, folders: list[Path]) -> bool:
    """Whether there is such a file or directory where the page's reader would look for it."""
    bases = [ROOT, PACKAGE, beside, *folders, *(folder.parent for folder in folders)]
    if any(any(base.glob(name.rstrip("/"))) for base in bases):
        return True
    return "/" not in name.rstrip("/") and any(
        any(folder.rglob(name.rstrip("/"))) for folder in folders or [PACKAGE]
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_paths_exist(page: Path) -> None:
    assert missing(page.read_text(encoding="utf-8"), page.parent) == []


def test_pages_name_many_paths() -> None:
    found = [
        name for page in PAGES for lines in passages(page.read_text("utf-8")) for name in names_in(lines)
    ]
    assert len(found) > 250


@pytest.mark.parametrize(
    ("text", "lacking"),
    [
        ("see `views/results.py`", ["views/results.py"]),
        ("see `views/phase_result.py`, `tests/unit/`, `benchmarks/NAME.py`", []),
        ("**`views/`** only render: `results.py`, `figures.py`", ["results.py"]),
        ("**`views/`** have `bootlog.py`, which is in `views/` no more", ["bootlog.py"]),
        ("read by `bootlog.py`, not by `boot_logs.py`", ["boot_logs.py"]),
        ("the room `nowhere/`, the page `docs/nothing.md`", ["nowhere/", "docs/nothing.md"]),
        ("In `run/`:\n\n| module | holds |\n|---|---|\n| `journal`, `diary` | events |", ["diary.py"]),
        (
            "| a new … | goes to |\n|---|---|\n| x | `g5kvirt/views/maps.py` or `capacity.py` |",
            ["capacity.py"],
        ),
        ("    pytest tests/nothing\n    run/state.py, run/no.py", ["tests/nothing", "run/no.py"]),
        ("`runs/NAME/journal.jsonl`, `run.json`, `/etc/hosts`, `~/.cache/g5kvirt`, `base.Testbed`", []),
    ],
)
def test_names_that_do_not_exist_are_found(text: str, lacking: list[str]) -> None:
    assert missing(text, ROOT) == lacking
