"""What an archive has of runs: their requests, journals and notebooks, without personal data."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from g5kvirt.errors import RunError, SpecError
from g5kvirt.run.directory import Run
from g5kvirt.run.lines import decompress, parse
from g5kvirt.run.tables import Frames

__all__ = ["JOURNAL", "Redactor", "check_names", "check_presence", "collect"]

JOURNAL = "journal.jsonl"

#: A picture or a font in a notebook or in HTML: its letters are no words.
_EMBEDDED = re.compile(r"(data:[\w/+.-]+;base64,[A-Za-z0-9+/=\s]+)")
_PRIVATE_KEY = b"PRIVATE KEY-----"


class Redactor(Protocol):
    """Takes out of documents personal data; first it learns what that is."""

    def learn(self, value: Any) -> None: ...
    def document(self, value: Any) -> Any: ...
    def line(self, text: str) -> str: ...
    def text(self, text: str) -> str: ...


def check_names(runs: Sequence[Run], more: Sequence[Path]) -> None:
    """Raise SpecError if two of the runs or of the files would have one name, or a file may not be in it."""
    for what, names in (("runs", [run.name for run in runs]), ("files", [path.name for path in more])):
        for name in names:
            if names.count(name) > 1:
                raise SpecError(f"two of the {what} are named {name!r}", advice="rename one of them")
    for path in more:
        if not path.is_file():
            raise SpecError(
                f"{path} is not a file", advice="give files; pack a folder first, as .zip or .tar"
            )
        if path.suffix != ".ipynb" and _PRIVATE_KEY in path.read_bytes():
            raise SpecError(f"{path} contains a private key", advice="remove it first")


def check_presence(run: Run) -> None:
    """Raise RunError if nothing has happened in a run yet."""
    if not run.journal.exists():
        raise RunError(f"run {run.name} has no journal yet", advice="archive it after a step has run")


def collect(runs: Sequence[Run], more: Sequence[Path], folder: Path, redactor: Redactor) -> None:
    """Write requests, journals and notebooks of ``runs`` and the files ``more`` below ``folder``.

    Raises RunError for a journal that cannot be read, SpecError for a notebook that is none.
    """
    notebooks = [(f"runs/{run.name}", path) for run in runs for path in sorted(run.path.glob("*.ipynb"))]
    notebooks += [("notebooks", path) for path in more if path.suffix == ".ipynb"]
    documents = {f"{place}/{path.name}": _notebook(path) for place, path in notebooks}
    journals = {run.name: _journal(run) for run in runs}
    for document in documents.values():  # all names before the first replacement
        redactor.learn(document)
    for run in runs:
        redactor.learn(run.document)
        for line in journals[run.name]:
            redactor.learn(json.loads(line))
    for run in runs:
        target = folder / redactor.text(f"runs/{run.name}")
        target.mkdir(parents=True)
        _write(target / "run.json", json.dumps(redactor.document(run.document), indent=2) + "\n")
        _write(target / JOURNAL, "".join(f"{redactor.line(line)}\n" for line in journals[run.name]))
    for name, document in documents.items():
        place = folder / redactor.text(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        _write(place, json.dumps(_redacted(document, redactor), indent=1, ensure_ascii=False) + "\n")
    for path in more:
        if path.suffix != ".ipynb":
            (folder / "more").mkdir(exist_ok=True)
            shutil.copyfile(path, folder / "more" / redactor.text(path.name))


def _journal(run: Run) -> list[str]:
    """The complete lines of a journal, which say something that can be read."""
    data = decompress(run.journal) if run.journal.suffix == ".xz" else run.journal.read_bytes()
    events, sound = parse(data, run.journal, 0)
    if not events:
        raise RunError(f"run {run.name} has no events yet", advice="archive it after a step has run")
    _ = Frames(events).state  # raises RunError for what no figure can be drawn of
    return data[:sound].decode().splitlines()


def _notebook(path: Path) -> Any:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        document["cells"][:0] = []  # a list of cells, as of nbformat 4
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SpecError(
            f"{path} is not a notebook ({error})", advice="open it in Jupyter and save it"
        ) from error
    return document


def _redacted(value: Any, redactor: Redactor, key: str = "") -> Any:
    """A part of a notebook, ``key`` being its name. Texts in several lines are looked at as a whole."""
    if key.startswith("image/"):
        return value
    if isinstance(value, dict):
        return {name: _redacted(own, redactor, name) for name, own in value.items()}
    if isinstance(value, list):
        if value and all(isinstance(own, str) for own in value):
            return _text("".join(value), redactor).splitlines(keepends=True)
        return [_redacted(own, redactor, key) for own in value]
    return _text(value, redactor) if isinstance(value, str) else value


def _text(text: str, redactor: Redactor) -> str:
    parts = _EMBEDDED.split(text)
    return "".join(part if number % 2 else redactor.text(part) for number, part in enumerate(parts))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
