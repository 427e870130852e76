"""What each command does. Imports are local: `g5kvirt --help` must not wait for pandas or execo."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from g5kvirt.cli.console import Console
from g5kvirt.cli.documents import print_json, run_document, run_events
from g5kvirt.cli.options import whole_number
from g5kvirt.errors import G5kvirtError, MachineError, SpecError, TestbedError
from g5kvirt.inventory import to_plain
from g5kvirt.views.formatting import count, duration

if TYPE_CHECKING:
    from g5kvirt.run.directory import Run
    from g5kvirt.spec.spec import Spec
    from g5kvirt.testbeds.described.description import Description

__all__ = [
    "check",
    "demo",
    "doctor",
    "local_clients",
    "local_down",
    "local_status",
    "local_up",
    "release",
    "run",
    "runs",
    "show",
    "sizes",
]


#: Rows of `check` whose problems are the testbed's and not the specification's.
TESTBED_ROWS = {"testbed", "API", "frontend", "ssh key", "run's key"}


def doctor(arguments: argparse.Namespace) -> int:
    """Probe this machine."""
    from g5kvirt.cli import doctor as probes
    from g5kvirt.cli.findings import findings_table

    if arguments.json:
        findings = probes.examine()
        print_json(probes.report(findings))
    else:
        console = _console()
        with _working(console, "probing this machine …"):
            findings = probes.examine()
        console.print(findings_table(findings))
        console.print(probes.verdict(findings), highlight=False, soft_wrap=True)
    return 0 if probes.able(findings) else MachineError.exit_code


def local_up(arguments: argparse.Namespace) -> int:
    """Start the local testbed."""
    from g5kvirt.testbeds.local import lifecycle

    console = Console()
    description = _description(arguments)
    start = time.monotonic()

    def print_part(part: str, seconds: float) -> None:
        _print(console, f"  {part}: {duration(seconds)}")

    with _working(console, "starting the local testbed …"):
        lifecycle.up(name=arguments.name, description=description, progress=print_part)
    _print(console, f"local testbed up in {duration(time.monotonic() - start)}")
    return local_status(arguments)


def local_status(arguments: argparse.Namespace) -> int:
    """Show whether the local testbed is up."""
    from g5kvirt.testbeds.local import lifecycle

    console = Console()
    found = lifecycle.status(name=arguments.name)
    if getattr(arguments, "json", False):  # `local up` ends with the status as well
        print_json(asdict(found))
        return 0 if found.state == "up" else MachineError.exit_code
    _print(console, found)
    if arguments.name is None:
        for other in lifecycle.testbed_names():
            if other != found.name:
                status = str(lifecycle.status(name=other))
                console.print(status, style="dim", markup=False, highlight=False, soft_wrap=True)
    return 0 if found.state == "up" else MachineError.exit_code


def local_clients(arguments: argparse.Namespace) -> int:
    """Write and name what other programs need to use the local testbed."""
    from g5kvirt.testbeds.local.clients import write_configurations

    print(write_configurations(arguments.name))
    return 0


def local_down(arguments: argparse.Namespace) -> int:
    """Stop the local testbed, and those of demos that were killed."""
    from g5kvirt.cli.demo import orphans
    from g5kvirt.testbeds.local import lifecycle
    from g5kvirt.testbeds.local.state import default_name

    console = Console()
    for name in lifecycle.testbed_names() if arguments.all else [arguments.name, *orphans()]:
        start = time.monotonic()
        was_up = lifecycle.down(name=name)
        outcome = f"down in {duration(time.monotonic() - start)}" if was_up else "was not up"
        _print(console, f"testbed {name or default_name()} {outcome}")
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Run an experiment from its specification to its release."""
    from g5kvirt.experiment import Experiment
    from g5kvirt.planning.forecast import SMALLEST
    from g5kvirt.run.vocabulary import PHASES
    from g5kvirt.spec.spec import Spec
    from g5kvirt.sweeps import check_measure
    from g5kvirt.views.terminal import TerminalProgress

    console = Console()
    spec = Spec.load(arguments.spec)
    measure = _measure(arguments)
    if measure is not None:
        check_measure(spec, measure)
        if not arguments.testbed.startswith("simulated"):  # there, an image is a size
            _check_environment(console, spec, str(measure.get("environment", SMALLEST[spec.guest])))
    experiment = Experiment(spec, testbed=arguments.testbed, name=arguments.name, runs=arguments.runs)
    _print(
        console,
        f"run {experiment.name} on {experiment.testbed_name}: {count(spec.vms, 'VM')} on "
        f"{count(spec.hosts, 'host')} of {count(len(spec.sites), 'site')}",
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
                if sys.exc_info()[0] is not None and experiment.reservation is not None:
                    _print(console, "releasing the machines …")
                experiment.release()
            experiment.journal.close()
    if measure is not None:
        _print(console, result)
    saved = experiment.figures.save(experiment.path / "figures")
    _print_saved(console, experiment.path, saved)
    return 1 if failed else 0


def _check_environment(console: Console, spec: Spec, name: str) -> None:
    """Say that VMs are small for an environment; raises SpecError if it cannot be deployed on them."""
    from g5kvirt.phase_runner import ENVIRONMENTS, environment_folders
    from g5kvirt.phases.check_environment import check_environment

    for finding in check_environment(spec, name, environment_folders(ENVIRONMENTS)):
        if finding.status == "problem":
            raise SpecError(finding.message, advice=finding.advice)
        if finding.status == "warning":
            _print(console, f"{finding.message}: {finding.advice}")


def check(arguments: argparse.Namespace) -> int:
    """Find out what an experiment would do and what is wrong with it, without doing it."""
    from g5kvirt.phase_runner import ENVIRONMENTS, environment_folders
    from g5kvirt.phases.check import check as preflight
    from g5kvirt.phases.check import on_table
    from g5kvirt.prediction import expected_times
    from g5kvirt.spec.spec import Spec
    from g5kvirt.testbeds import open_testbed
    from g5kvirt.views.check_result import CheckResult

    console = _console()
    spec = Spec.load(arguments.spec)
    deployed: Any = {"environment": arguments.environment, "folders": environment_folders(ENVIRONMENTS)}
    if arguments.inventory is not None:
        where = f"Grid'5000 of {arguments.inventory}"
        found = on_table(spec, arguments.inventory, expect=expected_times, **deployed)
    else:
        where = arguments.testbed
        with _working(console, f"querying {where} …"):
            found = preflight(
                spec,
                open_testbed(where),
                arguments.runs,
                arguments.name,
                expect=expected_times,
                **deployed,
            )
    if arguments.json:
        findings = [asdict(one) for one in found.findings]
        print_json({"ok": found.ok, "findings": findings, "plan": to_plain(found.plan)})
    else:
        result = CheckResult(found, of=str(arguments.spec), testbed=where)
        _print(console, result)
    if found.ok:
        return 0
    problems = {finding.what for finding in found.findings if finding.status == "problem"}
    return TestbedError.exit_code if problems <= TESTBED_ROWS else SpecError.exit_code


def sizes(text: str) -> list[int]:
    """Parse ``4,8`` as numbers of VMs, ``all`` as an empty list. Raises ArgumentTypeError."""
    try:
        return [] if text == "all" else [whole_number(part) for part in text.split(",")]
    except ValueError:
        message = f"expected numbers of VMs such as 4,8, or all, not {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def _measure(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """The arguments of `Experiment.measure` that were given; None if nothing is to be measured."""
    given = {name: getattr(arguments, name) for name in ("environment", "repeat", "broadcast", "group")}
    given = {name: value for name, value in given.items() if value is not None}
    if arguments.measure is not None:
        given["sizes"] = arguments.measure or None
    return given or None


def release(arguments: argparse.Namespace) -> int:
    """Give back the machines of a run."""
    from g5kvirt.experiment import Experiment

    found = _find(arguments)
    Experiment.open(found.path).release()
    _print(Console(), f"run {found.name} holds no machines now")
    return 0


def runs(arguments: argparse.Namespace) -> int:
    """List the runs, including those in the folder of a sweep or a notebook."""
    from g5kvirt.run.directory import list_runs
    from g5kvirt.run.state import RunState
    from g5kvirt.views.live.model import LiveModel
    from g5kvirt.views.text import machines_held

    console = _console()
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("run", "created", "testbed", "VMs up", "state", "machines"):
        table.add_column(title, justify="right" if title == "VMs up" else "left")
    folders = [arguments.runs, *(path for path in arguments.runs.glob("*") if path.is_dir())]
    found = sorted((run for folder in folders for run in list_runs(folder)), key=lambda run: run.created)
    if arguments.json:
        print_json([run_document(one, time.time()) for one in found])
        return 0
    for one in found:
        vms = one.vms
        about = (str(one.path.relative_to(arguments.runs)), _date(one.created), one.testbed)
        try:
            events = run_events(one)
            progress = LiveModel.of(events, vms)
        except G5kvirtError as error:
            table.add_row(*about, f"– of {vms:,}", str(error), "")
            continue
        held = machines_held(RunState.of(events), time.time())
        table.add_row(*about, f"{progress.up:,} of {vms:,}", progress.status, held)
    if found:
        console.print(table)
    else:
        _print(console, f"there are no runs in {arguments.runs} yet")
    return 0


def show(arguments: argparse.Namespace) -> int:
    """Show the state of a run; with ``--figures`` save its figures, with ``--tables`` its tables."""
    from g5kvirt.run.tables import Frames
    from g5kvirt.views.live.model import LiveModel
    from g5kvirt.views.text import run_text

    console = _console()
    one = _find(arguments)
    events = run_events(one)
    if arguments.json:
        document = run_document(one, time.time())
    else:
        model = LiveModel.of(events, one.vms)
        console.print(run_text(one.name, one.testbed, model, model.now()))
    if arguments.figures:
        from g5kvirt.views.figures import Figures

        saved = Figures.open(one.path).save(one.path / "figures")
        if arguments.json:
            document["figures"] = list(map(str, saved))
        else:
            _print_saved(console, one.path, saved)
    if arguments.tables:
        tables = Frames(events).export(one.path / "tables")
        if arguments.json:
            document["tables"] = list(map(str, tables))
        for table in () if arguments.json else tables:
            _print(console, f"table    {table}")
    if arguments.json:
        print_json(document)
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """Run a notebook on a local testbed of its own."""
    from g5kvirt.cli.demo import demonstrate

    return demonstrate(Console(), arguments.runs, arguments.vms, arguments.which)


def _print(console: Console, line: object) -> None:
    """Print text as it is, whatever it contains and however wide the terminal is."""
    console.print(str(line), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _working(console: Console, message: str) -> Iterator[None]:
    """A spinner on a terminal, nothing elsewhere."""
    if console.is_terminal:
        with console.status(message):
            yield
    else:
        yield


def _console() -> Console:
    """A console for tables: outside a terminal there is no width to respect, and lines are not wrapped."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def _description(arguments: argparse.Namespace) -> Description | None:
    """The description of the local testbed, None for the default one. Raises SpecError."""
    from g5kvirt.testbeds.described import description

    if arguments.switch is not None and arguments.sites is None:
        raise SpecError("--switch requires --sites", advice="in a description file use the key `switch`")
    if arguments.description is not None:
        return description.load(arguments.description)
    if arguments.sites is None:
        return None
    sites: dict[str, int] = {}
    for part in arguments.sites.split(","):
        site, _, number = part.partition("=")
        if not number.isdecimal():
            raise SpecError(
                f"--sites cannot be parsed at {part!r}: write, for example, --sites nancy=3,rennes=3"
            )
        if site.strip() in sites:
            raise SpecError(f"--sites names {site.strip()!r} twice: remove one")
        sites[site.strip()] = int(number)
    return description.make(sites=sites, switch=arguments.switch or "plain")


def _find(arguments: argparse.Namespace) -> Run:
    """The run that the arguments name, or whose directory they name. Raises RunError."""
    from g5kvirt.run.directory import locate

    return locate(arguments.runs, arguments.run)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


def _print_saved(console: Console, run: Path, figures: list[Path]) -> None:
    here = Path.cwd()
    for word, path in (("run", run), *(("figure", figure) for figure in figures)):
        _print(console, f"{word:8} {path.relative_to(here) if path.is_relative_to(here) else path}")
    sys.stdout.flush()
