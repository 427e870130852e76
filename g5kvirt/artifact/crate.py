"""The description of an archive for machines: a research object (RO-Crate) with one action for each run.

Runs follow the profile Process Run Crate: a run is a ``CreateAction`` of g5kvirt, which took ``run.json`` and
gave the journal; tables and figures are derived from the journal.
"""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from g5kvirt.artifact.collect import JOURNAL
from g5kvirt.run.directory import Run, list_runs
from g5kvirt.run.journal import read_events
from g5kvirt.views.palette import guest_description

__all__ = ["METADATA", "About", "describe", "digest"]

METADATA = "ro-crate-metadata.json"
_PROCESS_RUN = "https://w3id.org/ro/wfrun/process/0.5"
_FIGURES = (".pdf", ".png")
_TYPES = {".jsonl": "application/jsonl", ".ipynb": "application/x-ipynb+json", ".whl": "application/zip"}


@dataclass(frozen=True)
class About:
    """What an archive says of itself: ``licence`` is a URL or a name as of SPDX; all may be empty."""

    title: str = ""
    authors: Sequence[str] = ()
    licence: str = ""


def describe(folder: Path, about: About, versions: Mapping[str, str], files: Iterable[str]) -> None:
    """Write ``ro-crate-metadata.json`` for ``files`` (paths relative to ``folder``, which has them)."""
    from rocrate.model.contextentity import ContextEntity  # half a second
    from rocrate.model.softwareapplication import SoftwareApplication
    from rocrate.rocrate import ROCrate

    runs = list_runs(folder / "runs")
    crate = ROCrate(version="1.1")
    crate.name = about.title or f"Runs of g5kvirt: {', '.join(run.name for run in runs)}"
    crate.description = (
        "Journals of experiments with virtual machines, their tables and figures. "
        + "; ".join(f"{run.name}: testbed {run.testbed}" for run in runs)
    )
    # The same runs give the same archive: the date is that of the last run, not of today.
    crate.datePublished = _time(max(run.created for run in runs))
    if about.licence:
        crate.license = about.licence
    authors = [
        crate.add(ContextEntity(crate, f"#author-{number}", {"@type": "Person", "name": name}))
        for number, name in enumerate(about.authors, start=1)
    ]
    if authors:
        crate.root_dataset["author"] = authors
    profile = {"@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}
    crate.root_dataset["conformsTo"] = crate.add(ContextEntity(crate, _PROCESS_RUN, profile))
    entities = {name: _add_file(crate, folder, name) for name in files}
    tool: Any = crate.add(
        SoftwareApplication(crate, "#g5kvirt", {"name": "g5kvirt", "softwareVersion": versions["g5kvirt"]})
    )
    actions = [_action(crate, tool, run, entities) for run in runs]
    crate.root_dataset["mentions"] = actions
    crate.metadata.write(folder)


def _add_file(crate: Any, folder: Path, name: str) -> Any:
    path = folder / name
    kind = _TYPES.get(path.suffix) or mimetypes.types_map.get(path.suffix, "text/plain")
    about: dict[str, Any] = {
        "name": name,
        "encodingFormat": kind,
        "contentSize": str(path.stat().st_size),
        "sha256": digest(path),
    }
    return crate.add_file(path, name, properties=about)


def _action(crate: Any, tool: Any, run: Run, entities: Mapping[str, Any]) -> Any:
    """What was done in a run, and what was made of it."""
    place = f"runs/{run.name}"
    events = read_events(run.journal)
    guest = next((str(e.detail.get("guest", "")) for e in events if e.step == "guests"), "")
    journal, request = entities[f"{place}/{JOURNAL}"], entities[f"{place}/run.json"]
    for name, entity in entities.items():
        if name.startswith((f"{place}/figures/", f"{place}/tables/")):
            entity["isBasedOn"] = journal
            if name.endswith(_FIGURES):
                entity["name"] = f"{Path(name).stem} of run {run.name}"
    return crate.add_action(
        tool,
        identifier=f"#run-{run.name}",
        object=[request],
        result=[journal],
        properties={
            "name": f"run {run.name} on {run.testbed}",
            "description": f"guests: {guest_description(guest)}" if guest else "",
            "startTime": _time(min(event.t for event in events)),
            "endTime": _time(max(event.t for event in events)),
            "actionStatus": "http://schema.org/CompletedActionStatus",
        },
    )


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(round(seconds), UTC).isoformat()


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
