"""``g5kvirt rehearse``: the smallest real run, step by step, and a page about what worked."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g5kvirt.cli.options import command_parser, confirmed, need_terminal, runs_option
from g5kvirt.errors import G5kvirtError, SpecError
from g5kvirt.views.formatting import count, duration

if TYPE_CHECKING:
    from g5kvirt.experiment import Experiment
    from g5kvirt.spec.spec import Spec

__all__ = ["Outcome", "add_rehearse", "page", "rehearse", "rehearse_steps"]

HOSTS, VMS, WALLTIME = 2, 4, "0:30:00"
_RESERVE = "reserve machines"

#: What to do besides what an error advises, by the step that failed.
_HINTS = {
    "check": "fix the problems listed above, or choose another site (--site)",
    "reserve": "choose another site (--site), or try again when machines are free",
    "deploy": "choose another site (--site); Kadeploy3's output is in the transcript",
    "configure": "if packages could not be fetched, set package_proxy in grid5000.yaml",
    "launch": "if VMs got no address, the KaVLAN's own DHCP server may be in the way: kavlan -d -i N on the"
    " frontend of the site disables it",
    "measure": "the run's directory has the consoles of VMs that failed",
    "run": "VMs were deployed, but reject the run's ssh key",
    "release": "g5kvirt release RUN, or oardel JOB on the frontend",
}


@dataclass(frozen=True)
class Outcome:
    """How a step of the rehearsal ended. ``state``: ``ok``, ``partly``, ``failed`` or ``not tried``."""

    step: str
    state: str
    seconds: float = 0.0
    found: str = ""  #: what it achieved, or why it failed
    advice: str = ""


def add_rehearse(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``rehearse``."""
    parser = command_parser(
        sub,
        "rehearse",
        "run the smallest real experiment, to find out what works on a testbed",
        f"Uses {HOSTS} hosts, one service machine, {VMS} virtual machines and half an hour of walltime. "
        "Shows what it is about to reserve and asks for confirmation. Releases the machines however it ends, "
        "and prints a report (also saved in RUN/rehearsal.txt): which steps worked, how long they took, and "
        "advice for those that failed.\n\n"
        "Exit code 0: everything worked; 1: some steps failed.\n\n"
        "examples:\n"
        "  g5kvirt rehearse --testbed grid5000 --site nancy\n"
        "  g5kvirt rehearse --testbed local",
    )
    parser.add_argument("--testbed", required=True, metavar="TESTBED", help="grid5000, local or local:NAME")
    parser.add_argument("--site", metavar="SITE", help="site to use (default: one where it fits)")
    parser.add_argument("--name", help="name of the run (default: the date)")
    parser.add_argument("--yes", action="store_true", help="reserve without asking")
    runs_option(parser)
    parser.set_defaults(do=rehearse)


def rehearse(arguments: argparse.Namespace) -> int:
    """Check, show the request, ask for confirmation, run, release, report."""
    from g5kvirt.experiment import Experiment
    from g5kvirt.spec.spec import Spec

    if not arguments.yes:
        need_terminal(_RESERVE)  # now rather than after the check, which makes a run
    where: Any = {"sites": {arguments.site: HOSTS}} if arguments.site else {"sites": 1, "hosts": HOSTS}
    spec = Spec(**where, vms=VMS, walltime=WALLTIME, job_name="g5kvirt-rehearsal")
    experiment = Experiment(spec, testbed=arguments.testbed, name=arguments.name, runs=arguments.runs)
    if experiment.testbed.simulated:
        raise SpecError("a prediction cannot be rehearsed", advice="use --testbed grid5000 or local")
    begin = time.monotonic()
    checked = experiment.check()
    print(checked)
    if not checked.ok:
        outcomes = [Outcome("check", "failed", time.monotonic() - begin, checked.verdict, _HINTS["check"])]
        return _report(experiment, outcomes)
    print(f"\n{plan_text(experiment.spec, experiment.testbed_name)}")
    if not arguments.yes and not confirmed("reserve this now? [y/N] ", _RESERVE):
        print("nothing was reserved")
        return 1
    outcomes = [Outcome("check", "ok", time.monotonic() - begin, checked.verdict)]
    try:
        rehearse_steps(experiment, outcomes, lambda one: print(outcome_text(one), flush=True))
    finally:  # also after Ctrl-C
        code = _report(experiment, outcomes)
        experiment.journal.close()
    return code


def plan_text(spec: Spec, testbed: str) -> str:
    """What is about to be reserved."""
    machines = f"{count(spec.hosts, 'host')}, {count(spec.services, 'service machine')}"
    return (
        f"To be reserved on {testbed}, at {', '.join(spec.sites)}, as soon as possible:\n"
        f"  {spec.hosts + spec.services} machines ({machines}), a sub-network and a global KaVLAN,\n"
        f"  for at most {duration(spec.walltime)}. They are released at the end, usually earlier."
    )


def rehearse_steps(
    experiment: Experiment, outcomes: list[Outcome], show: Callable[[Outcome], object]
) -> None:
    """Run the steps until one fails, then release the machines; each outcome is added as it is known."""
    steps: Sequence[tuple[str, Callable[[], Outcome | str]]] = (
        ("reserve", lambda: _machines(experiment)),
        ("deploy", lambda: _facts(experiment.deploy())),
        ("configure", lambda: _facts(experiment.configure())),
        ("place", lambda: _facts(experiment.place())),
        ("launch", lambda: _launched(experiment)),
        ("measure", lambda: _measured(experiment)),
        ("run", lambda: _ran(experiment)),
    )

    def add(outcome: Outcome) -> None:
        outcomes.append(outcome)
        show(outcome)

    failed = False
    try:
        for step, call in steps:
            if failed:
                add(Outcome(step, "not tried"))
                continue
            add(outcome := _outcome(step, call))
            failed = outcome.state == "failed"
    finally:
        add(_outcome("release", lambda: _released(experiment)))


def _outcome(step: str, call: Callable[[], Outcome | str]) -> Outcome:
    begin = time.monotonic()
    try:
        found = call()
    except G5kvirtError as error:
        advice = "; ".join(filter(None, (error.advice, _HINTS.get(step, ""))))
        return Outcome(step, "failed", time.monotonic() - begin, error.message, advice)
    seconds = time.monotonic() - begin
    if isinstance(found, str):
        return Outcome(step, "ok", seconds, found)
    return Outcome(step, found.state, seconds, found.found, found.advice)


def _machines(experiment: Experiment) -> str:
    experiment.reserve()
    reservation = experiment.reservation
    assert reservation is not None  # reserve() raises otherwise
    jobs = ", ".join(f"job {job} at {site}" for site, job in reservation.jobs.items())
    return f"{jobs}, KaVLAN {reservation.vlan}: {', '.join(host.uid for host in reservation.hosts)}"


def _facts(result: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in result.facts.items())


def _part(step: str, good: int, wanted: int, what: str) -> Outcome | str:
    """An outcome for some of ``wanted`` VMs; as text for all."""
    found = f"{good} of {wanted} VMs {what}"
    return found if good == wanted else Outcome(step, "partly", found=found, advice=_HINTS[step])


def _launched(experiment: Experiment) -> Outcome | str:
    experiment.launch()
    account = experiment.frames.account
    guest = experiment.journal.state.guest
    return _part("launch", account.up, experiment.spec.vms, f"up ({guest})")


def _measured(experiment: Experiment) -> Outcome | str:
    summary = experiment.measure().summary
    return _part("measure", summary.deployed, summary.deployed + summary.failed, "deployed")


def _ran(experiment: Experiment) -> Outcome | str:
    table = experiment.run("uname -r")
    return _part("run", int(table["ok"].sum()), len(table), "ran a command")


def _released(experiment: Experiment) -> str:
    experiment.release()
    return "no machine is reserved" if experiment.reservation is not None else "nothing was reserved"


def outcome_text(outcome: Outcome) -> str:
    """One step as a line, and what to do below it."""
    mark = {"ok": "✓", "partly": "!", "failed": "✗"}.get(outcome.state, "–")
    took = duration(outcome.seconds) if outcome.state != "not tried" else ""
    line = f"{mark} {outcome.step:10} {took:>10}  {outcome.found or outcome.state}"
    return f"{line}\n{'':26}→ {outcome.advice}" if outcome.advice else line


def page(name: str, testbed: str, outcomes: Sequence[Outcome], directory: Path) -> str:
    """What worked, with times, and what to do about what did not."""
    bad = [one for one in outcomes if one.state in ("failed", "partly")]
    worked = sum(one.state == "ok" for one in outcomes)
    lines = [f"Rehearsal {name} on {testbed}: {worked} of {count(len(outcomes), 'step')} worked", ""]
    lines += [outcome_text(one) for one in outcomes]
    lines.append("")
    if bad:
        first = f"{bad[0].step} {'failed' if bad[0].state == 'failed' else 'worked in part'}"
        lines.append(f"Start with the first that did not work: {first}. All commands and answers are in")
        lines.append(f"{directory / 'transcript.jsonl'}; to report it: g5kvirt report {name}")
    else:
        lines.append("Everything worked: you can now start a larger run.")
    return "\n".join(lines) + "\n"


def _report(experiment: Experiment, outcomes: Sequence[Outcome]) -> int:
    text = page(experiment.name, experiment.testbed_name, outcomes, experiment.path)
    (experiment.path / "rehearsal.txt").write_text(text, encoding="utf-8")
    print(f"\n{text}", end="")
    done = outcomes[-1].step == "release" and all(one.state == "ok" for one in outcomes)
    return 0 if done else 1
