"""One cell of the table of faults: a victim that breaks in one phase of an experiment, and what became of it.

The experiment is a small one with light guests, in a process of its own, as a notebook's would be. What
breaks stays broken, or is mended after a while; the step is called again then, once. What has to hold is in
`_Play.judge`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agreement import check_agreement
from localbed import PREFIX, nothing_left, ssh, wait
from scripts import start
from victims import VICTIMS, Scene

from g5kvirt.run.events import Event
from g5kvirt.run.journal import read_events
from g5kvirt.run.tables import Frames
from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local import lifecycle
from g5kvirt.testbeds.local.state import State

__all__ = ["ALL", "PHASES", "Cell", "Outcome", "play"]

VMS = 8
#: Seconds that an experiment may take in all, both calls of a step included; undisturbed it takes 12.
BOUND = 300.0
#: Seconds after which a victim that can be mended is mended.
BROKEN_FOR = 12.0
#: Bytes of the file system of a run.
RUN_SPACE = 16 << 20

SCRIPT = """
STEPS = ("reserve", "deploy", "configure", "place", "launch", "measure", "run", "release")
SPEC = Spec(
    sites={"nancy": 2, "rennes": 2}, vms=%(vms)d, guest="light", vm={"memory": 80, "disk": 16},
    min_hosts=1, capacity={"per_core": 8},
    timeouts={"reserve": 60, "deploy": 60, "command": 30, "services": 30, "boot": 20},
)

def note(**facts):
    print(json.dumps({"t": time.time(), **facts}), flush=True)

def do(step):
    if step == "measure":
        return exp.measure(environment="light")
    if step == "run":
        found = exp.run("sleep 2; hostname", timeout=20)
        return int(found["ok"].sum())
    return getattr(exp, step)()

if %(again)r:
    exp = Experiment.open(runs + "/cell")
else:
    exp = Experiment(SPEC, testbed=testbed, name="cell", runs=runs)
note(step="created")
for step in STEPS:
    for attempt in (1, 2):
        note(step=step, begins=attempt)
        try:
            found = do(step)
        except G5kvirtError as error:
            note(step=step, error=type(error).__name__, message=error.message, advice=error.advice)
            deadline = time.time() + 60
            while attempt == 1 and not (exp.path.parent / "mended").exists() and time.time() < deadline:
                time.sleep(0.1)
        else:
            note(step=step, ends=attempt, found=found if step == "run" else None)
            break
    else:
        if step not in ("measure", "run", "release"):
            note(step="release", begins=1)
            try:
                exp.release()
                note(step="release", ends=1)
            except G5kvirtError as error:
                note(step="release", error=type(error).__name__, message=error.message, advice=error.advice)
            break
note(step="over")
"""

#: Phase → when it is amid: from the events of the run, and the steps that the script has begun.
PHASES: dict[str, Callable[[Sequence[Event], set[str]], bool]] = {
    "reserve": lambda events, _: any(e.step == "submitted" or e.phase == "reserve" for e in events[2:]),
    "deploy": lambda events, _: any(e.phase == "deploy" and e.kind == "host" for e in events),
    "configure": lambda events, _: sum(e.phase == "configure" for e in events) >= 3,
    "launch": lambda events, _: any((e.phase, e.step) == ("launch", "power-on") for e in events),
    "set-up": lambda events, _: any(e.step == "SetDeploymentEnv" for e in events),
    "broadcast": lambda events, _: any(e.step == "BroadcastEnv" for e in events),
    "reboot": lambda events, _: any(e.step == "BootNewEnv" for e in events),
    "run": lambda _, begun: "run" in begun,
    "release": lambda _, begun: "release" in begun,
}


@dataclass(frozen=True, order=True)
class Cell:
    """A victim and the phase in which it breaks."""

    victim: str
    phase: str

    def __str__(self) -> str:
        return f"{self.victim}-{self.phase}"

    @property
    def makes_sense(self) -> bool:
        """There is no relay before the broadcast, and no VM and no agent before the launch."""
        order = list(PHASES)
        first = {"relay": "broadcast", **dict.fromkeys(("vm", "dnsmasq", "nginx", "hostile-agent"), "launch")}
        return order.index(self.phase) >= order.index(first.get(self.victim, order[0]))


ALL = [cell for victim in VICTIMS for phase in PHASES if (cell := Cell(victim, phase)).makes_sense]


@dataclass
class Outcome:
    """What became of a cell. ``problems``: what should not have happened; empty if no problems."""

    cell: Cell
    seconds: float = 0.0  #: of the whole experiment
    noticed: float | None = None  #: seconds from the fault to the end of the step that it hit
    sentences: list[str] = field(default_factory=list)  #: of errors, in their order
    up: int = 0
    deployed: int = 0  #: by the last deployment
    problems: list[str] = field(default_factory=list)

    @property
    def row(self) -> list[str]:
        """As a row of the table."""
        noticed = "" if self.noticed is None else f"{self.noticed:.0f}"
        said = "; ".join(dict.fromkeys(self.sentences)) or "went on"
        held = "; ".join(self.problems) or "holds"
        return [
            self.cell.victim,
            self.cell.phase,
            f"{self.seconds:.0f}",
            noticed,
            str(self.deployed),
            said,
            held,
        ]


def play(cell: Cell) -> Outcome:
    """The whole cell, on a testbed of its own, of which nothing is left."""
    name = f"{PREFIX}-fault{ALL.index(cell)}"  # others may be played at the same time
    folder = Path(tempfile.mkdtemp(prefix="g5kvirt-fault-"))
    outcome = Outcome(cell)
    mounted = False
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={RUN_SPACE}", "fault", str(folder)], check=True)
        mounted = True
        state = lifecycle.up(name, make({"nancy": 3, "rennes": 2}, cores=4, memory_gib=4))
        try:
            _Play(cell, state, folder, outcome).go()
        finally:
            lifecycle.down(name)
        if not nothing_left(name):
            outcome.problems.append("something of the testbed is left on the machine")
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


class _Play:
    def __init__(self, cell: Cell, state: State, folder: Path, outcome: Outcome) -> None:
        self.cell, self.state, self.folder, self.outcome = cell, state, folder, outcome
        self.journal = folder / "cell" / "journal.jsonl"
        self.notes: list[dict[str, Any]] = []
        self.struck = 0.0

    def go(self) -> None:
        began = time.monotonic()
        process, reader = self._start(again=False)
        scene = Scene(self.state, self._host(), self.folder / "cell", process.pid)
        try:
            self._wait_for_the_phase(process)
            if self._host_of_vms():
                scene.host = self._host_of_vms()
            self.struck = time.time()
            mend = VICTIMS[self.cell.victim](scene)
            if mend is not None:
                time.sleep(BROKEN_FOR)
                mend()
            (self.folder / "mended").touch()
            if self.cell.victim == "experiment":
                process.wait(20)
                reader.join(20)
                process, reader = self._start(again=True)
            process.wait(max(1.0, BOUND - (time.monotonic() - began)))
        except subprocess.TimeoutExpired:
            self.outcome.problems.append(f"not over after {BOUND:g} s")
        finally:
            process.kill()
            process.wait(20)
            reader.join(20)
            self.outcome.seconds = time.monotonic() - began
        self.judge(process, scene)

    def _start(self, *, again: bool) -> tuple[subprocess.Popen[str], threading.Thread]:
        process = start(SCRIPT % {"vms": VMS, "again": again}, self.state, self.folder)

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                with contextlib.suppress(ValueError):
                    self.notes.append(json.loads(line))

        def drain() -> None:
            assert process.stderr is not None
            self.errors = process.stderr.read()

        self.errors = ""
        threading.Thread(target=drain, daemon=True).start()
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        return process, reader

    def _events(self) -> list[Event]:
        return read_events(self.journal) if self.journal.exists() else []

    def _wait_for_the_phase(self, process: subprocess.Popen[str]) -> None:
        amid = PHASES[self.cell.phase]

        def there() -> bool:
            begun = {note["step"] for note in list(self.notes) if "begins" in note}
            return process.poll() is not None or amid(self._events(), begun)

        wait(there, timeout=BOUND)
        if process.poll() is not None:
            self.outcome.problems.append(f"the experiment was over before {self.cell.phase}")

    def _host(self) -> str:
        """A host before it is known which ones carry VMs: the last of the second site."""
        return self.state.description.site("rennes").nodes[-1].fqdn

    def _host_of_vms(self) -> str:
        vms = Frames(self._events()).vms
        hosts = sorted({host for host in vms["host"] if host and host.split(".")[1] == "rennes"})
        return str(hosts[-1]) if hosts else ""

    # ---- what has to hold ---------------------------------------------------------------------------

    def judge(self, process: subprocess.Popen[str], scene: Scene) -> None:
        problems, outcome = self.outcome.problems, self.outcome
        if process.returncode != 0 or "Traceback" in self.errors:
            problems.append(f"exit code {process.returncode}: {self.errors.strip()[-300:]!r}")
        for note in self.notes:
            if "error" in note:
                outcome.sentences.append(note["message"])
                problems += _unclear(note)
        outcome.noticed = self._noticed()
        events = self._events()
        check_agreement(events, VMS)
        frames = Frames(events)
        account, known = frames.account, frames.measurements
        outcome.up = account.up
        if account.unfinished and frames.phases["phase"].isin(["launch"]).any():
            problems.append(f"{account.unfinished} VMs have no end in launch")
        if known.summary().unfinished:
            problems.append(f"{known.summary().unfinished} VMs have no end in measure")
        last = known.deployments["deployment"].iloc[-1] if len(known.deployments) else None
        outcome.deployed = 0 if last is None else known.summary(last).deployed
        lost = set(scene.lost_hosts)
        safe = {row.name for row in frames.vms.itertuples() if row.host and row.host not in lost}
        done = set(known.vms.query("deployment == @last and outcome == 'deployed'")["vm"]) if last else set()
        if last and safe - done:
            problems.append(f"{len(safe - done)} VMs of hosts that were not hit are not deployed")
        elif not last and not scene.lost_sites:
            problems.append("nothing was deployed")
        if not lost and outcome.deployed < VMS:
            problems.append(f"{outcome.deployed} of {VMS} VMs were deployed, though no host was lost")
        for one in self.state.description.sites:
            if one.name not in scene.lost_sites:
                done_ = ssh(self.state, f"{one.name}.grid5000.fr", "oarstat", timeout=60)
                if done_.returncode != 0 or "g5kvirt" in done_.stdout:
                    problems.append(
                        f"oarstat at {one.name}: {(done_.stdout + done_.stderr).strip()[-200:]!r}"
                    )

    def _noticed(self) -> float | None:
        """Seconds from the fault to the end of the step that it hit."""
        ends = [n["t"] for n in self.notes if ("ends" in n or "error" in n) and n["t"] >= self.struck]
        return ends[0] - self.struck if ends and self.struck else None


def _unclear(note: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the sentence of an error."""
    text = f"{note['message']} {note['advice']}"
    for word in ("Traceback", "this is a bug", "exit code 15", "65280", "None", "object at 0x"):
        if word in text:
            yield f"{note['step']}: {word!r} in {text!r}"
    if not note["message"] or "\n" in text or len(text) > 700:
        yield f"{note['step']}: no clear sentence: {text!r}"


def draw(seed: int, number: int) -> list[Cell]:
    """``number`` cells by a seed, no two alike."""
    import random

    return sorted(random.Random(seed).sample(ALL, number))


if os.geteuid() != 0:
    raise SystemExit("the faults need root")
