"""The figures of `measure`: deployment time per node, breakdown, scalability."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from g5kvirt.errors import RunError
from g5kvirt.run.deployment_tables import Measurements, alike, column
from g5kvirt.run.vocabulary import FAILED, PLANNED
from g5kvirt.views.curves import draw_scalability, prediction_note, with_lines
from g5kvirt.views.drawing import (
    Picture,
    RunDrawer,
    Segment,
    draw_vm_timelines,
    narrow,
    seconds,
    vm_timelines_height,
)
from g5kvirt.views.formatting import count
from g5kvirt.views.measure_tables import (
    breakdown_table,
    largest,
    macros_of,
    nodes_table,
    series_of,
    vm_timelines_table,
)
from g5kvirt.views.palette import COLOURS, macro_colour
from g5kvirt.views.repetitions import with_summaries
from g5kvirt.views.spread import draw_nodes
from g5kvirt.views.statistics import Statistic
from g5kvirt.views.tables import iter_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["DeploymentFigures"]

_SETTINGS = ("environment", "broadcast")  #: of a deployment, for the footer
_EARLIER = "#cc79a7"  #: attempts of a VM before the successful one


class DeploymentFigures(RunDrawer):
    """The figures of the deployments of one run."""

    def deployment(self, columns: int = 1, *, of: str | None = None) -> Picture:
        """The macro-steps of every VM until it was deployed, one line per VM.

        ``of``: the name of a deployment; by default the one with the most VMs, the last of several.
        """
        known = self._measured()
        name = self._chosen(known, of)
        data = vm_timelines_table(known, name)
        macros = macros_of(known, name)
        if data[[*map(column, macros), "gave_up"]].isna().all(axis=None):
            raise RunError(f"no VM of deployment {name} has finished its first macro-step yet")
        about = known.deployments.set_index("deployment").loc[name]
        environment = f" of {about['environment']}" if about["environment"] else ""
        title = f"Deployment {name}{environment}{self._series(name)} on {count(len(data), 'VM')}"
        return self._draw(
            lambda ax, rows: _deployment(ax, rows, macros),
            data,
            data,
            columns,
            vm_timelines_height(len(data)),
            title,
            f"deployment {name}{environment}{self._series(name)}",
        )

    def nodes(self, columns: int = 1, *, of: str | None = None) -> Picture:
        """The deployment time of each VM, one point per VM, by site and host.

        ``of`` as in `deployment`.
        """
        known = self._measured()
        name = self._chosen(known, of)
        data = nodes_table(self.frames, name)
        if data["seconds"].isna().all():
            raise RunError(f"no VM of deployment {name} has finished yet")
        title = f"Deployment time of each of {count(len(data), 'VM')}, deployment {name}{self._series(name)}"
        part = f"deployment {name}{self._series(name)}"
        return self._draw(draw_nodes, data, data, columns, 1.5, title, part)

    def breakdown(self, columns: int = 1, *, vms: int | None = None, series: str | None = None) -> Picture:
        """The time of each macro-step and its steps: the median, with a line up to the 95th percentile.

        Includes all deployments on ``vms`` VMs, by default on the largest number. If the run's deployments
        differ in their settings, it includes only those of one ``series`` (such as "chain"), by default that
        of the last deployment. Deployments that skipped the first reboot are excluded if there are others.
        """
        known = self._measured()
        labels = series_of(self.frames)
        finished = known.deployments[known.deployments["deployed"] > 0]
        of = finished["deployment"].map(labels).fillna("")
        if series is not None:
            if finished.empty or series not in set(of):
                raise RunError(
                    f"no deployment of {series!r} deployed any VM: choose one of {', '.join(sorted(set(of)))}"
                )
            finished = finished[of == series]
        sizes = sorted({int(requested) for requested in finished["requested"]})
        if not sizes:
            raise RunError("no VM has been deployed yet: there is no breakdown")
        if vms is not None and vms not in sizes:
            raise RunError(
                f"no deployment on {vms} VMs deployed any: choose one of {', '.join(map(str, sizes))}"
            )
        requested = sizes[-1] if vms is None else vms
        finished = finished[finished["requested"] == requested]
        label = labels.get(finished["deployment"].iloc[-1], "")
        own = finished[finished["deployment"].map(labels).fillna("") == label]
        compared = known.deployments[alike(known.deployments["fresh"], known.deployments["requested"])]
        among = [name for name in own["deployment"] if name in set(compared["deployment"])]
        if not among:
            raise RunError(
                f"the deployments on {requested} VMs skipped the first reboot, unlike others of this run:"
                f" deploy on {requested} once more"
            )
        data = breakdown_table(known, requested, among)
        title = f"Steps of a deployment on {count(requested, 'VM')}{f', {label}' if label else ''}, "
        height = 0.06 + 0.13 * len(data)
        number = count(len(among), "repetition")
        part = f"{f'{label}, ' if label else ''}{count(requested, 'VM')}, {number}"
        return self._draw(_breakdown, data, data, columns, height, title + number, part)

    def scalability(
        self,
        columns: int = 1,
        *,
        bound: Mapping[int, float] | None = None,
        prediction: Mapping[int, float] | None = None,
        statistic: Statistic = "median",
    ) -> Picture:
        """Total time of deployments against the number of VMs: one point per deployment, and a line through
        the medians (or means) with their 95 % bootstrap intervals.

        Sizes with fewer than five deployments have no interval (`g5kvirt.views.statistics.FEWEST`). The
        legend shows the number N of deployments; the data has ``n``, ``median``, ``ci_low`` and ``ci_high``.
        ``bound`` (number of VMs → seconds) is drawn as a lower bound, ``prediction`` as the result of a
        model; both are also columns of the data, with additional rows for sizes that were not measured. The
        default ``bound`` is the minimum time of the image transfer at the link rates in the testbed's
        inventory, without the VMs' computation. Deployments with different settings have separate lines.
        """
        shown = self._measured().scalability.copy()
        if shown.empty:
            raise RunError("no deployment has finished yet: there is no scalability curve")
        shown["series"] = shown["deployment"].map(series_of(self.frames)).fillna("")
        lines = {"bound": _transfer(shown) if bound is None else bound, "prediction": prediction or {}}
        word = "transfer bound" if bound is None else "bound"
        title = f"Deployment time against the number of VMs, {count(len(shown), 'deployment')}"
        return self._draw(
            lambda ax, rows: draw_scalability(ax, rows, **lines, bounded_by=word, statistic=statistic),
            shown,
            with_lines(with_summaries(shown, "vms", "total", statistic), lines),
            columns,
            1.6,
            title,
            ", ".join(filter(None, (*(_only(shown[key]) for key in _SETTINGS), prediction_note(prediction)))),
        )

    def _chosen(self, known: Measurements, of: str | None) -> str:
        """The deployment to show: ``of``, or the last one with the most VMs. Raises RunError."""
        name = of or largest(known)
        if name is None or name not in set(known.deployments["deployment"]):
            some = ", ".join(known.deployments["deployment"].iloc[:8])
            raise RunError(f"this run has no deployment {of!r}: it has {some}")
        return name

    def _series(self, name: str) -> str:
        """The settings in which the deployment differs from others of the run, for a title."""
        label = series_of(self.frames).get(name, "")
        return f" ({label})" if label else ""

    def _measured(self) -> Measurements:
        known = self.frames.measurements
        if known.deployments.empty:
            raise RunError("nothing has been deployed on the VMs yet: call measure() first")
        return known


def _only(values: pd.Series) -> str:
    """The value that they all have; empty if they differ."""
    known = [str(value) for value in dict.fromkeys(values)]
    return known[0] if len(known) == 1 else ""


def _transfer(shown: pd.DataFrame) -> dict[int, float]:
    """Number of VMs → the minimum time of the image transfer, where it is recorded."""
    known = shown.dropna(subset=["transfer_bound"]).groupby("vms")["transfer_bound"].min()
    return {int(size): float(seconds) for size, seconds in known.items()}  # type: ignore[call-overload]


# ---- drawing -----------------------------------------------------------------------------------------


def _deployment(ax: Axes, vms: pd.DataFrame, macros: list[str]) -> None:
    begun = vms["begun"].fillna(0.0).to_numpy()
    zero = np.zeros(len(vms))
    longest = float(np.nanmax(vms[[*map(column, macros), "gave_up"]].to_numpy()))
    lines, other = [], []
    left = begun if begun.max(initial=0.0) > 0.005 * longest else zero  # else too short to be seen
    if left is begun:
        other.append(Segment(zero, begun, COLOURS[PLANNED], "waiting"))
    for number, macro in enumerate(macros):
        right = vms[column(macro)].to_numpy()
        start = np.fmax(left, vms[f"{column(macro)}_begun"].to_numpy())
        late = ~np.isnan(right) & (start - left > 0.002 * longest)
        other.append(Segment(left, np.where(late, start, np.nan), _EARLIER, "earlier tries"))
        lines.append(Segment(np.where(late, start, left), right, macro_colour(number), macro))
        left = np.fmax(left, right)
    parts = [*lines, *other]
    lost = vms["gave_up"].notna().to_numpy()
    until = vms["gave_up"].to_numpy()
    parts.append(Segment(left, until, COLOURS[FAILED], f"failed ({int(lost.sum()):,})", alpha=0.35))
    draw_vm_timelines(
        ax,
        parts,
        lost,
        until,
        "time since the deployment began (s)",
        "VMs, by their start",
        names=vms["vm"].to_list(),
        per_row=3,
    )


def _breakdown(ax: Axes, rows: pd.DataFrame) -> None:
    span = float(rows["p95"].max()) or 1.0
    labels = []
    number = -1
    for y, row in enumerate(iter_rows(rows)):
        whole = row.step == ""
        number += whole
        colour = macro_colour(number)
        height = 0.68 if whole else 0.42
        ax.barh(
            y,
            row.median,
            height,
            color=colour,
            edgecolor=colour,
            linewidth=0.8,
            alpha=1.0 if whole else 0.6,
        )
        if row.p95 > row.median:
            ax.plot([row.median, row.p95], [y, y], color="black", linewidth=0.6, solid_capstyle="butt")
            ax.plot([row.p95], [y], "|", color="black", markersize=4 if whole else 3, markeredgewidth=0.6)
        ax.annotate(
            f"{seconds(row.median)} / {seconds(row.p95)}",
            (max(row.p95, row.median), y),
            xytext=(4, 0),
            textcoords="offset points",
            va="center_baseline",
            fontsize=7 if whole else 6,
        )
        labels.append(row.macro if whole else row.step.replace("-", " "))
    ax.set_yticks(range(len(rows)), labels)
    for tick, step in zip(ax.get_yticklabels(), rows["step"], strict=True):
        tick.set_fontsize(8 if step == "" else 6)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(0, span * (1.36 if narrow(ax) else 1.14))
    ax.set_xlabel("median / p95 over the VMs (s)")
    ax.grid(axis="x")
