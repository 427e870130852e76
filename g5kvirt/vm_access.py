"""What a person does with deployed VMs: commands on them, and ways to reach them. A part of `Experiment`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from g5kvirt.errors import SpecError
from g5kvirt.phase_runner import PhaseRunner
from g5kvirt.views.output_table import OutputTable

__all__ = ["VMAccess"]


class VMAccess:
    """The methods of `Experiment` that reach into its VMs."""

    _runner: PhaseRunner

    def ssh_config(self) -> Path:
        """Write an ssh configuration with which plain ``ssh -F FILE vm-12`` reaches a deployed VM.

        Hosts, service machines and frontends go by their full names: ``graphene-3.nancy.grid5000.fr``.
        """
        from g5kvirt.guests.ssh import ssh_config

        return ssh_config(self._runner.context, self._runner.journal.state.placed_vms)

    def run(
        self,
        command: str,
        vms: Sequence[str] | None = None,
        timeout: float = 60,
        *,
        group: str | None = None,
    ) -> pd.DataFrame:
        """Run a shell command on all deployed VMs, on those of ``group`` or on ``vms``; one row per VM.

        Columns: ``vm``, ``ok``, ``code`` (None if its end was not seen), ``out``, ``err``, ``seconds`` and,
        unless ok, the ``reason``. ``timeout``: seconds for each. Raises SpecError for an unknown VM or group,
        PhaseOrderError where none is deployed, and after `release`; SpecError in a prediction.
        """
        from g5kvirt.guests.run import COLUMNS, run_on

        if self._runner.run.predicted:
            raise SpecError(
                f"run {self._runner.run.name!r} is a prediction: there are no VMs that could run a command",
                advice='use testbed "local" or "grid5000"',
            )
        return OutputTable(run_on(self._runner.context, command, vms, timeout, group), columns=list(COLUMNS))
