"""An ssh configuration for the machines of a run: frontends, hosts, VMs.

It leads through the same ssh servers as the run's own connections (`Context.access`): those between this
machine and the testbed are the testbed's, a VM is reached through its own host.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from g5kvirt.context import Context
from g5kvirt.inventory import VM, Host
from g5kvirt.remote import Access
from g5kvirt.remote.access import OPTIONS

__all__ = ["configuration", "named_config", "ssh_config", "vm_access"]

#: Left out: an interactive login needs a terminal.
_NO_TERMINAL = "RequestTTY=no"

#: What ssh reads where it is not given a file.
_DEFAULT_FILES = ("~/.ssh/config", "/etc/ssh/ssh_config")


def ssh_config(context: Context, vms: Sequence[VM]) -> Path:
    """Write ``ssh/config`` of the run and return it; with it, plain ``ssh -F FILE vm-12`` reaches a VM."""
    return _write(context, vms, "config", own=False)


def named_config(context: Context, vms: Sequence[VM]) -> Path:
    """Write ``ssh/config-named`` and return it: it leads to the machines of the run by their names, and
    leaves all others to the testbed's own configuration."""
    return _write(context, vms, "config-named", named=True)


def _write(context: Context, vms: Sequence[VM], name: str, *, own: bool = False, named: bool = False) -> Path:
    hosts = context.journal.state.deployed_hosts
    outer_jump = context.testbed.access(context.key).jump
    text = configuration(context.access, outer_jump, hosts, vms, own=own, named=named)
    path = Path(context.key).absolute().with_name(name)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def configuration(
    access: Access,
    outer_jump: str,
    hosts: Sequence[Host],
    vms: Sequence[VM],
    *,
    own: bool = False,
    named: bool = False,
) -> str:
    """An ssh_config(5) for frontends, ``hosts`` (service machines among them) and ``vms``.

    ``access`` leads to the hosts; ``outer_jump``: the ssh servers in front of the testbed, as ``ssh -J``
    takes them. A host goes by its own name and by that in the KaVLAN, a frontend by ``nancy.grid5000.fr``:
    full names, because the configuration that ``access`` works with, which is included after this one,
    matches what was typed. ``own``: for our own connections, with the options of ``access``. ``named``: other
    machines are reached as without this configuration, through ``outer_jump``. All paths in it are absolute.
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
    if not own:  # for a person: ssh itself knows no groups
        for group in dict.fromkeys(vm.group for vm in vms if vm.group):
            lines.append(f"# {group}: {' '.join(vm.name for vm in vms if vm.group == group)}\n")
    by_name = {host.name: host.address for host in hosts}
    lines += [f"Host {vm.name}\n  HostName {vm.ip}\n  ProxyJump {by_name[vm.host]}\n" for vm in vms]
    known = [vm.name for vm in vms] + [name for host in hosts for name in (host.name, host.address)]
    meant = list(dict.fromkeys(known)) if named else ["*", *(f"!{name}" for name in others)]
    lines.append(f"Host {' '.join(meant)}\n  User {access.user}\n")
    if access.key is not None:
        lines.append(f"  IdentityFile {_quoted(access.key)}\n  IdentitiesOnly yes\n")
    lines += [f"  {' '.join(option.split('=', 1))}\n" for option in OPTIONS if option != _NO_TERMINAL]
    lines.append(f"  ConnectTimeout {access.connect_timeout:.0f}\n")
    if named and outer_jump:
        lines.append(f"Host {' '.join(['*', *(f'!{name}' for name in steps)])}\n  ProxyJump {outer_jump}\n")
    files = [_quoted(access.ssh_config)] if access.ssh_config else _DEFAULT_FILES
    lines.append("Match all\n" + "".join(f"  Include {file}\n" for file in files))
    return "".join(lines)


def vm_access(context: Context, vms: Sequence[VM], connect_timeout: float = 5.0) -> Access:
    """Root on deployed VMs, by their names. In a file for these alone: ssh reads it for every connection."""
    config = _write(context, vms, "config-vms", own=True)
    return Access(user="root", ssh_config=config, key=Path(context.key), connect_timeout=connect_timeout)


def _quoted(path: Path) -> str:
    return '"' + str(path.absolute()).replace("%", "%%") + '"'
