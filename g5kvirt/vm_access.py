"""What a person does with deployed VMs: commands, programs, files, and ways to reach them from other tools.

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
        """Write an ssh configuration with which plain ``ssh -F FILE vm-12`` reaches a deployed VM.

        It works from any directory, also with scp and sftp. Hosts, service machines and frontends go by their
        full names: ``graphene-3.nancy.grid5000.fr``.
        """
        from g5kvirt.guests.ssh import ssh_config

        return ssh_config(self._runner.context, self._runner.journal.state.placed_vms)

    def console(self, vm: str, size: int = 8192) -> str:
        """The end of a VM's serial console, at most ``size`` bytes: at any time, also while it boots.

        From its first power-on in `launch` on, also while a step runs in the background or in another
        process. Raises SpecError for an unknown VM, and in a prediction; PhaseOrderError before `place` and
        after `release`; TestbedError if it cannot be read.
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
        """Run a shell command on all deployed VMs, on those of ``group`` or on ``vms``; one row per VM.

        Columns: ``vm``, ``ok``, ``code`` (None if its end was not seen), ``out``, ``err``, ``seconds`` and,
        unless ok, the ``reason``. ``timeout``: seconds for each, 60 if not given. A command that prints more
        than 16 MiB (less with many VMs: `g5kvirt.guests.commands.most_output`) is cut off; `get` has files.

        With ``background`` it returns a `g5kvirt.guests.programs.Program` at once: the command goes on when
        this process ends, at most ``timeout`` seconds (the walltime that is left); `programs` has it again.
        It ends with its VM, at the latest at `release`.

        Raises SpecError for an unknown VM or group, and in a prediction; PhaseOrderError where none is
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
        """What ``run(…, background=True)`` has started in this run, from here or elsewhere, in its order."""
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
        """Copy a file, a directory, or a list of them to all deployed VMs, a ``group`` or ``vms``.

        ``target`` is the new path on the VMs; if it ends with ``/``, it is the directory for them, which is
        made if needed. Owner is root, permissions and times are kept. Each link carries the files once,
        whatever the number of VMs: from here to a service machine, down a chain of the hosts, from each host
        to its VMs. Columns: ``vm``, ``ok``, ``seconds`` (of its host's transfer to it) and, unless ok, the
        ``reason``. ``timeout``: seconds for each of these ways. Raises as `run`, and SpecError for files that
        cannot be read, before anything is copied.
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
        """Copy a file or directory from all deployed VMs, a ``group`` or ``vms``, to ``target/VM/``.

        Each host collects what its VMs have, and the hosts send it here side by side. Links that lead out of
        the directory, sockets and devices are left out; the row is not ok then. Columns: ``vm``, ``ok``,
        ``path`` (here), ``bytes``, ``seconds`` and, unless ok, the ``reason``. ``timeout``: seconds for a VM,
        and for a host. Raises as `run`.
        """
        from g5kvirt.guests.get import COLUMNS, get

        chosen = self._chosen(vms, group, "get")
        rows = get(self._machines("give a file"), source, target, chosen, timeout)
        return OutputTable(rows, columns=list(COLUMNS))

    def inventory(
        self, format: Format = "json", vms: Sequence[str] | None = None, *, group: str | None = None
    ) -> Path:
        """Write all deployed VMs, a ``group`` or ``vms``, as another tool wants them, and return the file.

        ``format``: ``"ansible"`` (``ansible -i FILE vms …``), ``"clustershell"`` (a directory:
        ``CLUSTERSHELL_CFGDIR=DIR clush -w @vms …``), ``"ssh"`` (as `ssh_config`), ``"hosts"`` (lines for
        /etc/hosts) or ``"json"``. Sites are groups of them. Raises as `run`.
        """
        from g5kvirt.guests.inventories import write_inventory
        from g5kvirt.guests.run import chosen_vms

        context = self._machines("be in an inventory")
        return write_inventory(
            context, format, chosen_vms(context, self._chosen(vms, group, "inventory"), "inventory")
        )

    def hosts(self, vms: Sequence[str] | None = None, *, group: str | None = None) -> list[execo.Host]:
        """All deployed VMs, a ``group`` or ``vms``, as `execo.Host` objects for execo's actions.

        ``execo.Remote("hostname", exp.hosts()).run()``, likewise ``Put`` and ``Get``. How to reach them is
        put into ``execo.default_connection_params`` of this process. Raises as `run`.
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
