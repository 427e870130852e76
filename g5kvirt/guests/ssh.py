"""An ssh configuration for the machines of a run (frontends, hosts, VMs), and commands on VMs by it.

It leads through the same ssh servers as the run's own connections (`Context.access`): those between this
machine and the testbed are the testbed's, a VM is reached through its own host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from g5kvirt.context import Context
from g5kvirt.errors import PhaseOrderError, SpecError
from g5kvirt.inventory import VM, Host
from g5kvirt.planning.windows import interleave
from g5kvirt.remote import Access, Fanout
from g5kvirt.remote.access import OPTIONS
from g5kvirt.spec.fields import LONGEST, show, suggest

__all__ = ["COLUMNS", "configuration", "run_on", "ssh_config", "vm_access"]

#: Bytes of a command: more, the kernel does not take as one argument.
LONGEST_COMMAND = 100_000

#: Of `run_on`'s rows.
COLUMNS = ("vm", "ok", "code", "out", "err", "seconds", "reason")

#: Left out: an interactive login needs a terminal.
_NO_TERMINAL = "RequestTTY=no"

#: What ssh reads where it is not given a file.
_DEFAULT_FILES = ("~/.ssh/config", "/etc/ssh/ssh_config")


def ssh_config(context: Context, vms: Sequence[VM]) -> Path:
    """Write ``ssh/config`` of the run and return it; with it, plain ``ssh -F FILE vm-12`` reaches a VM."""
    return _write(context, vms, "config", own=False)


def _write(context: Context, vms: Sequence[VM], name: str, *, own: bool) -> Path:
    hosts = context.journal.state.deployed_hosts
    outer_jump = context.testbed.access(context.key).jump
    text = configuration(context.access, outer_jump, hosts, vms, own=own)
    path = Path(context.key).with_name(name)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def configuration(
    access: Access, outer_jump: str, hosts: Sequence[Host], vms: Iterable[VM], *, own: bool = False
) -> str:
    """An ssh_config(5) for frontends, ``hosts`` (service machines among them) and ``vms``.

    ``access`` leads to the hosts; ``outer_jump``: the ssh servers in front of the testbed, as ``ssh -J``
    takes them. A host goes by its own name and by that in the KaVLAN, a frontend by ``nancy.grid5000.fr``:
    full names, because the configuration that ``access`` works with, which is included after this one,
    matches what was typed. ``own``: for our own connections, with the options of ``access``.
    """
    frontends = sorted({host.name.partition(".")[2] for host in hosts} - {""})
    steps = [hop.rpartition("@")[2].partition(":")[0] for hop in access.jump.split(",") if hop]
    others = list(dict.fromkeys([*frontends, *steps]))
    lines = ["# Made by g5kvirt: the machines of a run, and how to reach them.\n"]
    if own:
        lines += [f"{' '.join(option.split('=', 1))}\n" for option in access.options]
    if frontends and outer_jump:
        lines.append(f"Host {' '.join(frontends)}\n  ProxyJump {outer_jump}\n")
    if others and access.login:
        lines.append(f"Host {' '.join(others)}\n  User {access.login}\n")
    for host in hosts:
        names = dict.fromkeys([host.name, host.address])
        lines.append(f"Host {' '.join(names)}\n  HostName {host.address}\n")
        lines += [f"  ProxyJump {access.jump}\n"] * bool(access.jump)
    by_name = {host.name: host.address for host in hosts}
    lines += [f"Host {vm.name}\n  HostName {vm.ip}\n  ProxyJump {by_name[vm.host]}\n" for vm in vms]
    lines.append(f"Host {' '.join(['*', *(f'!{name}' for name in others)])}\n  User {access.user}\n")
    if access.key is not None:
        lines.append(f"  IdentityFile {_quoted(access.key)}\n  IdentitiesOnly yes\n")
    lines += [f"  {' '.join(option.split('=', 1))}\n" for option in OPTIONS if option != _NO_TERMINAL]
    lines.append(f"  ConnectTimeout {access.connect_timeout:.0f}\n")
    files = [_quoted(access.ssh_config)] if access.ssh_config else _DEFAULT_FILES
    lines.append("Match all\n" + "".join(f"  Include {file}\n" for file in files))
    return "".join(lines)


def vm_access(context: Context, vms: Sequence[VM], connect_timeout: float = 5.0) -> Access:
    """Root on deployed VMs, by their names. In a file for these alone: ssh reads it for every connection."""
    config = _write(context, vms, "config-vms", own=True)
    return Access(user="root", ssh_config=config, key=Path(context.key), connect_timeout=connect_timeout)


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("%", "%%") + '"'


def run_on(
    context: Context, command: str, names: Sequence[str] | None, timeout: float
) -> list[dict[str, object]]:
    """Run a shell command on VMs (default: those whose last deployment succeeded); one row per VM.

    Raises SpecError for a VM that this run does not have, and for what is no command; PhaseOrderError where
    none is deployed, and after `release`.
    """
    check_command(command, timeout)
    vms = {vm.name: vm for vm in context.journal.state.placed_vms}
    chosen = list(context.journal.state.deployed_vms) if names is None else chosen_names(names, vms)
    if context.journal.state.released:
        raise PhaseOrderError(f"run {context.run.name!r} has released its machines, and its VMs with them")
    if not chosen and names is None:
        raise PhaseOrderError("run() goes to deployed VMs, and there are none", advice="call measure() first")
    own = [vms[name] for name in chosen]
    fanout = Fanout(vm_access(context, own), window=context.checks_at_once, tree_from=None)
    # host by host, one host's sshd would get all of the window at once, and refuse some
    order = [vm.name for vm in interleave(own)]
    results = fanout.run(order, ["sh", "-c", command], timeout=timeout)
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
        for name, result in ((name, results[name]) for name in chosen)
    ]


def check_command(command: object, timeout: object) -> None:
    """Raises SpecError for what cannot be run, or not for that long (in seconds)."""
    if not isinstance(command, str) or not command.strip():
        raise SpecError(f"a command is a line for the VMs' shell such as 'uname -a', not {command!r}")
    if "\0" in command or len(command.encode(errors="surrogateescape")) > LONGEST_COMMAND:
        raise SpecError(
            f"a command has no NUL in it and at most {LONGEST_COMMAND:,} bytes",
            advice="put a longer one into a file",
        )
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= LONGEST:
        raise SpecError(f"timeout must be a number of seconds above 0, not {show(timeout)}")


def chosen_names(names: object, vms: Mapping[str, VM]) -> list[str]:
    """The names without repetitions. Raises SpecError if they are not a list of names of ``vms``."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise SpecError(f"vms must be a list of names such as ['vm-1', 'vm-2'], not {show(names)}")
    chosen = list(names)
    for name in chosen:
        if not isinstance(name, str) or name not in vms:
            raise SpecError(f"there is no VM {show(name)} in this run", advice=suggest(str(name), vms))
    return list(dict.fromkeys(chosen))
