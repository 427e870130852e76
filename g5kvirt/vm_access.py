"""Access to deployed VMs: commands, programs, files, and ways to reach them from other tools.

A part of `Experiment`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import pandas as pd

from g5kvirt.context import Context
from g5kvirt.errors import SpecError
from g5kvirt.phase_runner import PhaseRunner
from g5kvirt.views.output_table import OutputTable

if TYPE_CHECKING:
    import execo

    from g5kvirt.guests.inventories import Format
    from g5kvirt.guests.programs import Program

__all__ = ["VMAccess"]

#: Seconds of `VMAccess.run` for each VM, unless it is given others; of `VMAccess.put` and `VMAccess.get`.
RUN_TIMEOUT = 60.0
COPY_TIMEOUT = 600.0


class VMAccess:
    """The methods of `Experiment` that reach into its VMs."""

    _runner: PhaseRunner

    def ssh_config(self) -> Path:
        """Write an ssh configuration for ``ssh -F FILE vm-12`` and return its path.

        It works from any directory, also with scp and sftp. It also contains hosts, service machines and
        frontends, with their full names: ``graphene-3.nancy.grid5000.fr``.
        """
        from g5kvirt.guests.ssh import ssh_config

        return ssh_config(self._runner.context, self._runner.journal.state.placed_vms)

    def console(self, vm: str, size: int = 8192) -> str:
        """The end of a VM's serial console, at most ``size`` bytes.

        Available from the VM's first power-on in `launch`, also while it boots or a step runs in the
        background or in another process. Raises SpecError for an unknown VM, and in a prediction;
        PhaseOrderError before `place` and after `release`; TestbedError if it cannot be read.
        """
        from g5kvirt.guests.consoles import show_console

        if self._runner.run.predicted:
            raise SpecError(
                f"run {self._runner.run.name!r} is a prediction: its VMs have no consoles",
                advice='use testbed "local" or "grid5000"',
            )
        return show_console(self._runner.context, vm, size)

    @overload
    def run(
        self,
        command: str,
        vms: Sequence[str] | None = None,
        timeout: float | None = None,
        *,
        background: Literal[False] = False,
        group: str | None = None,
    ) -> pd.DataFrame: ...
    @overload
    def run(
        self,
        command: str,
        vms: Sequence[str] | None = None,
        timeout: float | None = None,
        *,
        background: Literal[True],
        group: str | None = None,
    ) -> Program: ...
    def run(
        self,
        command: str,
        vms: Sequence[str] | None = None,
        timeout: float | None = None,
        *,
        background: bool = False,
        group: str | None = None,
    ) -> pd.DataFrame | Program:
        """Run a shell command on all deployed VMs, those of ``group``, or ``vms``; returns one row per VM.

        Columns: ``vm``; ``ok``; ``code``, the exit code (None if it is not known); ``out``; ``err``;
        ``seconds``; ``reason`` of the failure. ``timeout``: seconds for each VM, by default 60. A command
        that prints more than 16 MiB (less with many VMs: `g5kvirt.guests.commands.most_output`) is cut off;
        fetch files with `get`.

        With ``background``, returns a `g5kvirt.guests.programs.Program` immediately: the command continues
        when this process ends, for at most ``timeout`` seconds (by default the remaining walltime), until its
        VM is rebooted or released. `programs` lists the programs of a run.

        Raises SpecError for an unknown VM or group, and in a prediction; PhaseOrderError if no VM is
        deployed, and after `release`.
        """
        from g5kvirt.guests.programs import start_program
        from g5kvirt.guests.run import COLUMNS, run_on

        vms = self._chosen(vms, group, "run")
        if background:
            context = partial(self._machines, "run a command")
            return start_program(context, command, vms, timeout, OutputTable)
        limit = RUN_TIMEOUT if timeout is None else timeout
        rows = run_on(self._machines("run a command"), command, vms, limit)
        return OutputTable(rows, columns=list(COLUMNS))

    @property
    def programs(self) -> list[Program]:
        """The programs started in this run by ``run(…, background=True)``, by any process, oldest first."""
        from g5kvirt.guests.programs import programs

        runner = self._runner
        context = partial(self._machines, "run a command")
        return programs(context, runner.run, runner.journal, OutputTable)

    def put(
        self,
        source: str | Path | Sequence[str | Path],
        target: str,
        vms: Sequence[str] | None = None,
        timeout: float = COPY_TIMEOUT,
        *,
        group: str | None = None,
    ) -> pd.DataFrame:
        """Copy a file, a directory, or a list of them to all deployed VMs, those of ``group``, or ``vms``.

        ``target`` is the path on the VMs; if it ends with ``/``, it is a directory that receives the files
        and is created if needed. The owner is root; permissions and modification times are kept. Each link
        carries the files once, whatever the number of VMs: from here to a service machine, down a chain of
        the hosts, from each host to its VMs. Returns one row per VM: ``vm``, ``ok``, ``seconds`` (of the
        transfer from its host), ``reason`` of the failure. ``timeout``: seconds for each of these three
        transfers. Raises as `run`, and SpecError for files that cannot be read, before anything is copied.
        """
        from g5kvirt.guests.put import COLUMNS, put

        chosen = self._chosen(vms, group, "put")
        rows = put(self._machines("take a file"), source, target, chosen, timeout)
        return OutputTable(rows, columns=list(COLUMNS))

    def get(
        self,
        source: str,
        target: str | Path,
        vms: Sequence[str] | None = None,
        timeout: float = COPY_TIMEOUT,
        *,
        group: str | None = None,
    ) -> pd.DataFrame:
        """Copy a file or directory from all deployed VMs, those of ``group``, or ``vms``, to ``target/VM/``.

        Each host collects the files of its VMs, and several hosts at a time send them here. Sockets, devices
        and symbolic links that lead out of the directory are left out; the row is then not ok. Returns one
        row per VM: ``vm``, ``ok``, ``path`` (here), ``bytes``, ``seconds``, ``reason`` of the failure.
        ``timeout``: seconds for each VM, and for each host. Raises as `run`.
        """
        from g5kvirt.guests.get import COLUMNS, get

        chosen = self._chosen(vms, group, "get")
        rows = get(self._machines("give a file"), source, target, chosen, timeout)
        return OutputTable(rows, columns=list(COLUMNS))

    def inventory(
        self, format: Format = "json", vms: Sequence[str] | None = None, *, group: str | None = None
    ) -> Path:
        """Write an inventory of all deployed VMs, those of ``group``, or ``vms``; returns its path.

        That of a group, and that of ``vms``, is in a directory of its own.

        ``format``: ``"ansible"`` (``ansible -i FILE vms …``), ``"clustershell"`` (a directory:
        ``CLUSTERSHELL_CFGDIR=DIR clush -w @vms …``), ``"ssh"`` (as `ssh_config`), ``"hosts"`` (lines for
        /etc/hosts) or ``"json"``. The groups of the specification and the sites are groups there. Raises as
        `run`.
        """
        from g5kvirt.guests.inventories import write_inventory
        from g5kvirt.guests.run import chosen_vms

        context = self._machines("be in an inventory")
        chosen = chosen_vms(context, self._chosen(vms, group, "inventory"), "inventory")
        return write_inventory(context, format, chosen, group or ("" if vms is None else "selected"))

    def hosts(self, vms: Sequence[str] | None = None, *, group: str | None = None) -> list[execo.Host]:
        """All deployed VMs, those of ``group``, or ``vms``, as `execo.Host` objects for execo's actions.

        For instance ``execo.Remote("hostname", exp.hosts()).run()``, ``Put`` or ``Get``. Sets
        ``execo.default_connection_params`` in this process to an ssh configuration for the VMs. Raises as
        `run`.
        """
        from g5kvirt.guests.execo_hosts import execo_hosts
        from g5kvirt.guests.run import chosen_vms

        context = self._machines("be reached")
        return execo_hosts(context, chosen_vms(context, self._chosen(vms, group, "hosts"), "hosts"))

    def _chosen(self, vms: Sequence[str] | None, group: str | None, call: str) -> Sequence[str] | None:
        """``vms``, or the names of the deployed VMs in ``group``."""
        if group is None:
            return vms
        from g5kvirt.guests.run import group_names

        return group_names(self._machines(f"be in the group {group!r}"), vms, group, call)

    def _machines(self, what: str) -> Context:
        """What commands on VMs need. Raises SpecError in a prediction, whose VMs cannot do ``what``."""
        if self._runner.run.predicted:
            raise SpecError(
                f"run {self._runner.run.name!r} is a prediction: there are no VMs that could {what}",
                advice='use testbed "local" or "grid5000"',
            )
        return self._runner.context
