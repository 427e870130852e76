"""A user's command on VMs: `Experiment.run`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from g5kvirt.context import Context
from g5kvirt.errors import PhaseOrderError, SpecError
from g5kvirt.guests.commands import GuestCommands
from g5kvirt.inventory import VM
from g5kvirt.spec.fields import LONGEST, show, suggest
from g5kvirt.spec.groups import check_group

__all__ = ["COLUMNS", "check_command", "check_timeout", "chosen_names", "chosen_vms", "group_names", "run_on"]

#: Bytes of a command: more, the kernel does not take as one argument.
LONGEST_COMMAND = 100_000

#: Of `run_on`'s rows.
COLUMNS = ("vm", "ok", "code", "out", "err", "seconds", "reason")


def run_on(
    context: Context, command: str, names: Sequence[str] | None, timeout: float
) -> list[dict[str, object]]:
    """Run a shell command on VMs; one row per VM.

    By default on those whose last deployment succeeded. Raises SpecError for a VM that this run does not
    have, and for what is no command; PhaseOrderError where none is deployed, and after `release`.
    """
    check_command(command)
    check_timeout(timeout)
    vms = chosen_vms(context, names, "run")
    chosen = [vm.name for vm in vms]
    results = GuestCommands(context, vms).run(chosen, ["sh", "-c", command], timeout=timeout)
    return [
        {
            "vm": name,
            "ok": result.ok,
            "code": result.returncode,
            "out": result.text,
            "err": result.stderr.decode(errors="replace"),
            "seconds": result.duration,
            "reason": result.reason,
        }
        for name, result in results.items()
    ]


def check_command(command: object) -> None:
    """Raises SpecError for what cannot be run."""
    if not isinstance(command, str) or not command.strip():
        raise SpecError(f"command must be a shell command such as 'uname -a', not {command!r}")
    if "\0" in command or len(command.encode(errors="surrogateescape")) > LONGEST_COMMAND:
        raise SpecError(
            f"a command must not contain NUL characters and may have at most {LONGEST_COMMAND:,} bytes",
            advice="copy a longer script to the VMs with put()",
        )


def check_timeout(timeout: object) -> None:
    """Raises SpecError for what is no time limit in seconds."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= LONGEST:
        raise SpecError(f"timeout must be a number of seconds greater than 0, not {show(timeout)}")


def chosen_vms(context: Context, names: Sequence[str] | None, call: str) -> list[VM]:
    """The VMs that a user's ``call`` goes to: those of ``names``, or all whose last deployment succeeded.

    Raises SpecError for unknown names; PhaseOrderError where none is deployed, and after `release`.
    """
    state = context.journal.state
    vms = {vm.name: vm for vm in state.placed_vms}
    chosen = list(state.deployed_vms) if names is None else chosen_names(names, vms)
    if state.released:
        raise PhaseOrderError(f"run {context.run.name!r} has released its machines and VMs")
    if not chosen and names is None:
        raise PhaseOrderError(
            f"{call}() needs deployed VMs, and there are none", advice="call measure() first"
        )
    return [vms[name] for name in chosen]


def group_names(
    context: Context, names: Sequence[str] | None, group: str | None, call: str
) -> Sequence[str] | None:
    """``names`` as they are, or the deployed VMs of ``group``. Raises SpecError, PhaseOrderError."""
    if group is None:
        return names
    if names is not None:
        raise SpecError(f"{call}() takes vms or a group, not both", advice="leave one of them out")
    check_group(group, [one.name for one in context.spec.groups])
    state = context.journal.state
    members: list[str] = state.members(state.deployed_vms, group)
    if not members and not state.released:
        message = f"{call}() needs deployed VMs, and there are none in the group {group!r}"
        raise PhaseOrderError(message, advice="call measure() first")
    return members


def chosen_names(names: object, vms: Mapping[str, VM]) -> list[str]:
    """The names without repetitions. Raises SpecError if they are not a list of names of ``vms``."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise SpecError(f"vms must be a list of names such as ['vm-1', 'vm-2'], not {show(names)}")
    chosen = list(names)
    for name in chosen:
        if not isinstance(name, str) or name not in vms:
            raise SpecError(f"there is no VM {show(name)} in this run", advice=suggest(str(name), vms))
    return list(dict.fromkeys(chosen))
