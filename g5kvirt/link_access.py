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
        """The current links: those of the specification, or as last set by `set_links`."""
        found = self._runner.journal.state.links
        return self._runner.spec.links if found is None else found

    def set_links(self, links: Sequence[Link | Mapping[str, Any]]) -> pd.DataFrame:
        """Replace all current links while VMs run; ``[]`` removes them.

        If VMs are deployed, measures the new links and returns the result as `measure_links`; otherwise
        returns the same table with the settings only. Each call is recorded in the journal. Raises SpecError,
        before anything is touched, for an invalid link, and for a latency or loss if the hosts' kernels lack
        netem; PhaseOrderError before `launch` and after `release`; PhaseError if it failed on a host.
        """
        from g5kvirt.phases import links as phase

        context = self._checked("set_links")
        checked = phase.check(context, links)
        event = phase.set_links(context, checked)
        if checked and self._runner.journal.state.deployed_vms:
            return OutputTable(links_table(phase.measure_links(context, checked, 1)))
        return OutputTable(links_table([event]))

    def measure_links(self, sample: int = 1) -> pd.DataFrame:
        """Measure the current links between deployed VMs with a ping and a transfer of a few seconds.

        ``sample``: number of pairs of VMs for each direction of each link. Returns one row per pair, with the
        columns of ``frames.links``: the requested and the measured values. Each measurement is recorded in
        the journal. Raises PhaseOrderError before a deployment.
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
            raise PhaseOrderError(f"run {runner.run.name!r} has released its machines and VMs")
        return runner.context
