"""The walk of a newcomer: what a person does first with g5kvirt, each step as a command of their own.

From a wheel in a fresh environment: first as a user without root, then, with root, an experiment of one's own
on a local testbed, from an image to an archive. Nothing of this checkout is imported by what is played.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
#: A user that owns nothing, who plays the part without root where the walk itself has root.
NOBODY = 65534
LIMIT = 1800.0  # seconds for one command

SPEC = "sites: {nancy: 2, rennes: 2}\nvms: [{name: server, count: 2}, {name: client, count: 6}]\n"
EXPERIMENT = Path(__file__).with_name("own_experiment.py")


@dataclass(frozen=True)
class Step:
    """One row of the table."""

    name: str
    user: str
    seconds: float = 0.0
    result: str = "not reached"
    ok: bool = False


@dataclass
class Walk:
    """The steps that were played, in a directory that everybody can read."""

    folder: Path
    fetched: bool  #: dependencies come from the package registry; else from the environment of this process
    guest: str = "light"
    steps: list[Step] = field(default_factory=list)
    report: Callable[[Step], object] = lambda _: None
    home: Path = field(init=False)
    python: Path = field(init=False)

    def __post_init__(self) -> None:
        self.home = self.folder / "home"
        self.home.mkdir()
        self.python = self.home / "env/bin/python"
        if os.geteuid() == 0:
            os.chown(self.home, NOBODY, NOBODY)

    @property
    def ok(self) -> bool:
        """Whether all steps held."""
        return all(step.ok for step in self.steps)

    def play(self, name: str, action: Callable[[], str], user: str = "user") -> None:
        """Do a step, unless an earlier one failed: it returns its result, or raises why it failed."""
        step = Step(name, user)
        if self.ok:
            start = time.monotonic()
            try:
                result, ok = action(), True
            except (AssertionError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
                result, ok = f"{error}" or type(error).__name__, False
            step = Step(name, user, time.monotonic() - start, result, ok)
        self.steps.append(step)
        self.report(step)

    def run(self, *words: object, root: bool = False, cwd: Path | None = None) -> str:
        """The output of a command of the user, or of root. Raises AssertionError with its end if it fails."""
        own = root or os.geteuid() != 0
        identity: dict[str, Any] = {} if own else {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        home = Path.home() if root else self.home
        environment = {"HOME": str(home), "PATH": f"{self.python.parent}:/usr/sbin:/usr/bin:/sbin:/bin"}
        # how this machine reaches a package registry, and for root its cache
        kept = ("PIP_", *(("XDG_CACHE_HOME",) if root else ()))
        environment |= {name: value for name, value in os.environ.items() if name.startswith(kept)}
        done = subprocess.run(
            list(map(str, words)),
            cwd=cwd or (self.folder if root else self.home),
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            **identity,
        )
        end = (done.stderr.strip() or done.stdout.strip())[-1500:]
        assert done.returncode == 0, f"{' '.join(map(str, words))}: exit code {done.returncode}: {end}"
        return done.stdout

    def command(self, *words: object, root: bool = False, cwd: Path | None = None) -> str:
        """The output of ``g5kvirt …``, as it was installed from the wheel."""
        return self.run(self.python.with_name("g5kvirt"), *words, root=root, cwd=cwd)


@contextmanager
def walk(**more: Any) -> Iterator[Walk]:
    """A walk in a directory of its own, which is removed."""
    folder = Path(tempfile.mkdtemp(prefix="g5kvirt-newcomer-"))
    folder.chmod(0o755)
    try:
        yield Walk(folder, **more)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ------------------------------------------------------------------------------------- without root
def without_root(walk: Walk) -> None:
    """Wheel, check, predict, show, figures, archive."""
    walk.play("build the wheel", lambda: _wheel(walk), user="developer")
    walk.play("install it in a fresh environment", lambda: _install(walk))
    walk.play("g5kvirt check, on the tables of 2013", lambda: _check(walk))
    walk.play("g5kvirt predict", lambda: _predict(walk))
    walk.play("g5kvirt show --figures, of a recorded run", lambda: _show(walk))
    walk.play("g5kvirt archive", lambda: _archive(walk))
    walk.play("g5kvirt open", lambda: _open(walk, walk.home / "first.zip"))


def _wheel(walk: Walk) -> str:
    argv = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", walk.folder, CHECKOUT]
    subprocess.run(argv, check=True, capture_output=True, timeout=LIMIT)
    (wheel,) = walk.folder.glob("*.whl")
    return f"{wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB"


def _install(walk: Walk) -> str:
    """As the user. Without ``fetched`` only g5kvirt is installed; the rest is that of this environment."""
    (wheel,) = walk.folder.glob("*.whl")
    base = getattr(sys, "_base_executable", sys.executable)
    quiet = ("-q", "--disable-pip-version-check")
    if walk.fetched:
        walk.run(base, "-m", "venv", walk.home / "env")
        walk.run(walk.python, "-m", "pip", "install", *quiet, wheel)
    else:
        walk.run(base, "-m", "venv", "--without-pip", walk.home / "env")
        pip = (sys.executable, "-m", "pip", "--python", walk.python, "install", *quiet)
        walk.run(*pip, "--no-deps", "--no-index", "--no-compile", wheel)
        (packages,) = (walk.home / "env/lib").glob("python*/site-packages")
        (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    where = walk.run(walk.python, "-c", "import g5kvirt; print(g5kvirt.__file__)").strip()
    assert where.startswith(str(walk.home)), f"g5kvirt is imported from {where}, not from the wheel"
    return walk.command("--version").strip()


def _check(walk: Walk) -> str:
    (walk.home / "spec.yaml").write_text(SPEC)
    found = json.loads(walk.command("check", "spec.yaml", "--inventory", "2013", "--json"))
    problems = [one["message"] for one in found["findings"] if one["status"] == "problem"]
    assert not problems, "; ".join(problems)
    return f"{len(found['findings'])} findings, no problem"


def _predict(walk: Walk) -> str:
    out = walk.command("predict", "spec.yaml")
    line = next((line for line in out.splitlines() if "deployment" in line), "")
    assert line, f"no deployment is predicted: {out}"
    return " ".join(line.split())


def _show(walk: Walk) -> str:
    copy = (
        "import shutil; from g5kvirt import data_tables\n"
        "shutil.copytree(data_tables.path('runs/window-1/run.json').parent, 'runs/first')"
    )
    walk.run(walk.python, "-c", copy)
    walk.command("show", "first", "--figures", "--tables")
    figures = sorted((walk.home / "runs/first/figures").glob("*.pdf"))
    assert len(figures) >= 4, f"only {[path.name for path in figures]}"
    assert all(path.read_bytes().startswith(b"%PDF-") for path in figures)
    return f"{len(figures)} figures"


def _archive(walk: Walk) -> str:
    return walk.command("archive", "first", "-o", "first.zip").splitlines()[0]


def _open(walk: Walk, file: Path, cwd: Path | None = None) -> str:
    out = walk.command("open", file, "--into", "opened", cwd=cwd)
    line = next((line for line in out.splitlines() if "all the same to the byte" in line), "")
    assert line, out
    return line.partition(" (")[0]


# --------------------------------------------------------------------------------------- with root
def with_root(walk: Walk) -> None:
    """An image of one's own, a testbed, an experiment on it, an archive that somebody else opens."""
    bed = f"newcomer-{os.getpid()}"
    image = walk.folder / "environments/own.yaml"

    def build() -> str:
        out = walk.command("image", "build", "--packages", "iperf3", "own", root=True)
        assert image.is_file(), out
        return next(line for line in out.splitlines() if line.startswith("environments/"))

    def up() -> str:
        out = walk.command("local", "up", "--name", bed, "--sites", "nancy=2,rennes=1", root=True)
        return out.strip().splitlines()[-1]

    walk.play("g5kvirt image build, with iperf3", build, user="root")
    try:
        walk.play("g5kvirt local up", up, user="root")
        walk.play("an experiment with two groups and a link", lambda: _experiment(walk, bed, image), "root")
        for name, check in CHECKS.items():
            walk.play(name, lambda check=check: check(_results(walk)), "root")  # type: ignore[misc]
    finally:
        if any(step.name == "g5kvirt local up" and step.seconds for step in walk.steps):
            walk.command("local", "down", "--name", bed, root=True)
    walk.play("g5kvirt archive", lambda: _archive_own(walk), user="root")
    walk.play("g5kvirt open, elsewhere", lambda: _open_elsewhere(walk))


def _experiment(walk: Walk, bed: str, image: Path) -> str:
    out = walk.run(walk.python, EXPERIMENT, f"local:{bed}", image, walk.guest, root=True)
    return out.strip().splitlines()[-1]


def _results(walk: Walk) -> dict[str, Any]:
    """What `own_experiment` has found."""
    found: dict[str, Any] = json.loads((walk.folder / "runs/own/results.json").read_text())
    return found


def _link(results: dict[str, Any]) -> str:
    rates = results["links"]
    assert len(rates) == 2, "both directions are measured"
    assert all(rate is not None and abs(rate / 20e6 - 1) <= 0.1 for rate in rates), f"measured: {rates}"
    return f"{' and '.join(f'{rate / 1e6:.1f}' for rate in rates)} Mbit/s of 20 Mbit/s"


def _iperf(results: dict[str, Any]) -> str:
    rates = [rate for rate in results["iperf"] if abs(rate / 20e6 - 1) <= 0.1]
    assert len(rates) == len(results["iperf"]) >= 5, f"measured: {results['iperf']}"
    span = f"{min(rates) / 1e6:.1f} to {max(rates) / 1e6:.1f} Mbit/s"
    return f"{len(rates)} transfers by {results['version']}: {span}"


def _intervals(results: dict[str, Any]) -> str:
    low, middle, high = results["interval"]
    assert low <= middle <= high, results["interval"]
    assert results["figures"] >= 10, f"only {results['figures']} figures"
    return f"{results['figures']} figures; median {middle:.2f} Mbit/s, 95 % from {low:.2f} to {high:.2f}"


CHECKS: dict[str, Callable[[dict[str, Any]], str]] = {
    "the link of 20 Mbit/s, measured within 10 %": _link,
    "iperf3 of the image, over that link": _iperf,
    "figures, with an interval": _intervals,
}


def _archive_own(walk: Walk) -> str:
    words = ("archive", "own", "-o", "own.zip", "--add", "runs/own/transfers.csv")
    return walk.command(*words, root=True).splitlines()[0]


def _open_elsewhere(walk: Walk) -> str:
    """As somebody else, in another directory, without the run."""
    elsewhere = walk.home / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(walk.folder / "own.zip", elsewhere)
    if os.geteuid() == 0:
        for path in (elsewhere, elsewhere / "own.zip"):
            os.chown(path, NOBODY, NOBODY)
    return _open(walk, elsewhere / "own.zip", elsewhere)


# ------------------------------------------------------------------------------------------ the table
def line(step: Step) -> str:
    """A step as a line of the table."""
    mark = "ok" if step.ok else "FAILED" if step.seconds else "-"
    text = textwrap.shorten(step.result, 160) if step.ok else step.result
    return f"{step.seconds:7.1f} s  {mark:6}  {step.user:9}  {step.name}: {text}"
