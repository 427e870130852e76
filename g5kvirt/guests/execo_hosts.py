"""VMs as hosts for execo's actions: how execo logs in to them is set where its actions look for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from g5kvirt.context import Context
from g5kvirt.guests.ssh import named_config
from g5kvirt.inventory import VM

if TYPE_CHECKING:
    import execo

__all__ = ["execo_hosts", "options_with"]

#: Options of ssh, each with a value, that the configuration file takes over.
_REPLACED = ("-F", "-J")


def execo_hosts(context: Context, vms: Sequence[VM]) -> list[execo.Host]:
    """An `execo.Host` for each VM, which execo's actions reach from now on by its name.

    An execo.Host has an address, a user and a key, and no way in. So ``execo.default_connection_params`` of
    this process, which the testbed's connection has set already, names a configuration file that knows the
    machines of this run, and for all others is what it was before.
    """
    import execo

    config = named_config(context, context.journal.state.placed_vms)
    params = execo.default_connection_params
    for key in ("ssh_options", "scp_options", "taktuk_connector_options"):
        params[key] = options_with(config, params[key])
    return [execo.Host(vm.name, user="root", keyfile=context.key) for vm in vms]


def options_with(config: Path, options: Sequence[str]) -> tuple[str, ...]:
    """The options of ssh or scp with this configuration file instead of any other way. Pure.

    At the end: what comes first may be a program in front of ssh, with options of its own.
    """
    kept: list[str] = []
    words = iter(options)
    for word in words:
        if word in _REPLACED:
            next(words, None)
        else:
            kept.append(word)
    return (*kept, "-F", str(config))
