"""The figures of a run: vector PDF, PNG, and the numbers behind each as CSV.

::

    figures = experiment.figures                  # or Figures.open("runs/first")
    figures.boot()                                # a notebook displays it
    figures.boot(columns=2).save("paper/boot")    # paper/boot.pdf, .png and .csv
    figures.scalability(bound={4: 12.5, 16: 50})  # a lower bound, if one is known
    figures.of(table, x="vms", y="mbit_per_s")    # your own table in the same style
    figures.map(by="boot")                        # every host and VM, coloured by its boot time
    figures.save("runs/first/figures")            # all for which there is data

The footer of every figure names the run, the testbed and the kind of guest, and says if it is a prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from g5kvirt.errors import RunError
from g5kvirt.run.vocabulary import BOOT_STEPS, FAILED
from g5kvirt.views.compare_tables import open_run
from g5kvirt.views.drawing import (
    Picture,
    Segment,
    draw_vm_timelines,
    legend,
    narrow,
    seconds,
    vm_timelines_height,
)
from g5kvirt.views.formatting import count, duration
from g5kvirt.views.load_figures import LoadFigures
from g5kvirt.views.maps import MAPS, By, draw_map, lay_out
from g5kvirt.views.outcome_figures import OutcomeFigures
from g5kvirt.views.palette import COLOURS, LABELS
from g5kvirt.views.spread import draw_steps, steps_height
from g5kvirt.views.style import PREDICTED, is_predicted
from g5kvirt.views.tables import (
    COLUMN,
    boot_table,
    durations_table,
    iter_rows,
    map_table,
    quantiles,
    steps_table,
    timeline_table,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Figures", "Picture"]


class Figures(OutcomeFigures, LoadFigures):
    """The figures of one run.

    ``columns``, 1 or 2, is the width of a figure in columns of a two-column page. If the run has no data for
    a figure yet, the method raises RunError, which names the phase to call first.
    """

    @classmethod
    def open(cls, directory: str | Path) -> Figures:
        """The figures of the run in ``directory``, opened read-only. Raises RunError."""
        one = open_run(Path(directory), None)
        return cls(one.frames, run=one.run, testbed=one.testbed, guest=one.frames.guest)

    def __repr__(self) -> str:
        state = self.frames.state
        there = ["timeline"] if any(phase.tries for phase in state.phases.values()) else []
        if any(vm.boots for vm in state.vms.values()):
            there += ["boot", "distribution", "steps", "map"]
        if state.deployments:
            there += ["deployment", "breakdown", "nodes", "scalability"]
        shown = ", ".join(there) or "none yet, as no phase has started"
        return f"<{type(self).__name__} of {self.source.description}: {shown}; save(…) writes all>"

    def timeline(self, columns: int = 1) -> Picture:
        """A timeline of the phases of the experiment; with two columns also the parts of each phase."""
        data = timeline_table(self.frames)
        if data.empty:
            raise RunError("no phase has started yet: call reserve() first")
        shown = data if columns == 2 else data[data["part"] == ""]
        lines = len(shown.groupby(["phase", "part"]))
        return self._draw(_timeline, shown, data, columns, 0.06 + 0.17 * lines, "Steps of the experiment")

    def boot(self, columns: int = 1) -> Picture:
        """The boot of every VM from power-on to the minimal system, one line per VM."""
        data = self._vms()
        return self._draw(
            _boot, data, data, columns, vm_timelines_height(len(data)), f"Boot of {count(len(data), 'VM')}"
        )

    def distribution(self, columns: int = 1) -> Picture:
        """The cumulative distribution of the time of each step over the VMs; median and p95 in the legend."""
        self._vms()
        data = durations_table(self.frames)
        if data.empty:
            raise RunError("no VM has reached its first step yet: there is no distribution")
        title = f"Time of each step over {count(data['name'].nunique(), 'VM')}"
        return self._draw(_distribution, data, data, columns, 1.6, title)

    def steps(self, columns: int = 1) -> Picture:
        """The distribution of the time of every step over the VMs: of the boot and of all deployments.

        Boxes extend from the 25th to the 75th percentile, lines from the 5th to the 95th, with a mark at the
        median; with few VMs there is also one point per VM.
        """
        self._vms()
        data = steps_table(self.frames)
        if data.empty:
            raise RunError("no VM has reached its first step yet: there is no distribution")
        number = len(data[["macro", "step"]].drop_duplicates())
        title = f"Distribution of {count(number, 'step')} over {count(data['name'].nunique(), 'VM')}"
        return self._draw(draw_steps, data, data, columns, steps_height(number), title)

    def map(self, columns: int = 1, *, by: By = "state") -> Picture:
        """Every site, its hosts and their VMs, one cell per VM.

        The colour of a cell shows the VM's ``"state"``, its ``"group"``, or the time of its ``"boot"`` or its
        last ``"deployment"`` (five classes with equal numbers of VMs). Raises ValueError for another ``by``.
        """
        if by not in MAPS:
            raise ValueError(f"by must be {' or '.join(map(repr, MAPS))}, not {by!r}")
        data = map_table(self.frames)
        vms = int((data["name"] != "").sum())
        if not vms:
            raise RunError("no VM has been placed yet: call place() first")
        if by == "group" and "group" not in data:
            raise RunError("the specification has no groups: there is no map by group")
        if by in ("boot", "deployment") and data[by].isna().all():
            needed = "launch" if by == "boot" else "measure"
            raise RunError(f"no VM has a {by} time yet: call {needed}() first")
        plan = lay_out(data, columns)
        title = f"{count(vms, 'VM')} on {count(data['host'].nunique(), 'host')}, by {by}"
        return self._draw(
            lambda ax, rows: draw_map(ax, rows, plan, by), data, data, columns, plan.height, title
        )

    def save(
        self,
        directory: str | Path,
        *,
        bound: Mapping[int, float] | None = None,
        prediction: Mapping[int, float] | None = None,
    ) -> list[Path]:
        """Write every figure for which there is data, one column wide; returns the PDF files.

        ``bound`` and ``prediction`` as in `scalability`.
        """
        every: dict[str, Callable[[], Picture]] = {
            "timeline": self.timeline,
            "boot": self.boot,
            "distribution": self.distribution,
            "deployment": self.deployment,
            "breakdown": self.breakdown,
            "nodes": self.nodes,
            "scalability": lambda: self.scalability(bound=bound, prediction=prediction),
            "broadcast": self.broadcast,
            "steps": self.steps,
            "map": self.map,
            "load": self.load,
            "load-links": lambda: self.load(of="links"),
        }
        if self.frames.measurements.deployments["failed"].any():
            every["failures"] = self.failures
        written = []
        for name, draw in every.items():
            try:
                picture = draw()
            except RunError:  # no data yet
                continue
            written.append(picture.save(Path(directory) / name)[0])
        return written

    def _vms(self) -> pd.DataFrame:
        data = boot_table(self.frames)
        if data["power_on"].isna().all():
            raise RunError("no VM has been powered on yet: call launch() first")
        return data


# ---- drawing -----------------------------------------------------------------------------------------


def _timeline(ax: Axes, rows: pd.DataFrame) -> None:
    span = float(rows["end"].max()) or 1.0
    labels: list[tuple[str, int]] = []
    for y, (name, calls) in enumerate(rows.groupby(["phase", "part"], sort=False)):
        phase, part = map(str, cast(tuple[str, str], name))
        whole = part == ""
        # Every bar has an edge, so that even a phase of a tenth of a second can be seen.
        height = 0.62 if whole else 0.36
        for call in iter_rows(calls):
            colour = COLOURS[FAILED] if call.status == "failed" else COLOURS["initrd" if whole else "kernel"]
            ax.barh(y, call.duration, height, call.start, color=colour, edgecolor=colour, linewidth=0.8)
        first, last = float(calls["start"].min()), calls.iloc[-1]
        words = duration(calls["duration"].sum())
        words += f" in {len(calls)} calls" if len(calls) > 1 else ""
        words += " (failed)" if last["status"] == "failed" else ""
        # After or before the bars if there is room, else inside, at their end.
        at, shift, side, ink = float(last["end"]), 3, "left", "black"
        if at > 0.75 * span:
            if first > 0.3 * span:
                at, shift, side = first, -3, "right"
            else:
                shift, side, ink = -3, "right", "white" if whole and len(calls) == 1 else "black"
        ax.annotate(
            words,
            (at, y),
            xytext=(shift, 0),
            textcoords="offset points",
            va="center_baseline",
            ha=side,
            color=ink,
            fontsize=7 if whole else 6,
            # on top of the bars of several calls and the gaps between them
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6} if len(calls) > 1 else None,
        )
        n = int(last["n"])
        what = part.replace("-", " ") + (f" × {n:,}" if n > 1 else "")
        labels.append((phase, 8) if whole else (what, 6))
    ax.set_yticks(range(len(labels)), [words for words, _ in labels])
    for tick, (_, size) in zip(ax.get_yticklabels(), labels, strict=True):
        tick.set_fontsize(size)
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    ax.set_xlim(0, span * 1.02)
    ax.set_xlabel("time since the run began (s)")
    ax.grid(axis="x")


def _boot(ax: Axes, vms: pd.DataFrame) -> None:
    edges = [vms["requested"].fillna(vms["power_on"]), *(vms[column] for column in COLUMN.values())]
    parts = [
        Segment(left.to_numpy(), right.to_numpy(), COLOURS[step], LABELS[step])
        for step, left, right in zip(BOOT_STEPS, edges, edges[1:], strict=False)
    ]
    # For a VM that was given up: the last milestone, and the time waited after that.
    lost = vms["gave_up"].notna().to_numpy()
    reached, until = pd.concat(edges, axis=1).max(axis=1).to_numpy(), vms["gave_up"].to_numpy()
    words = f"given up ({int(lost.sum()):,})"
    parts.append(Segment(reached, until, COLOURS[FAILED], words, alpha=0.35))
    names = vms["name"].to_list()
    draw_vm_timelines(ax, parts, lost, until, "time since launch began (s)", "VMs, by power-on", names=names)


def _distribution(ax: Axes, data: pd.DataFrame) -> None:
    table = quantiles(data)
    for step in table.index:
        values = np.sort(data.loc[data["step"] == step, "seconds"].to_numpy())
        share = np.arange(1, len(values) + 1) / len(values)
        total = step == "total"
        row = table.loc[step]
        label = f"{'total' if total else LABELS[step]}: {seconds(row['median'])} / {seconds(row['q95'])}"
        ax.step(
            np.concatenate(([values[0]], values)),
            np.concatenate(([0.0], share)),
            where="post",
            color="black" if total else COLOURS[step],
            linewidth=1.8 if total else 1.2,
            linestyle=PREDICTED if is_predicted(data) else "-",
            label=label,
        )
    shortest, longest = float(data["seconds"].min()), float(data["seconds"].max())
    if shortest > 0 and longest / shortest > 30:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        ax.set_xlim(left=0)
    ax.set_ylim(0, 1.02)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    ax.set_xlabel("duration of the step (s)")
    ax.set_ylabel("VMs")
    ax.grid()
    legend(ax, ax.get_lines(), 2 if narrow(ax) else 3, "median / p95 over the VMs (s)")
