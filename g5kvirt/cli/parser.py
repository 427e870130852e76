"""The commands and options of the command line, and their help."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import g5kvirt
from g5kvirt.cli.archiving import add_archive, add_open
from g5kvirt.cli.completing import add_completion
from g5kvirt.cli.consoles import add_console
from g5kvirt.cli.extending import add_extend
from g5kvirt.cli.images import add_image
from g5kvirt.cli.options import command_parser, print_help, runs_option
from g5kvirt.cli.predict_options import add_calibrate, add_predict
from g5kvirt.cli.rehearse import add_rehearse
from g5kvirt.cli.report import add_report

__all__ = ["build_parser"]

_TOP = """\
Boot thousands of virtual machines on Grid'5000, or on a miniature Grid'5000 on this machine. Every step
of each virtual machine is timed.
"""

_EXAMPLES = """\
examples:
  g5kvirt doctor                       check what this machine can do
  g5kvirt demo                         start a testbed and run a demo (as root)
  g5kvirt local up                     start the local testbed
  g5kvirt check spec.yaml              do a dry run, reserve nothing
  g5kvirt predict spec.yaml            predict the duration with a model
  g5kvirt run spec.yaml --name first   reserve, deploy, configure, place, launch
  g5kvirt run spec.yaml --measure 4,8  then deploy on 4 and on 8 of the VMs
  g5kvirt sweep sweep.yaml --dry-run   list the combinations of a sweep
  g5kvirt notebook scalability         run a notebook without a browser
  g5kvirt show first --figures         show the state of a run, draw its figures
  g5kvirt archive first -o first.zip   archive a run for reviewers
  g5kvirt open first.zip               verify an archive and redraw its figures
  g5kvirt local down                   stop and remove the local testbed

a specification (spec.yaml):
  sites: {nancy: 2, rennes: 2}         # number of hosts per site
  vms: 8

exit codes:
  0    success
  1    the run failed, or some of its VMs did
  2    the request is invalid, names something that does not exist, or does not
       fit; nothing was touched
  3    this machine or the testbed cannot do it
  70   a bug in g5kvirt
  74   a file or directory cannot be read or written
  130  interrupted (Ctrl-C); reserved machines were released, unless that was
       interrupted as well
  143  terminated (SIGTERM); reserved machines were released
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser; each command's ``do`` takes the parsed arguments and returns an exit code."""

    parser = command_parser(None, "g5kvirt", _TOP, _EXAMPLES)
    parser.add_argument("--version", action="version", version=f"g5kvirt {g5kvirt.__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of errors")
    # Without a command, show the help.
    parser.set_defaults(do=partial(print_help, parser))
    sub = parser.add_subparsers(metavar="COMMAND", title="commands")
    for add in (
        _doctor,
        _demo,
        _local,
        _check,
        add_rehearse,
        add_predict,
        add_calibrate,
        _run,
        _sweep,
        _notebook,
        add_image,
        _runs,
        add_console,
        add_extend,
        _release,
        _show,
        add_archive,
        add_open,
        add_report,
    ):
        add(sub)  # in the order of the help
    add_completion(sub, parser)
    return parser


def _doctor(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``doctor``."""
    from g5kvirt.cli import commands

    doctor = command_parser(
        sub,
        "doctor",
        "report what this machine can do: which testbeds, and how many VMs",
        "The checks change nothing and take a few seconds. Exit code 0: the local testbed can run here; 3: "
        "it cannot, and the table says what is missing.",
    )
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    doctor.set_defaults(do=commands.doctor)


def _demo(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``demo``."""
    from g5kvirt.cli import commands

    demo = command_parser(
        sub,
        "demo",
        "start a local testbed, run a notebook on it, and stop it again",
        "Requires root. Keeps a run with the executed notebook and its figures, and a cache.\n\n"
        "demos:\n"
        "  quickstart  8 virtual machines on 4 hosts of 2 sites, in a minute or two\n"
        "  slides      the experiment of the 2013 slides: 4,552 light guests (without\n"
        "              a kernel of their own) on 355 hosts of 6 sites, in a quarter\n"
        "              of an hour; --vms 300 runs part of it",
    )
    demo.add_argument(
        "which", nargs="?", default="quickstart", metavar="DEMO", help="quickstart (default) or slides"
    )
    runs_option(demo)
    demo.add_argument("--vms", type=int, metavar="N", help="number of virtual machines")
    demo.set_defaults(do=commands.demo)


def _runs(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``runs``."""
    from g5kvirt.cli import commands

    runs = command_parser(sub, "runs", "list all runs, oldest first, and the machines they still hold", "")
    runs.add_argument("--json", action="store_true", help="print the list as JSON")
    runs_option(runs)
    runs.set_defaults(do=commands.runs)


def _release(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``release``."""
    from g5kvirt.cli import commands

    release = command_parser(
        sub,
        "release",
        "release the machines of a run, after --keep or if its process was killed",
        "",
    )
    release.add_argument("run", metavar="RUN", help="name or directory of the run")
    runs_option(release)
    release.set_defaults(do=commands.release)


def _show(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``show``."""
    from g5kvirt.cli import commands

    show = command_parser(sub, "show", "show the state of a run, even while it is in progress", "")
    show.add_argument("run", metavar="RUN", help="name or directory of the run")
    show.add_argument("--figures", action="store_true", help="save all figures in RUN/figures")
    show.add_argument("--tables", action="store_true", help="save all tables in RUN/tables, as CSV")
    show.add_argument("--json", action="store_true", help="print the state and the names of files as JSON")
    runs_option(show)
    show.set_defaults(do=commands.show)


def _check(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``check``."""
    from g5kvirt.cli import commands
    from g5kvirt.planning.inventories import TABLES

    check = command_parser(
        sub,
        "check",
        "do a dry run: report what an experiment would do and what is wrong, without reserving anything",
        "Prints one line per check, with advice unless it is ok: whether the API and the sites' frontends "
        "answer, the ssh key is accepted, the host environment exists, the usage policy allows the "
        "reservation, when everything is free, whether enough machines can run virtual machines and join a "
        "KaVLAN, the virtual machines fit, the sub-networks are large enough, and the walltime is long "
        "enough. Then prints the plan: hosts, virtual machines per host, expected times, addresses. Changes "
        "nothing and creates no run. Takes seconds, or a few minutes if nothing answers.\n\n"
        "  ✓ ok   ! warning   ✗ problem   ? unknown\n\n"
        "Exit code 0: no problem; 2: the request does not fit, is not allowed, or names something that does "
        "not exist; 3: the testbed does not answer or denies access.\n\n"
        "examples:\n"
        "  g5kvirt check spec.yaml\n"
        "  g5kvirt check spec.yaml --testbed grid5000 --name first\n"
        "  g5kvirt check data/scenarios/slides-2013.yaml --inventory 2013",
    )
    check.add_argument("spec", type=Path, metavar="SPEC.yaml", help="the specification")
    where = check.add_mutually_exclusive_group()
    where.add_argument(
        "--testbed",
        default="local",
        metavar="TESTBED",
        help="local, local:NAME, grid5000 or simulated:2013 (default: local)",
    )
    where.add_argument(
        "--inventory",
        choices=sorted(TABLES),
        help="check against the bundled inventory of Grid'5000 of that year, contact no testbed",
    )
    check.add_argument("--name", help="name of the planned run (default: the date)")
    check.add_argument("--environment", metavar="NAME", help="report whether the VMs are large enough for it")
    check.add_argument("--json", action="store_true", help="print findings and plan as JSON")
    runs_option(check)
    check.set_defaults(do=commands.check)


def _run(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``run``."""
    from g5kvirt.cli import commands

    run = command_parser(
        sub,
        "run",
        "run an experiment: reserve, deploy, configure, place, launch, measure, release",
        "SPEC.yaml needs at least `sites` (or `hosts`) and `vms`; it is checked before anything is touched. "
        "Ctrl-C releases the reserved machines. Without any of the measuring options the virtual machines "
        "are launched and nothing is deployed on them.\n\n"
        "Exit code 0: every VM came up and was deployed; 1: some did not; the run records why.\n\n"
        "examples:\n"
        "  g5kvirt run spec.yaml --testbed local --name first\n"
        "  g5kvirt run spec.yaml --measure 4,8,16 --repeat 3\n"
        "  g5kvirt run spec.yaml --measure all --environment debian12-min",
    )
    run.add_argument("spec", type=Path, metavar="SPEC.yaml", help="the specification")
    run.add_argument(
        "--testbed",
        default="local",
        metavar="TESTBED",
        help="local, local:NAME (one of several) or grid5000 (default: local)",
    )
    run.add_argument("--name", help="name of the run (default: the date)")
    run.add_argument(
        "--keep", action="store_true", help="keep the machines at the end (g5kvirt release releases them)"
    )
    runs_option(run)
    measuring = run.add_argument_group("measuring", "any of these options deploys an environment on the VMs")
    measuring.add_argument(
        "--measure",
        type=commands.sizes,
        metavar="N,…",
        help="numbers of VMs to deploy on, one deployment each, or all (default: all VMs that are up)",
    )
    measuring.add_argument(
        "--environment",
        metavar="NAME",
        help="environment to deploy (default: mini; for light guests: light)",
    )
    measuring.add_argument("--repeat", type=int, metavar="N", help="deployments per size (default: 1)")
    measuring.add_argument(
        "--broadcast",
        metavar="KIND",
        help="how the image is distributed to the hosts: chain, tree or http (default: chain)",
    )
    measuring.add_argument("--group", metavar="NAME", help="deploy only on VMs of this group (default: all)")
    run.set_defaults(do=commands.run)


def _sweep(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``sweep``."""
    from g5kvirt.cli import sweeping

    sweep = command_parser(
        sub,
        "sweep",
        "run an experiment for every combination of parameters",
        "SWEEP.yaml looks like this:\n"
        "  testbed: local\n"
        "  spec: {sites: {nancy: 2, rennes: 2}, vms: 8}  # common to all\n"
        "  measure: {environment: mini, repeat: 3}       # omit it to only launch\n"
        "  vary:                                         # parameter: its values\n"
        "    netboot: [http, tftp]                       # key of the specification\n"
        "    windows.boot: [2, 8]                        # a dot selects a subkey\n"
        "    measure.broadcast: [chain, http]            # argument of measure\n"
        "    measure.sizes: [4, 8]\n\n"
        "Combinations with the same specification are measured on the same virtual cluster. Each cluster is "
        "a run in RUNS/SWEEP, where index.csv lists the run and the deployments of each combination. "
        "Finished combinations are not repeated: after a crash, a failure or the end of a batch job, run the "
        "same command again. Ctrl-C and SIGTERM release the machines; the combination that was being "
        "measured starts over next time.\n\n"
        "Exit code 0: all combinations are done; 1: some failed, run the command again to retry them.\n\n"
        "examples:\n"
        "  g5kvirt sweep broadcast.yaml --dry-run\n"
        "  g5kvirt sweep broadcast.yaml --testbed grid5000 --runs ~/runs",
    )
    sweep.add_argument("sweep", type=Path, metavar="SWEEP.yaml", help="description of the sweep")
    sweep.add_argument(
        "--testbed", metavar="TESTBED", help="overrides the testbed in SWEEP.yaml (default: local)"
    )
    sweep.add_argument("--dry-run", action="store_true", help="only list the combinations and clusters")
    runs_option(sweep)
    sweep.set_defaults(do=sweeping.sweep)


def _notebook(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``notebook``."""
    from g5kvirt.cli import notebooks

    notebook = command_parser(
        sub,
        "notebook",
        "run a notebook without a browser (papermill), and save it with its output",
        "Without NOTEBOOK, lists the bundled notebooks and their parameters. The executed notebook and an "
        "HTML version of it are saved in the directory of its run, or in --output, even if it fails; in that "
        "case its machines are released.\n\n"
        "Exit code 0: it ran to the end; 1: a cell failed.\n\n"
        "examples:\n"
        "  g5kvirt notebook\n"
        "  g5kvirt notebook scalability -p vms 32 -p sizes '[8, 16, 32]'\n"
        "  g5kvirt notebook grid5000 --testbed grid5000 -p sites \"{'nancy': 4}\"",
    )
    notebook.add_argument(
        "notebook", nargs="?", metavar="NOTEBOOK", help="name of a bundled notebook, or a file"
    )
    notebook.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a parameter; VALUE is a Python literal, anything else is taken as a string",
    )
    notebook.add_argument("--testbed", metavar="TESTBED", help="short for -p testbed TESTBED")
    notebook.add_argument("--output", type=Path, metavar="DIR", help="where to save the executed notebook")
    runs_option(notebook)
    notebook.set_defaults(do=notebooks.notebook)


def _local(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``local up|status|clients|down``."""
    from g5kvirt.cli import commands

    local = command_parser(
        sub,
        "local",
        "manage the local testbed, a miniature Grid'5000 on this machine",
        "examples:\n"
        "  g5kvirt local up                  two sites with three machines each\n"
        "  g5kvirt local up --sites nancy=5,rennes=3,lille=2 --name second\n"
        "  g5kvirt local status --name second\n"
        "  g5kvirt local down --name second",
    )
    local.set_defaults(do=partial(print_help, local))
    verbs = local.add_subparsers(metavar="VERB", title="verbs")
    up = command_parser(
        verbs,
        "up",
        "start the testbed (cleans up after a crash)",
        "Requires root. The first start builds the testbed's file systems, which takes some minutes.",
    )
    what = up.add_mutually_exclusive_group()
    what.add_argument(
        "--description",
        type=Path,
        metavar="FILE.yaml",
        help="YAML file that describes sites, machines and link rates",
    )
    what.add_argument(
        "--sites", metavar="SITE=N,…", help="number of machines per site, including service machines"
    )
    up.add_argument(
        "--switch",
        choices=("plain", "managed"),
        help="with --sites, the switch that forwards broadcasts (default: plain; above 100 machines managed)",
    )
    up.set_defaults(do=commands.local_up)
    status = command_parser(verbs, "status", "show whether the testbed is up (exit code 3 if not)", "")
    status.add_argument("--json", action="store_true", help="print the status as JSON")
    status.set_defaults(do=commands.local_status)
    down = command_parser(
        verbs,
        "down",
        "stop the testbed and leave no process, namespace or mount behind",
        "Requires root. Also stops the testbeds of demos that were killed.",
    )
    down.set_defaults(do=commands.local_down)
    clients = command_parser(
        verbs,
        "clients",
        "write configurations for python-grid5000, enoslib and execo, and print their paths",
        "Requires root. The files contain the testbed's password; they are removed with the testbed.",
    )
    clients.set_defaults(do=commands.local_clients)
    for verb in (up, status, clients, down):
        which = down.add_mutually_exclusive_group() if verb is down else verb
        which.add_argument("--name", metavar="NAME", help="name of the testbed (default: local)")
        if verb is down:
            which.add_argument("--all", action="store_true", help="stop all testbeds")
