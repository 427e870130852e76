"""What each command does. Imports are inside: `g5kvirt --help` must not wait for pandas or execo."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from g5kvirt.errors import G5kvirtError, MachineError, SpecError, TestbedError
from g5kvirt.inventory import to_plain
from g5kvirt.views.words import count, duration

if TYPE_CHECKING:
    from g5kvirt.run.directory import Run
    from g5kvirt.testbeds.local.description import Description

__all__ = [
    "check",
    "demo",
    "doctor",
    "local_down",
    "local_status",
    "local_up",
    "release",
    "run",
    "runs",
    "show",
    "sizes",
]


#: What `check` asks of which nothing in the specification is to blame.
OF_THE_TESTBED = {"testbed", "API", "frontend", "ssh key", "run's key"}


def doctor(arguments: argparse.Namespace) -> int:
    """Probe this machine."""
    from g5kvirt.cli import doctor as probes
    from g5kvirt.views.text import findings_table

    if arguments.json:
        findings = probes.examine()
        print(json.dumps(probes.report(findings), indent=2, ensure_ascii=False))
    else:
        console = _console()
        with _working(console, "looking at this machine …"):
            findings = probes.examine()
        console.print(findings_table(findings))
        console.print(probes.verdict(findings), highlight=False, soft_wrap=True)
    return 0 if probes.able(findings) else MachineError.exit_code


def local_up(arguments: argparse.Namespace) -> int:
    """Raise the local testbed."""
    from g5kvirt.testbeds.local import lifecycle

    console = Console()
    description = _description(arguments)
    began = time.monotonic()
    with _working(console, "raising the local testbed …"):
        lifecycle.up(name=arguments.name, description=description, progress=said(console))
    console.print(f"local testbed up in {duration(time.monotonic() - began)}", highlight=False)
    return local_status(arguments)


def local_status(arguments: argparse.Namespace) -> int:
    """Say what is up."""
    from g5kvirt.testbeds.local import lifecycle

    console = Console()
    found = lifecycle.status(name=arguments.name)
    console.print(str(found), markup=False, highlight=False, soft_wrap=True)
    if arguments.name is None:
        for other in lifecycle.testbed_names():
            if other != found.name:
                words = str(lifecycle.status(name=other))
                console.print(words, style="dim", markup=False, highlight=False, soft_wrap=True)
    return 0 if found.state == "up" else MachineError.exit_code


def local_down(arguments: argparse.Namespace) -> int:
    """Take the local testbed down, and those of demonstrations that were killed."""
    from g5kvirt.cli.demo import orphans
    from g5kvirt.testbeds.local import lifecycle
    from g5kvirt.testbeds.local.state import default_name

    console = Console()
    for name in lifecycle.testbed_names() if arguments.all else [arguments.name, *orphans()]:
        began = time.monotonic()
        was = lifecycle.down(name=name)
        took = duration(time.monotonic() - began)
        words = f"down in {took}" if was else "was not up"
        console.print(f"testbed {name or default_name()} {words}", highlight=False)
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Run an experiment from its specification to its release."""
    from g5kvirt.experiment import Experiment
    from g5kvirt.run.vocabulary import PHASES
    from g5kvirt.spec.spec import Spec
    from g5kvirt.sweeps import check_measure
    from g5kvirt.views.terminal import TerminalProgress

    console = Console()
    spec = Spec.load(arguments.spec)
    measure = _measure(arguments)
    if measure is not None:
        check_measure(spec, measure)
    experiment = Experiment(spec, testbed=arguments.testbed, name=arguments.name, runs=arguments.runs)
    console.print(
        f"run {experiment.name} on {arguments.testbed}: {count(spec.vms, 'VM')} on "
        f"{count(spec.hosts, 'host')} of {count(len(spec.sites), 'site')}",
        highlight=False,
    )
    failed = 0
    with TerminalProgress(console, spec.vms) as progress:
        unsubscribe = experiment.journal.subscribe(progress.take)
        try:
            for phase in (p for p in PHASES if p != "measure"):
                getattr(experiment, phase)()
            failed = experiment.frames.account.failed
            if measure is not None:
                result = experiment.measure(**measure)
                failed += result.summary.failed
        finally:
            unsubscribe()
            if not arguments.keep:
                experiment.release()
            experiment.journal.close()
    if measure is not None:
        console.print(str(result), markup=False, highlight=False, soft_wrap=True)
    saved = experiment.figures.save(experiment.path / "figures")
    _say_where(console, experiment.path, saved)
    return 1 if failed else 0


def check(arguments: argparse.Namespace) -> int:
    """Say what an experiment would do and what is wrong with it, without doing it."""
    from g5kvirt.phases.check import check as ask
    from g5kvirt.phases.check import on_table
    from g5kvirt.spec.spec import Spec
    from g5kvirt.testbeds import open_testbed
    from g5kvirt.views.checked import CheckResult

    console = _console()
    spec = Spec.load(arguments.spec)
    if arguments.inventory is not None:
        found, where = on_table(spec, arguments.inventory), f"Grid'5000 of {arguments.inventory}"
    else:
        where = arguments.testbed
        with _working(console, f"asking {where} …"):
            found = ask(spec, open_testbed(where), arguments.runs, arguments.name)
    if arguments.json:
        document = {
            "ok": found.ok,
            "findings": [asdict(one) for one in found.findings],
            "plan": to_plain(found.plan),
        }
        print(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        result = CheckResult(found, of=str(arguments.spec), testbed=where)
        console.print(str(result), markup=False, highlight=False, soft_wrap=True)
    if found.ok:
        return 0
    problems = {finding.what for finding in found.findings if finding.status == "problem"}
    return TestbedError.exit_code if problems <= OF_THE_TESTBED else SpecError.exit_code


def sizes(word: str) -> list[int]:
    """``4,8`` as numbers of VMs, ``all`` as none. Raises ArgumentTypeError."""
    try:
        return [] if word == "all" else [int(part) for part in word.split(",")]
    except ValueError:
        says = f"expected numbers of VMs such as 4,8, or all, not {word!r}"
        raise argparse.ArgumentTypeError(says) from None


def _measure(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """The arguments of `Experiment.measure` that were given; None if nothing is to be measured."""
    given = {name: getattr(arguments, name) for name in ("environment", "repeat", "broadcast")}
    given = {name: value for name, value in given.items() if value is not None}
    if arguments.measure is not None:
        given["sizes"] = arguments.measure or None
    return given or None


def release(arguments: argparse.Namespace) -> int:
    """Give back what a run still holds."""
    from g5kvirt.experiment import Experiment

    one = _find(arguments)
    Experiment.open(one.path).release()
    Console().print(f"run {one.name} holds no machines any more", highlight=False, soft_wrap=True)
    return 0


def runs(arguments: argparse.Namespace) -> int:
    """List the runs, also those in the folder of a sweep or a notebook."""
    from g5kvirt.run.directory import list_runs
    from g5kvirt.run.journal import read_events
    from g5kvirt.run.state import RunState
    from g5kvirt.views.live.model import LiveModel
    from g5kvirt.views.text import machines

    console = _console()
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("run", "begun", "testbed", "VMs up", "stands at", "machines"):
        table.add_column(title, justify="right" if title == "VMs up" else "left")
    folders = [arguments.runs, *(path for path in arguments.runs.glob("*") if path.is_dir())]
    found = sorted((one for folder in folders for one in list_runs(folder)), key=lambda one: one.created)
    for one in found:
        asked = _vms(one)
        about = (str(one.path.relative_to(arguments.runs)), _date(one.created), _testbed(one))
        try:
            events = read_events(one.journal)
            progress = LiveModel.of(events, asked)
        except G5kvirtError as error:
            table.add_row(*about, f"– of {asked:,}", str(error), "")
            continue
        held = machines(RunState.of(events), time.time())
        table.add_row(*about, f"{progress.up:,} of {asked:,}", progress.stands_at, held)
    if found:
        console.print(table)
    else:
        console.print(f"no runs in {arguments.runs} yet", highlight=False)
    return 0


def show(arguments: argparse.Namespace) -> int:
    """Show where a run stands; with ``--figures`` write its figures, with ``--tables`` its tables."""
    from g5kvirt.run.journal import read_events
    from g5kvirt.run.tables import Frames
    from g5kvirt.views.live.model import LiveModel
    from g5kvirt.views.text import run_text

    console = _console()
    one = _find(arguments)
    events = read_events(one.journal)
    console.print(run_text(one.name, _testbed(one), LiveModel.of(events, _vms(one)), time.time()))
    if arguments.figures:
        from g5kvirt.views.figures import Figures

        _say_where(console, one.path, Figures.open(one.path).save(one.path / "figures"))
    if arguments.tables:
        for table in Frames(events).export(one.path / "tables"):
            console.print(f"table    {table}", markup=False, highlight=False, soft_wrap=True)
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """The quickstart notebook on a local testbed of its own."""
    from g5kvirt.cli.demo import demonstrate

    return demonstrate(Console(), arguments.runs, arguments.vms)


def said(console: Console) -> _Said:
    """A progress callback that prints each part with the time it took."""
    return _Said(console)


class _Said:
    def __init__(self, console: Console) -> None:
        self.console = console

    def __call__(self, what: str, seconds: float) -> None:
        self.console.print(f"  {what}: {duration(seconds)}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _working(console: Console, words: str) -> Iterator[None]:
    """A spinner on a terminal, nothing elsewhere."""
    if console.is_terminal:
        with console.status(words):
            yield
    else:
        yield


def _console() -> Console:
    """A console for tables: in a pipe or a file there is no width to keep to, and lines stay whole."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def _description(arguments: argparse.Namespace) -> Description | None:
    """The testbed that was described, None for the default one; raises SpecError."""
    from g5kvirt.testbeds.local import description

    if arguments.description is not None:
        return description.load(arguments.description)
    if arguments.sites is None:
        return None
    sites: dict[str, int] = {}
    for word in arguments.sites.split(","):
        site, _, number = word.partition("=")
        if not number.isdecimal():
            raise SpecError(f"--sites cannot be read at {word!r}: write --sites nancy=3,rennes=3")
        if site.strip() in sites:
            raise SpecError(f"--sites names {site.strip()!r} twice: leave one out")
        sites[site.strip()] = int(number)
    return description.make(sites=sites)


def _find(arguments: argparse.Namespace) -> Run:
    """The run that is meant by its name or its directory. Raises RunError."""
    from g5kvirt.run.directory import find

    for path in (Path(arguments.run), arguments.runs / arguments.run):
        if (path / "run.json").is_file():  # a run may be called as any folder is
            if not path.name:  # "." and the like
                path = path.resolve()
            return find(path.parent, path.name)
    return find(arguments.runs, arguments.run)


def _vms(one: Run) -> int:
    spec = one.document.get("spec")
    vms = spec.get("vms") if isinstance(spec, Mapping) else None
    return vms if isinstance(vms, int) else 0


def _testbed(one: Run) -> str:
    return str(one.document.get("testbed", "–"))


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


def _say_where(console: Console, where: Path, saved: list[Path]) -> None:
    console.print(f"run      {where}", highlight=False, soft_wrap=True)
    for figure in saved:
        console.print(f"figure   {figure}", highlight=False, soft_wrap=True)
    sys.stdout.flush()
