"""The demo: start a local testbed, run the quickstart notebook on it, and stop the testbed again.

Only the run (with the executed notebook and its figures) and the cache of the testbed's layers remain.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from g5kvirt.cli import notebooks
from g5kvirt.errors import MachineError, SpecError
from g5kvirt.run.events import Event
from g5kvirt.views.formatting import count, duration
from g5kvirt.views.terminal import TerminalProgress

__all__ = ["Follower", "demonstrate", "orphans"]

NOTEBOOK = "quickstart.ipynb"
#: Every demo has a testbed of its own, named after its process, so that neither the user's testbed nor that
#: of another demo is touched.
TESTBED = "demo"
SITES = {"nancy": 2, "rennes": 2}  #: hosts; the default testbed has these and one service machine per site


def demonstrate(console: Console, runs: Path, vms: int) -> int:
    """Run the demo, printing each part and its duration. Returns the exit code.

    Raises MachineError without root, TestbedError and PhaseError; the testbed is stopped in any case.
    """
    from g5kvirt.testbeds.local import lifecycle

    if vms < 1:
        raise SpecError(f"--vms must be at least 1, not {vms}")
    if os.geteuid() != 0:
        raise MachineError("the local testbed needs root for network namespaces and mounts: use sudo")
    notebook = notebooks.find("quickstart")
    runs.mkdir(parents=True, exist_ok=True)
    name = "demo-" + datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")
    start = time.monotonic()
    testbed = f"{TESTBED}-{os.getpid()}"
    try:
        with _part(console, "local testbed up"):
            for orphan in orphans():
                lifecycle.down(orphan)
            lifecycle.up(
                name=testbed, progress=lambda part, seconds: _print(console, f"  {part}: {duration(seconds)}")
            )
        with _part(console, f"{NOTEBOOK}, {count(vms, 'VM')}"):
            executed = _execute(console, notebook, runs, name, testbed, vms)
    finally:
        with _part(console, "local testbed down"):
            lifecycle.down(name=testbed)
    _give_to_caller(runs / name)
    _print(console, f"\nall of it in {duration(time.monotonic() - start)}; what is left:")
    _print(console, f"  notebook  {executed}")
    _print(console, f"  page      {executed.with_suffix('.html')} (the notebook as a page for a browser)")
    for figure in sorted((runs / name / "figures").glob("*.pdf")):
        _print(console, f"  figure    {figure} (also as .png, with its data as .csv)")
    # `./bootstrap demo` has installed the command outside the shell's search path.
    command = "g5kvirt" if shutil.which("g5kvirt") else Path(sys.executable).with_name("g5kvirt")
    _print(console, f"  run       {runs / name} ({command} show {runs / name})")
    return 0


def orphans() -> list[str]:
    """The testbeds of demos that were killed: their process no longer exists."""
    from g5kvirt.testbeds.local import lifecycle

    found = []
    for name in lifecycle.testbed_names():
        prefix, _, pid = name.rpartition("-")
        if prefix == TESTBED and pid.isdecimal() and not Path("/proc", pid).exists():
            found.append(name)
    return found


def _execute(console: Console, notebook: Path, runs: Path, name: str, testbed: str, vms: int) -> Path:
    """Run the notebook with papermill and show the run's progress. Returns the executed notebook."""
    # The experiment creates the run's directory; until then the notebook lies beside it.
    beside = runs / f"{name}.ipynb"
    parameters: dict[str, Any] = {
        "testbed": f"local:{testbed}",
        "sites": SITES,
        "vms": vms,
        "name": name,
        "runs": str(runs.resolve()),
    }
    try:
        with (
            TerminalProgress(console, vms) as progress,
            Follower(runs / name / "journal.jsonl", progress.take),
        ):
            notebooks.execute(
                notebook, beside, parameters, kept=lambda: notebooks.keep(beside, runs / name, NOTEBOOK)
            )
    finally:
        final = notebooks.keep(beside, runs / name, NOTEBOOK)
    notebooks.page(final)
    return final


def _give_to_caller(run: Path) -> None:
    """After sudo, make the user the owner of the run, including its private key, instead of root."""
    owner, group = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if not (owner.isdecimal() and group.isdecimal() and run.is_dir()):
        return
    for path in [run.parent, run, *run.rglob("*")]:
        if path != run.parent or path.stat().st_uid == 0:
            os.chown(path, int(owner), int(group), follow_symlinks=False)


@contextmanager
def _part(console: Console, name: str) -> Iterator[None]:
    """Print what is being done, and how long it took."""
    _print(console, f"{name} …")
    start = time.monotonic()
    yield
    _print(console, f"{name}: {duration(time.monotonic() - start)}")


def _print(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


class Follower:
    """Passes on each event that another process appends to a journal, while its ``with`` block lasts."""

    def __init__(self, path: Path, take: Callable[[Event], None], every: float = 0.2) -> None:
        self.path = path
        self._take = take
        self._every = every
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="journal follower", daemon=True)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(timeout=10)

    def _follow(self) -> None:
        position, rest = 0, b""
        while True:
            ending = self._done.is_set()  # before reading: what is written by now is still passed on
            if self.path.exists():
                with self.path.open("rb") as file:
                    file.seek(position)
                    data = file.read()
                position += len(data)
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._take(Event.from_json(line.decode()))
            if ending:
                return
            self._done.wait(self._every)
