"""What a prediction gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from g5kvirt.errors import RunError
from g5kvirt.run.events import Event
from g5kvirt.run.tables import Frames
from g5kvirt.simulation.calibration import Calibration

__all__ = ["Prediction"]


class Prediction(Mapping[int, float]):
    """What a model says about an experiment: number of VMs → seconds of a deployment on them.

    So it can be given to a figure as it is: ``exp.figures.scalability(prediction=exp.predict())``.
    ``sampled``: how many hosts each of those with ``events`` stands for, and ``sizes``: for how many VMs each
    of the deployments stands then.
    """

    def __init__(
        self,
        events: Sequence[Event],
        calibration: Calibration,
        sampled: float = 1.0,
        sizes: Sequence[int] = (),
    ) -> None:
        self._frames = Frames(list(events))
        self.calibration = calibration
        self.sampled = sampled
        self._sizes = sorted(sizes)
        curve = self.scalability
        median = curve.groupby("vms")["total"].median()
        self._seconds: dict[int, float] = dict(
            zip(median.index.astype(int).tolist(), median.tolist(), strict=True)
        )

    def __getitem__(self, vms: int) -> float:
        return self._seconds[vms]

    def __iter__(self) -> Iterator[int]:
        return iter(self._seconds)

    def __len__(self) -> int:
        return len(self._seconds)

    @property
    def frames(self) -> Frames:
        """The tables of the run, with each step of each VM. Raises RunError for a summary."""
        if self.sampled > 1:
            raise RunError("a summary has no tables of VMs", advice="predict without summary=True")
        return self._frames

    @property
    def phases(self) -> pd.DataFrame:
        """The predicted seconds of each phase; ``measure`` is all deployments together."""
        known = self._frames.phases[["phase", "duration"]].rename(columns={"duration": "seconds"})
        return known.assign(prediction=True)

    @property
    def scalability(self) -> pd.DataFrame:
        """Number of VMs, predicted seconds of a deployment, deployed and failed VMs."""
        known = self._frames.measurements.scalability[["vms", "total", "deployed", "failed"]]
        curve = known.assign(prediction=True)
        if self.sampled == 1:
            return curve
        curve = curve.sort_values("vms", kind="stable", ignore_index=True)
        failed = (curve["failed"] * self.sampled).round().astype(int)
        vms = pd.Series(self._sizes, dtype=int)
        return curve.assign(vms=vms, failed=failed, deployed=vms - failed)

    @property
    def failed(self) -> dict[int, int]:
        """Number of VMs of a deployment → how many of them would not be deployed."""
        most = self.scalability.groupby("vms")["failed"].max()
        return dict(zip(most.index.astype(int).tolist(), most.astype(int).tolist(), strict=True))

    def plain(self) -> dict[str, Any]:
        """For scripts: phase → seconds, VMs → seconds of a deployment, VMs → failed ones."""
        known = self.phases[["phase", "seconds"]].itertuples(index=False)
        phases = {str(name): float(span) for name, span in known}
        return {"prediction": True, "phases": phases, "deployments": dict(self), "failed": self.failed}

    def __repr__(self) -> str:
        calibration = self.calibration
        head = f"prediction by the calibration {calibration.name!r} ({calibration.kind}); no machine ran"
        if self.sampled > 1:
            head += f"; from a sample, one host in {self.sampled:.3g}"
        phases = self.phases[["phase", "seconds"]]
        lines = [f"{phase:10} {seconds:8.1f} s" for phase, seconds in phases.itertuples(index=False)]
        total = float(phases["seconds"].sum())
        lines.append(f"{'total':10} {total:8.1f} s" + (f" ({total / 60:.0f} min)" if total >= 120 else ""))
        failed = self.failed
        for vms, seconds in self.items():
            lost = f", {failed[vms]:,} VMs failed" if failed[vms] else ""
            lines.append(f"deployment on {vms:,} VMs: {seconds:.1f} s{lost}")
        return "\n".join((head, *lines))
