"""The words that the command line understands, and its help."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import g5kvirt

__all__ = ["build_parser"]

_TOP = """\
Raise virtual machines over Grid'5000, or over a Grid'5000 in small on this machine, step by step, and
time every step of every one of them.
"""

_EXAMPLES = """\
examples:
  g5kvirt doctor                         what can this machine do?
  g5kvirt demo                           the whole story on the local testbed (as root)
  g5kvirt local up                       raise the local testbed, then …
  g5kvirt check spec.yaml                … ask what would happen, reserving nothing
  g5kvirt run spec.yaml --name first     … reserve, deploy, configure, place and launch on it
  g5kvirt run spec.yaml --measure 4,8    … and deploy an environment on 4 and on 8 of the VMs
  g5kvirt sweep sweep.yaml --dry-run     every combination of what is to be varied
  g5kvirt notebook scalability           a notebook without a browser
  g5kvirt show first --figures           where the run stands, and its figures
  g5kvirt local down                     leave nothing behind

a specification (spec.yaml):
  sites: {nancy: 2, rennes: 2}           # hosts that carry VMs, for each site
  vms: 8

exit codes:
  0    done
  1    the run failed, or some of its VMs did
  2    what was asked cannot be read, does not exist or does not fit; nothing was touched
  3    this machine or the testbed cannot do it
  70   a bug in g5kvirt
  130  interrupted (Ctrl-C); what was reserved has been given back
  143  ended by SIGTERM, likewise
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser; each command's ``do`` takes the parsed arguments and returns an exit code."""
    from g5kvirt.cli import commands

    parser = _parser(None, "g5kvirt", _TOP, _EXAMPLES)
    parser.add_argument("--version", action="version", version=f"g5kvirt {g5kvirt.__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    # A command always has a `do`: without one, the help is what was asked for.
    parser.set_defaults(do=partial(_help, parser))
    sub = parser.add_subparsers(metavar="COMMAND", title="commands")

    doctor = _parser(
        sub,
        "doctor",
        "what can this machine do, and so which testbeds and how many VMs",
        "Every probe is harmless and ends within a few seconds. Exit code 0: the local testbed can be\n"
        "raised here; 3: it cannot, and the table says what is missing.",
    )
    doctor.add_argument("--json", action="store_true", help="the findings as JSON, for programs")
    doctor.set_defaults(do=commands.doctor)

    demo = _parser(
        sub,
        "demo",
        "raise the local testbed, run the quickstart notebook on it, take everything down",
        "Needs root. Leaves a run with the executed notebook and its figures, and a cache for the next time.",
    )
    _runs_option(demo)
    demo.add_argument("--vms", type=int, default=8, metavar="N", help="virtual machines (default: 8)")
    demo.set_defaults(do=commands.demo)

    _local(sub)

    _check(sub)
    _run(sub)
    _sweep(sub)
    _notebook(sub)

    runs = _parser(sub, "runs", "list the runs, oldest first, and what they still hold", "")
    _runs_option(runs)
    runs.set_defaults(do=commands.runs)

    release = _parser(
        sub,
        "release",
        "give back what a run still holds, after --keep or when its process was killed",
        "",
    )
    release.add_argument("run", metavar="RUN", help="the run's name, or its directory")
    _runs_option(release)
    release.set_defaults(do=commands.release)

    show = _parser(sub, "show", "show where a run stands, also while it is still going on", "")
    show.add_argument("run", metavar="RUN", help="the run's name, or its directory")
    show.add_argument("--figures", action="store_true", help="write all its figures into RUN/figures")
    show.add_argument("--tables", action="store_true", help="write all its tables into RUN/tables, as CSV")
    _runs_option(show)
    show.set_defaults(do=commands.show)
    return parser


def _check(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``check``."""
    from g5kvirt.cli import commands
    from g5kvirt.planning.inventories import TABLES

    check = _parser(
        sub,
        "check",
        "say what an experiment would do and what is wrong with it, reserving nothing",
        "One line a question, with what to do where it is not ok: do the API and the sites' frontends\n"
        "answer, is the ssh key accepted, is the host environment known there, does the usage charter allow\n"
        "it, when is all of it free, are there enough machines that can carry virtual machines and join a\n"
        "KaVLAN, do the virtual machines fit, are the sub-networks large enough, will the walltime do. Then\n"
        "the plan: hosts, virtual machines on each, expected times, addresses. Nothing is changed anywhere,\n"
        "and no run is made. Takes seconds; where nothing answers, some minutes at most.\n\n"
        "  ✓ ok   ! a warning   ✗ a problem   ? nobody could say\n\n"
        "exit code 0: no problem; 2: what is asked does not exist, fit or is not allowed; 3: the testbed\n"
        "does not answer, or does not let you in.\n\n"
        "examples:\n"
        "  g5kvirt check spec.yaml\n"
        "  g5kvirt check spec.yaml --testbed grid5000 --name first\n"
        "  g5kvirt check data/scenarios/slides-2013.yaml --inventory 2013",
    )
    check.add_argument("spec", type=Path, metavar="SPEC.yaml", help="what is asked for")
    where = check.add_mutually_exclusive_group()
    where.add_argument(
        "--testbed", default="local", metavar="WORD", help="local, local:NAME or grid5000 (default: local)"
    )
    where.add_argument(
        "--inventory",
        choices=sorted(TABLES),
        help="ask nobody: take Grid'5000 as the project's tables of that year have it",
    )
    check.add_argument("--name", help="the name that the run would get (default: the date)")
    check.add_argument("--json", action="store_true", help="rows and plan as JSON, for programs")
    _runs_option(check)
    check.set_defaults(do=commands.check)


def _run(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``run``."""
    from g5kvirt.cli import commands

    run = _parser(
        sub,
        "run",
        "run an experiment: reserve, deploy, configure, place, launch, measure, release",
        "SPEC is a YAML file with at least `sites` and `vms`; everything wrong with it is said before\n"
        "anything is touched. Ctrl-C gives back what was reserved. Without an option of `measuring` the\n"
        "virtual machines are launched and nothing is deployed on them.\n\n"
        "exit code 0: every VM came up and was deployed; 1: some were not, the run has their reasons.\n\n"
        "examples:\n"
        "  g5kvirt run spec.yaml --testbed local --name first\n"
        "  g5kvirt run spec.yaml --measure 4,8,16 --repeat 3\n"
        "  g5kvirt run spec.yaml --measure all --environment debian12-min --broadcast http",
    )
    run.add_argument("spec", type=Path, metavar="SPEC.yaml", help="what is asked for")
    run.add_argument(
        "--testbed",
        default="local",
        metavar="WORD",
        help="local, local:NAME (one of several) or grid5000 (default: local)",
    )
    run.add_argument("--name", help="the run's name (default: the date)")
    run.add_argument(
        "--keep", action="store_true", help="do not give the machines back at the end (g5kvirt release does)"
    )
    _runs_option(run)
    measuring = run.add_argument_group("measuring", "any of these deploys an environment on the VMs")
    measuring.add_argument(
        "--measure",
        type=commands.sizes,
        metavar="N,…",
        help="on how many VMs, one deployment after the other; all: on every VM that is up (the default)",
    )
    measuring.add_argument("--environment", metavar="NAME", help="what to deploy (default: mini)")
    measuring.add_argument("--repeat", type=int, metavar="N", help="each size so many times (default: 1)")
    measuring.add_argument(
        "--broadcast", metavar="WAY", help="how the image gets to the hosts (default: chain)"
    )
    run.set_defaults(do=commands.run)


def _sweep(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``sweep``."""
    from g5kvirt.cli import sweeping

    sweep = _parser(
        sub,
        "sweep",
        "an experiment for every combination of what is to be varied",
        "SWEEP is a YAML file:\n"
        "  testbed: local\n"
        "  spec: {sites: {nancy: 2, rennes: 2}, vms: 8}   # what is the same for all\n"
        "  measure: {environment: mini, repeat: 3}        # leave it out to launch only\n"
        "  vary:                                          # factor: its levels\n"
        "    netboot: [http, tftp]                        # keys of the specification,\n"
        "    windows.boot: [2, 8]                         # a dot leads into its parts\n"
        "    measure.broadcast: [chain, http]             # arguments of Experiment.measure\n"
        "    measure.sizes: [4, 8]\n\n"
        "Combinations of the same specification are measured on the same virtual cluster. Each cluster\n"
        "is a run in RUNS/SWEEP; index.csv there says which run and deployments belong to which\n"
        "combination. What is done is not done again: after a kill, a failure or the end of a batch job\n"
        "call the same once more. Ctrl-C and SIGTERM give the machines back, and the combination that\n"
        "was being measured is done again next time.\n\n"
        "exit code 0: all combinations are done; 1: some failed, call it again to try them again.\n\n"
        "examples:\n"
        "  g5kvirt sweep broadcast.yaml --dry-run\n"
        "  g5kvirt sweep broadcast.yaml --testbed grid5000 --runs ~/runs",
    )
    sweep.add_argument("sweep", type=Path, metavar="SWEEP.yaml", help="what is the same and what varies")
    sweep.add_argument("--testbed", metavar="WORD", help="instead of the one in SWEEP.yaml (default: local)")
    sweep.add_argument(
        "--dry-run", action="store_true", help="show combinations and clusters, and touch nothing"
    )
    _runs_option(sweep)
    sweep.set_defaults(do=sweeping.sweep)


def _notebook(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``notebook``."""
    from g5kvirt.cli import notebooks

    notebook = _parser(
        sub,
        "notebook",
        "run a notebook without a browser (papermill), and keep it with its output",
        "NOTEBOOK is one of the project's, or a file. Without it they are listed with their parameters.\n"
        "The executed notebook and its page (HTML) are kept in the directory of its run, or in --output,\n"
        "also if it fails; then its machines are given back.\n\n"
        "exit code 0: it ran to its end; 1: a cell failed.\n\n"
        "examples:\n"
        "  g5kvirt notebook\n"
        "  g5kvirt notebook scalability -p vms 32 -p sizes '[8, 16, 32]'\n"
        "  g5kvirt notebook grid5000 --testbed grid5000 -p sites \"{'nancy': 4}\" --output results",
    )
    notebook.add_argument("notebook", nargs="?", metavar="NOTEBOOK", help="its name, or a file")
    notebook.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a parameter; VALUE as Python writes it, other words are texts",
    )
    notebook.add_argument("--testbed", metavar="WORD", help="short for -p testbed WORD")
    notebook.add_argument("--output", type=Path, metavar="DIR", help="where to keep the executed notebook")
    _runs_option(notebook)
    notebook.set_defaults(do=notebooks.notebook)


def _local(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``local up|status|down``."""
    from g5kvirt.cli import commands

    local = _parser(
        sub,
        "local",
        "the local testbed: a Grid'5000 in small on this machine",
        "examples:\n"
        "  g5kvirt local up                       two sites of three machines\n"
        "  g5kvirt local up --sites nancy=5,rennes=3,lille=2 --name second\n"
        "  g5kvirt local status --name second\n"
        "  g5kvirt local down --name second",
    )
    local.set_defaults(do=partial(_help, local))
    verbs = local.add_subparsers(metavar="VERB", title="verbs")
    up = _parser(
        verbs, "up", "raise it (repairs what a crash left); the first time builds its layers", "Needs root."
    )
    what = up.add_mutually_exclusive_group()
    what.add_argument("--description", type=Path, metavar="FILE.yaml", help="sites, machines, rates")
    what.add_argument(
        "--sites", metavar="SITE=N,…", help="machines of each site, its service machines included"
    )
    up.set_defaults(do=commands.local_up)
    status = _parser(verbs, "status", "say what is up (exit code 3: nothing is)", "")
    status.set_defaults(do=commands.local_status)
    down = _parser(
        verbs,
        "down",
        "take it down: no process, namespace or mount is left",
        "Needs root. The testbed of a demonstration that was killed goes, too.",
    )
    down.set_defaults(do=commands.local_down)
    for verb in (up, status, down):
        which = down.add_mutually_exclusive_group() if verb is down else verb
        which.add_argument("--name", metavar="NAME", help="which one, where a machine has several")
        if verb is down:
            which.add_argument("--all", action="store_true", help="every one on this machine")


def _parser(
    sub: argparse._SubParsersAction[argparse.ArgumentParser] | None, name: str, summary: str, epilog: str
) -> argparse.ArgumentParser:
    """A parser whose help keeps its line breaks, as the whole program or as one of its commands."""
    form = argparse.RawDescriptionHelpFormatter
    if sub is None:
        return argparse.ArgumentParser(prog=name, description=summary, epilog=epilog, formatter_class=form)
    described = summary[0].upper() + summary[1:] + "."
    return sub.add_parser(name, help=summary, description=described, epilog=epilog, formatter_class=form)


def _help(parser: argparse.ArgumentParser, _: argparse.Namespace) -> int:
    parser.print_help()
    return 0


def _runs_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="where runs are kept (default: runs)",
    )
