"""Programs in the background on VMs: what `Experiment.run` starts with ``background=True``.

On each VM a shell of its own session starts the command, keeps its output in files, ends it in time, and
writes down how it ended. So it lasts whatever becomes of the notebook, and who opens the run again reads all
of that there. The journal has only which program was started on which VMs.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from g5kvirt.context import Context
from g5kvirt.errors import PhaseOrderError
from g5kvirt.guests.commands import GuestCommands
from g5kvirt.guests.run import COLUMNS, check_command, check_timeout, chosen_vms
from g5kvirt.netboot.services import ROOT
from g5kvirt.remote import Result
from g5kvirt.run import event_types, inbox
from g5kvirt.run.directory import Run
from g5kvirt.run.event_types import ProgramStart
from g5kvirt.run.journal import Journal
from g5kvirt.run.printable import printable

__all__ = ["Program", "programs", "start_program"]

#: Where a program's files are on its VMs, in a directory named as the program.
FOLDER = f"{ROOT}/programs"
#: Bytes of a program's output on one VM, after which it is ended.
MOST_OUTPUT = 64 << 20
#: Bytes of the end of each output that `Program.status` fetches.
TAIL = 64 << 10
#: Seconds that a VM has to answer what became of a program, and to start or stop it.
ANSWER_TIMEOUT = 60.0
#: Seconds between two looks of `Program.wait`, at first and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0

#: Its arguments: directory, seconds, bytes, the command, and `_SUPERVISE`. It may run twice.
_START = """\
umask 077
mkdir -p -- "$1" && cd -- "$1" || exit 1
[ ! -e state ] || exit 0
setsid sh -c "$5" g5kvirt-program "$@" </dev/null >/dev/null 2>&1 &
tries=0
until [ -e state ]; do
    tries=$((tries + 1))
    [ "$tries" -le 100 ] || { echo "the program has not started within 10 s" >&2; exit 1; }
    sleep 0.1
done
"""
#: The same arguments. A shell in a session of its own; process id and start time tell whether it is alive.
_SUPERVISE = """\
limit=$2 most=$3
read -r since _ </proc/uptime
(
    cd "${HOME:-/root}"  # as a command that is waited for
    exec setsid sh -c "$4"
) </dev/null >out 2>err &
group=$!
read -r line </proc/$$/stat
set -- ${line##*) }
shift 19
echo "$$ $1 $since $group" >state.new
mv state.new state
(
    left=$limit
    while [ "$left" -gt 0 ]; do
        step=5
        [ "$left" -ge 5 ] || step=$left
        sleep "$step"
        left=$((left - step))
        if [ $(($(wc -c <out) + $(wc -c <err))) -gt "$most" ]; then
            echo "ended after more than $most bytes of output" >why
            break
        fi
    done
    [ -e why ] || echo "timed out: ended after $limit s" >why
    kill -TERM "-$group"
    sleep 3
    kill -KILL "-$group"
) 2>/dev/null &
watch=$!
wait "$group"
code=$?
kill "$watch"
kill -KILL "-$group" 2>/dev/null
read -r now _ </proc/uptime
echo "$code $since $now" >end.new
mv end.new end
"""
#: What `_STATUS` and `_STOP` begin with: ``state`` is then running, ended, lost or absent.
_LOOK = """\
state=absent why= code=- since=0 now=0
if cd -- "$1" 2>/dev/null; then
    if [ -e end ]; then
        state=ended
        read -r code since now <end
        [ ! -e why ] || read -r why <why
    elif [ -e state ]; then
        state=lost
        read -r pid born since group <state
        read -r now _ </proc/uptime
        if read -r line 2>/dev/null <"/proc/$pid/stat"; then
            size=$2
            set -- ${line##*) }
            case $1 in
            Z | X) ;;
            *)
                shift 19
                [ "$1" != "$born" ] || state=running
                ;;
            esac
            set -- . "$size"
        fi
        if [ "$state" = lost ] && [ -e end ]; then  # it has ended just now
            state=ended
            read -r code since now <end
        fi
    fi
fi
"""
_STATUS = (
    _LOOK
    + """\
echo "$state $code $since $now $why"
if [ -e out ] && [ "$state" != absent ]; then
    tail -c "$2" out
    tail -c "$2" err >&2
fi
"""
)
_STOP = (
    _LOOK
    + """\
[ "$state" = running ] || exit 0
echo stopped >why
kill -TERM "-$group" 2>/dev/null
tries=0
until [ -e end ]; do
    tries=$((tries + 1))
    [ "$tries" -ne 30 ] || kill -KILL "-$group"
    [ "$tries" -le 100 ] || { echo "the program does not end" >&2; exit 1; }
    sleep 0.1
done
"""
)

#: Makes the table that a user gets of its rows; VMs may print anything.
Table = Callable[[list[dict[str, Any]]], pd.DataFrame]

State = Literal["running", "ended", "lost", "absent", "unknown"]


@dataclass(frozen=True)
class VMProgram:
    """What became of a program on one VM."""

    vm: str
    state: State
    code: int | None
    seconds: float
    out: str
    err: str
    reason: str

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it, as far as known."""
        return self.state in ("ended", "lost", "absent")


class Program:
    """A command in the background on VMs, as returned by ``exp.run(…, background=True)``.

    It continues when the notebook ends; ``exp.programs`` lists it, also after `Experiment.open`. It ends when
    it exits, at its time limit, on `stop`, when its VM is rebooted or redeployed, and at the release.
    """

    def __init__(
        self, context: Callable[[], Context], start: ProgramStart, table: Table = pd.DataFrame
    ) -> None:
        self.name = start.name  #: as its directory on the VMs is called
        self.command = start.command
        self.vms = start.vms  #: their names
        self.start_time = start.t  #: seconds since the epoch
        self.limit = start.limit  #: seconds after which it is ended
        self._context = context
        self._table = table

    @property
    def path(self) -> str:
        """Its directory on each VM, with the full output in ``out`` and ``err``; for ``exp.get``."""
        return f"{FOLDER}/{self.name}"

    def status(self, tail: int = TAIL) -> pd.DataFrame:
        """Its current state, one row per VM.

        Columns: ``vm``; ``state``, which is ``running``, ``ended``, ``lost`` (its VM was rebooted or
        redeployed, or its shell was killed), ``absent`` (it did not start there) or ``unknown`` (the VM
        cannot be reached at the moment); ``code``, the exit code (None unless it has ended); ``seconds``; the
        last ``tail`` bytes of ``out`` and ``err``; ``reason`` of a failure. Raises PhaseOrderError after
        `release`.
        """
        return self._table([vars(one) for one in self._look(tail)])

    @property
    def done(self) -> bool:
        """Whether it has ended on every VM; queries the VMs."""
        return all(one.over for one in self._look(0))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended on every VM, at most ``timeout`` seconds; None: until its time limit."""
        limit = self.start_time + self.limit + LONGEST_PAUSE + ANSWER_TIMEOUT - time.time()
        deadline = time.monotonic() + max(0.0, limit if timeout is None else timeout)
        pause = FIRST_PAUSE
        while not self.done:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(LONGEST_PAUSE, pause * 1.5)
        return True

    def result(self, timeout: float | None = None) -> pd.DataFrame:
        """Wait until it has ended on every VM, and return its result with the columns of ``exp.run``.

        Raises TimeoutError if it has not ended within ``timeout`` seconds; it continues then.
        """
        if not self.wait(timeout):
            limit = self.limit if timeout is None else timeout
            raise TimeoutError(f"program {self.name} has not ended on all VMs within {limit:g} s")
        found = self._look(TAIL)
        return self._table([{name: _cell(one, name) for name in COLUMNS} for one in found])

    def stop(self) -> pd.DataFrame:
        """Stop it: SIGTERM, after 3 s SIGKILL, to its process group. Returns its `status`."""
        self._call(_STOP, "0")
        return self.status()

    def __repr__(self) -> str:
        number = len(self.vms)
        return (
            f"<Program {self.name} on {number:,} VM{'s' * (number != 1)}: {printable(self.command[:60])}"
            f"{'…' * (len(self.command) > 60)}>"
        )

    def _call(self, script: str, argument: str) -> dict[str, Result]:
        context = self._context()
        state = context.journal.state
        if state.released:
            raise PhaseOrderError(
                f"run {context.run.name!r} has released its machines, and program {self.name} ended with them"
            )
        vms = {vm.name: vm for vm in state.placed_vms}
        own = [vms[name] for name in self.vms]
        command = ["sh", "-c", script, "sh", self.path, argument]
        return GuestCommands(context, own).run(
            list(self.vms), command, timeout=ANSWER_TIMEOUT, idempotent=True
        )

    def _look(self, tail: int) -> list[VMProgram]:
        return [_read(name, result) for name, result in self._call(_STATUS, str(int(tail))).items()]


def _cell(one: VMProgram, column: str) -> object:
    """A cell of `Program.result`, whose columns are those of ``exp.run``."""
    return one.state == "ended" and one.code == 0 if column == "ok" else getattr(one, column)


def _read(vm: str, result: Result) -> VMProgram:
    """What a VM answers to `_STATUS`."""
    line, _, out = result.text.partition("\n")
    words = line.split(" ", 4)
    if not result.ok or len(words) < 5:
        return VMProgram(vm, "unknown", None, math.nan, "", "", result.reason or "it did not answer")
    state, code, since, now, reason = words
    known: dict[str, State] = {"running": "running", "ended": "ended", "lost": "lost"}
    found = known.get(state, "absent")
    exit_code = int(code) if found == "ended" else None
    if found == "lost":
        reason = "its VM was rebooted or redeployed, or it was killed"
    elif found == "absent":
        reason = "it was not started there, or its VM was redeployed"
    elif exit_code and not reason:
        reason = f"exit code {exit_code}"
    seconds = float(now) - float(since) if found in ("running", "ended") else math.nan
    return VMProgram(vm, found, exit_code, seconds, out, result.stderr.decode(errors="replace"), reason)


def start_program(
    context: Callable[[], Context],
    command: str,
    names: Sequence[str] | None,
    timeout: float | None,
    table: Table = pd.DataFrame,
) -> Program:
    """Start a shell command on VMs and return at once; ``timeout``: seconds (None: all that is left).

    Raises as `g5kvirt.guests.run.run_on`, and RunError if the start cannot be recorded. Where it could not be
    started, `Program.status` says why.
    """
    check_command(command)
    here = context()
    vms = chosen_vms(here, names, "run")
    granted = here.journal.state.reservation
    assert granted is not None  # VMs are deployed
    left = granted.start + granted.walltime - here.now()
    if timeout is not None:
        check_timeout(timeout)
    limit = max(1, math.ceil(left if timeout is None else min(timeout, left)))
    number = len(here.journal.state.programs) + 1
    start = ProgramStart(
        f"p{number}-{secrets.token_hex(3)}", command, tuple(vm.name for vm in vms), float(limit), here.now()
    )
    # before it is started: whatever happens then, it is known that it may run
    inbox.record(here.run.path, here.journal, event_types.program_started(start))
    arguments = [f"{FOLDER}/{start.name}", str(limit), str(MOST_OUTPUT), command, _SUPERVISE]
    GuestCommands(here, vms).run(
        list(start.vms), ["sh", "-c", _START, "sh", *arguments], timeout=ANSWER_TIMEOUT, idempotent=True
    )
    return Program(context, start, table)


def programs(
    context: Callable[[], Context], run: Run, journal: Journal, table: Table = pd.DataFrame
) -> list[Program]:
    """The programs that were started in a run, in their order."""
    starts = dict(journal.state.programs)
    for event in inbox.waiting(run.path):
        if event_types.is_program(event):
            starts.setdefault(event.subject, event_types.program_of(event))
    return [Program(context, start, table) for start in starts.values()]
