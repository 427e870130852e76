"""The demos: start a local testbed, run a notebook on it, and stop the testbed again.

Only the run (with the executed notebook and its figures) and the cache of the testbed's layers remain.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from g5kvirt.cli import notebooks
from g5kvirt.cli.console import Console
from g5kvirt.cli.memory import available_memory
from g5kvirt.errors import MachineError, SpecError
from g5kvirt.run.events import Event
from g5kvirt.spec.spec import Spec
from g5kvirt.testbeds.described.model import SwitchKind
from g5kvirt.views.formatting import count, duration
from g5kvirt.views.terminal import TerminalProgress

__all__ = ["DEMOS", "Demo", "Follower", "demonstrate", "orphans"]

#: Every demo has a testbed of its own, named after its process, so that neither the user's testbed nor that
#: of another demo is touched.
TESTBED = "demo"
#: Hosts of the slides' experiment: 355 on 6 sites. The slides do not give the number per site.
SLIDES = {"grenoble": 67, "lille": 62, "lyon": 63, "nancy": 59, "nantes": 61, "rennes": 43}
SLIDES_VMS = 4552
#: Up to so many, the demo also measures each thing that stood in the way.
CHALLENGES_VMS = 1000
#: Up to so many, reboot windows as well: with more, each of their deployments takes minutes.
WINDOWS_VMS = 100


@dataclass(frozen=True)
class Demo:
    """A notebook, and the testbed on which it is shown."""

    notebook: str
    vms: int  #: unless another number is given
    #: number of VMs → hosts by site; each site also has a service machine
    sites: Callable[[int], dict[str, int]]
    parameters: Callable[[int], dict[str, Any]]  #: number of VMs → further parameters of the notebook
    switch: SwitchKind = "plain"
    memory: int = 0  #: MiB that the machine has to have available for each thousand of VMs


def slides_sites(vms: int) -> dict[str, int]:
    """As many hosts as the slides' experiment had for its 4,552 VMs, in proportion, rounded up."""
    return {site: math.ceil(hosts * vms / SLIDES_VMS) for site, hosts in SLIDES.items()}


def slides_sizes(vms: int) -> list[int]:
    """Numbers of VMs to deploy on: 500, 1,000, 2,000 and all 4,552, or the same parts of ``vms``."""
    parts = (500, 1000, 2000, SLIDES_VMS)
    return sorted({max(1, round(part * vms / SLIDES_VMS)) for part in parts})


def slides_spec(vms: int) -> Spec:
    """So many light guests on as many hosts as that part of the slides' experiment has."""
    sites = slides_sites(vms)
    return Spec(
        sites=sites,
        vms=vms,
        guest="light",
        services=len(sites),
        vm={"memory": 80, "disk": 16},
        capacity={"per_core": 4, "max_per_host": 16},
    )


DEMOS = {
    "quickstart": Demo("quickstart", 8, lambda vms: {"nancy": 2, "rennes": 2}, lambda vms: {}),
    "slides": Demo(
        "slides",
        SLIDES_VMS,
        slides_sites,
        lambda vms: {
            "sizes": slides_sizes(vms),
            "challenges": vms <= CHALLENGES_VMS,
            **({"windows": []} if vms > WINDOWS_VMS else {}),
        },
        switch="managed",
        memory=3_500,
    ),
}


def demonstrate(console: Console, runs: Path, vms: int | None = None, demo: str = "quickstart") -> int:
    """Run a demo, printing each part and its duration. Returns the exit code.

    Raises MachineError without root or memory, SpecError for a demo that there is not, TestbedError and
    PhaseError; the testbed is stopped in any case.
    """
    from g5kvirt.testbeds.described import description
    from g5kvirt.testbeds.local import lifecycle

    if demo not in DEMOS:
        raise SpecError(f"there is no demo {demo!r}", advice=f"choose from {', '.join(DEMOS)}")
    chosen = DEMOS[demo]
    vms = chosen.vms if vms is None else vms

    if vms < 1:
        raise SpecError(f"--vms must be at least 1, not {vms}")
    if os.geteuid() != 0:
        raise MachineError("the local testbed needs root for network namespaces and mounts: use sudo")
    _check_memory(chosen, vms)
    notebook = notebooks.find(chosen.notebook)
    sites = chosen.sites(vms)
    runs.mkdir(parents=True, exist_ok=True)
    name = "demo-" + datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")
    start = time.monotonic()
    testbed = f"{TESTBED}-{os.getpid()}"
    try:
        with _part(console, "local testbed up"):
            for orphan in orphans():
                lifecycle.down(orphan)
            machines = {site: hosts + 1 for site, hosts in sites.items()}
            lifecycle.up(
                name=testbed,
                description=description.make(machines, switch=chosen.switch),
                progress=lambda part, seconds: _print(console, f"  {part}: {duration(seconds)}"),
            )
        parameters = {"testbed": f"local:{testbed}", "sites": sites, "vms": vms, "name": name}
        parameters |= {"runs": str(runs.resolve()), **chosen.parameters(vms)}
        with _part(console, f"{notebook.name}, {count(vms, 'VM')}"):
            executed = _execute(console, notebook, runs / name, parameters)
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


def _check_memory(demo: Demo, vms: int) -> None:
    """Raises MachineError if this machine does not have the memory for so many VMs."""
    needed = demo.memory * vms // 1000
    available = available_memory() >> 20
    if needed > available:
        raise MachineError(
            f"{count(vms, 'VM')} need {needed:,} MiB of memory, and {available:,} are available here",
            advice=f"use --vms {max(1, vms * available // needed)}",
        )


def _execute(console: Console, notebook: Path, run: Path, parameters: Mapping[str, Any]) -> Path:
    """Run the notebook with papermill and show the run's progress. Returns the executed notebook."""
    # The experiment creates the run's directory; until then the notebook is next to it.
    beside = run.with_name(f"{run.name}.ipynb")
    try:
        with (
            TerminalProgress(console, parameters["vms"]) as progress,
            Follower(run / "journal.jsonl", progress.take),
        ):
            notebooks.execute(
                notebook, beside, parameters, kept=lambda: notebooks.keep(beside, run, notebook.name)
            )
    finally:
        final = notebooks.keep(beside, run, notebook.name)
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
