"""``g5kvirt report``: one archive to send with a bug, without what concerns the person who sends it."""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import os
import platform
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from g5kvirt.artifact.person import redaction_of_this_person
from g5kvirt.cli.options import command_parser, confirmed, runs_option
from g5kvirt.views.formatting import count

if TYPE_CHECKING:
    from g5kvirt.artifact.redaction import Redaction
    from g5kvirt.run.directory import Run

__all__ = ["add_report", "contents", "report"]


def add_report(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``report``."""
    parser = command_parser(
        sub,
        "report",
        "pack the data of a run for a bug report",
        "The report contains the journal, run.json, versions of the software, and all commands and API "
        "requests to the testbed with their answers. Logins, keys, tokens, passwords, e-mail addresses, home "
        "directories, Internet addresses and this host's name are replaced. Lists the contents and asks for "
        "confirmation before it writes the file.\n\n"
        "example:\n"
        "  g5kvirt report first -o bug.tar.gz",
    )
    parser.add_argument("run", metavar="RUN", help="name or directory of the run")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the file to write (default: RUN-report.tar.gz)"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    runs_option(parser)
    parser.set_defaults(do=report)


def report(arguments: argparse.Namespace) -> int:
    """List what the archive will have, ask, write it."""
    from g5kvirt.run.directory import locate

    run = locate(arguments.runs, arguments.run)
    redaction = redaction_of_this_person()
    files = contents(run, redaction)
    path = arguments.output or Path(f"{run.name}-report.tar.gz")
    print(f"{path} will contain, from run {run.name}:")
    for name, text in files.items():
        print(f"  {name:18} {text.count(chr(10)):>7,} lines  {len(text.encode()):>11,} bytes")
    replaced = ", ".join(
        f"{kind} {count(number, 'time')}" for kind, number in sorted(redaction.count.items())
    )
    print(f"  replaced: {replaced or 'nothing'}")
    print("It is not encrypted. Look through it before you send it: it may contain other personal data.")
    if not arguments.yes and not confirmed(f"write {path}? [y/N] ", "write the report"):
        print("nothing was written")
        return 1
    _write(path, files)
    print(f"written: {path}")
    return 0


def contents(run: Run, redaction: Redaction) -> Mapping[str, str]:
    """The files of the archive, by name, without what `redaction` takes out."""
    from g5kvirt.testbeds.transcript import FILES

    raw = {"run.json": json.dumps(run.document), "journal.jsonl": _journal(run)}
    transcript = "".join(_read(run.path / name) for name in FILES)
    if transcript:
        raw["transcript.jsonl"] = transcript
    if page := _read(run.path / "rehearsal.txt"):
        raw["rehearsal.txt"] = page
    raw["versions.json"] = json.dumps(versions())
    for text in raw.values():  # all names before the first replacement
        for line in text.splitlines():
            try:
                redaction.learn(json.loads(line))
            except (ValueError, RecursionError):
                redaction.learn(line)
    return {
        name: redaction.text(text)
        if name.endswith(".txt")
        else "".join(f"{redaction.line(line)}\n" for line in text.splitlines())
        for name, text in raw.items()
    }


def versions() -> dict[str, str]:
    """What runs here."""
    import g5kvirt

    found = {"g5kvirt": g5kvirt.__version__, "python": platform.python_version()}
    try:
        found["execo"] = importlib.metadata.version("execo")
    except importlib.metadata.PackageNotFoundError:
        found["execo"] = "not installed"
    try:
        found["system"] = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        found["system"] = platform.system()
    return found | {"kernel": platform.release(), "machine": platform.machine()}


def _journal(run: Run) -> str:
    """The journal as it is: a damaged one, too, belongs into a report."""
    from g5kvirt.run.lines import decompress

    if run.journal.suffix == ".xz":
        return decompress(run.journal).decode("utf-8", "replace")
    return _read(run.journal)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _write(path: Path, files: Mapping[str, str]) -> None:
    """A new archive that only its owner may read, in which nobody owns the files."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, text in files.items():
            data = text.encode()
            info = tarfile.TarInfo(f"g5kvirt-report/{name}")
            info.size, info.mode = len(data), 0o600
            archive.addfile(info, io.BytesIO(data))
