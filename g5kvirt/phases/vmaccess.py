"""The way to the VMs: by ssh through their own hosts, written down as an ssh configuration of the run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from g5kvirt.errors import SpecError
from g5kvirt.inventory import VM
from g5kvirt.phases import recall
from g5kvirt.phases.context import Context
from g5kvirt.remote import Access, Fanout
from g5kvirt.spec import near

__all__ = ["COLUMNS", "run_on", "ssh_config", "vm_access"]

#: Of `run_on`'s rows.
COLUMNS = ("vm", "ok", "code", "out", "err", "seconds", "reason")


def ssh_config(context: Context, vms: Sequence[VM]) -> Path:
    """Write ``ssh/config`` of the run; with it, plain ``ssh -F FILE vm-12`` reaches a VM. Returns it."""
    hosts = {host.name: host for host in recall.deployed(context.journal)}
    blocks = [
        "# Made by g5kvirt: the VMs of a run, each reached through its own host.\n"
        "Host *\n"
        "  User root\n"
        f"  IdentityFile {_quoted(context.key)}\n"
        "  IdentitiesOnly yes\n"
        "  StrictHostKeyChecking no\n"
        "  UserKnownHostsFile /dev/null\n"
        "  LogLevel ERROR\n"
    ]
    prefix = context.access.prefix()
    for vm in vms:
        jump = shlex.join([*prefix, "-W", "[%h]:%p", "--", hosts[vm.host].address])
        words = jump.replace("%", "%%").replace("[%%h]:%%p", "[%h]:%p")
        blocks.append(f"Host {vm.name}\n  HostName {vm.ip}\n  ProxyCommand {words}\n")
    path = Path(context.key).with_name("config")
    path.write_text("".join(blocks), encoding="utf-8")
    path.chmod(0o600)
    return path


def vm_access(context: Context, vms: Sequence[VM], connect_timeout: float = 5.0) -> Access:
    """Root on deployed VMs, by their names."""
    config = ssh_config(context, vms)
    return Access(user="root", ssh_config=config, key=Path(context.key), connect_timeout=connect_timeout)


def _quoted(path: str) -> str:
    return '"' + path.replace("%", "%%") + '"'


def run_on(
    context: Context, command: str, names: Sequence[str] | None, timeout: float
) -> list[dict[str, object]]:
    """Run a shell command on VMs (default: those whose last deployment went well); one row each.

    Raises SpecError for a VM that this run does not have, and for what is no command.
    """
    if not isinstance(command, str) or not command.strip():
        raise SpecError(f"a command is a line for the VMs' shell such as 'uname -a', not {command!r}")
    vms = {vm.name: vm for vm in recall.vms(context.journal)}
    chosen = recall.deployed_vms(context.journal) if names is None else list(names)
    for name in chosen:
        if name not in vms:
            raise SpecError(f"there is no VM {name!r} in this run: {near(name, vms)}")
    access = vm_access(context, [vms[name] for name in chosen])
    results = Fanout(access, window=8, tree_from=None).run(chosen, ["sh", "-c", command], timeout=timeout)
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
