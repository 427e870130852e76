"""Links between VMs while they run: changed and measured. A part of `Experiment`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from g5kvirt.errors import PhaseOrderError, SpecError
from g5kvirt.phase_runner import PhaseRunner
from g5kvirt.run.link_tables import links_table
from g5kvirt.spec.fields import whole
from g5kvirt.spec.links import Link
from g5kvirt.views.output_table import OutputTable

__all__ = ["LinkAccess"]


class LinkAccess:
    """The methods of `Experiment` for the links between its VMs."""

    _runner: PhaseRunner

    @property
    def links(self) -> tuple[Link, ...]:
        """The links in force: as last set, at first those of the specification."""
        found = self._runner.journal.state.links
        return self._runner.spec.links if found is None else found

    def set_links(self, links: Sequence[Link | Mapping[str, Any]]) -> pd.DataFrame:
        """Set these links in the place of those in force, also while VMs run; ``[]`` takes all away.

        Returns what `measure_links` does if VMs are deployed, else the same table with what was set. Each
        call is an event of the run. Raises SpecError, before anything is touched, for what is no link and
        for a latency or a loss where the hosts' kernels lack netem; PhaseOrderError before `launch` and after
        `release`; PhaseError if a host did not do it.
        """
        from g5kvirt.phases import links as phase

        context = self._checked("set_links")
        checked = phase.check(context, links)
        event = phase.set_links(context, checked)
        if checked and self._runner.journal.state.deployed_vms:
            return OutputTable(links_table(phase.measure_links(context, checked, 1)))
        return OutputTable(links_table([event]))

    def measure_links(self, sample: int = 1) -> pd.DataFrame:
        """Measure the links in force between deployed VMs: a ping, and a transfer of some seconds.

        ``sample``: pairs of VMs for each direction of each link. One row each, see
        `g5kvirt.run.link_tables.links_table`: what was requested and, beside it, what was measured. Each is
        an event of the run. Raises PhaseOrderError before a deployment.
        """
        from g5kvirt.phases import links as phase

        context = self._checked("measure_links")
        pairs = whole("sample", sample, 1, 1000)
        if not self._runner.journal.state.deployed_vms:
            raise PhaseOrderError("measure_links() needs deployed VMs", advice="call measure() first")
        return OutputTable(links_table(phase.measure_links(context, self.links, pairs)))

    def _checked(self, call: str) -> Any:
        runner = self._runner
        if runner.run.predicted:
            raise SpecError(
                f"run {runner.run.name!r} is a prediction, whose model has no links between VMs",
                advice='use testbed "local" or "grid5000"',
            )
        if not runner.journal.state.done("launch"):
            raise PhaseOrderError(f"{call}() needs launch() first", advice="call launch()")
        if runner.journal.state.released:
            raise PhaseOrderError(f"run {runner.run.name!r} has released its machines, and its VMs with them")
        return runner.context
