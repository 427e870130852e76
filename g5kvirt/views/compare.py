"""Comparison of runs: HTTP with TFTP, a chain with a tree, one window with another.

::

    from g5kvirt import compare

    both = compare("runs/http", "runs/tftp")            # labels: what differs between their specs
    both = compare(HTTP=["runs/a", "runs/b"], TFTP=exp)  # or your own labels; a list means repetitions
    both.boot(); both.steps(); both.scalability()
    compare("runs/chain-and-tree").scalability()         # deployments that differ within one run
    compare(*Path("runs").glob("window-*")).over("windows.boot")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from g5kvirt.errors import RunError
from g5kvirt.views import html
from g5kvirt.views.compare_tables import (
    Labelled,
    boots_table,
    compared_only,
    curve_table,
    label_runs,
    macros_table,
    open_run,
    over_table,
    vms_table,
)
from g5kvirt.views.curves import draw_scalability, draw_shares, points, with_lines
from g5kvirt.views.drawing import Drawer, FigureSource, Picture, legend, narrow, seconds
from g5kvirt.views.formatting import count, duration
from g5kvirt.views.palette import LABELS, guest_description
from g5kvirt.views.style import is_predicted, series_style
from g5kvirt.views.tables import iter_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Comparison", "compare"]


@runtime_checkable
class _HasPath(Protocol):
    """An experiment, or any other object with the directory of its run."""

    @property
    def path(self) -> Path: ...


Run = str | Path | _HasPath

#: Key of the spec → the label of its axis; the label of other keys is the key.
_PARAMETERS = {
    "vms": "VMs",
    "windows.boot": "VMs that boot at once (windows.boot)",
    "windows.sleep": "pause between windows (s)",
    "vm.memory": "memory of a VM (MiB)",
    "services": "service machines",
}


def compare(*runs: Run | Mapping[str, Run | Sequence[Run]], **labelled: Run | Sequence[Run]) -> Comparison:
    """Compare runs: directories, or experiments. Each is read once; call again to include newer events.

    Positional runs are labelled by what differs between their specs, or between how they deploy (or a
    mapping has the labels); keywords are labels. A list of runs under one label means repetitions. Raises
    RunError for a run that cannot be read, or without runs.
    """
    found: list[Labelled] = []
    for one in runs:
        if isinstance(one, Mapping):
            found += _labelled(one)
        else:
            found.append(open_run(_directory(one), None))
    found += _labelled(labelled)
    if not found:
        raise RunError("there is nothing to compare: give at least one run")
    return Comparison(label_runs(found))


def _labelled(runs: Mapping[str, Run | Sequence[Run]]) -> list[Labelled]:
    found = []
    for label, value in runs.items():
        several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        found += [open_run(_directory(one), label) for one in several]
    return found


def _directory(run: object) -> Path:
    if isinstance(run, str | Path):
        return Path(run)
    if isinstance(run, _HasPath):
        return Path(run.path)
    raise RunError(f"{run!r} is not a run: give the directory of a run, or an experiment")


class Comparison(Drawer):
    """Runs with their labels, and the figures that compare them.

    Each figure takes ``columns``, 1 or 2, the width it fills on a page; without data in these runs it raises
    RunError.
    """

    def __init__(self, runs: Sequence[Labelled]) -> None:
        self.runs = tuple(runs)

    @property
    def labels(self) -> list[str]:
        """The labels, in the order in which they were given."""
        return list(dict.fromkeys(run.label for run in self.runs))

    @property
    def summary(self) -> pd.DataFrame:
        """One row per run: VMs, seconds of its launch, median and p95 of its boots, deployments."""
        rows = []
        for run in self.runs:
            account, vms, phases = run.frames.account, run.frames.vms, run.frames.phases
            launch = phases.loc[phases["phase"] == "launch", "duration"]
            boot = vms["t_minimal_system"].dropna()
            whole = run.frames.measurements.summary()
            figures = [boot.median(), boot.quantile(0.95)] if len(boot) else [float("nan")] * 2
            took = float(launch.iloc[-1]) if len(launch) else float("nan")
            numbers = [account.requested, account.up, account.failed, took, *figures]
            done = len(run.frames.measurements.deployments)
            rows.append([run.label, run.run, *numbers, done, whole.deployed, whole.failed])
        head = ["label", "run", "vms", "up", "given_up", "launch", "boot_median", "boot_p95"]
        return pd.DataFrame(rows, columns=[*head, "deployments", "deployed", "failed"])

    # ---- the figures ------------------------------------------------------------------------------

    def boot(self, columns: int = 1) -> Picture:
        """The cumulative distribution of boot times of each label; median and p95 in the legend."""
        data = boots_table(self.runs)
        if data.empty:
            raise RunError("no VM of these runs was powered on yet: call launch() first")
        total = data[data["step"] == "total"]
        return self._shares(
            total, "label", columns, "Boot time by", "from power-on to the minimal system (s)"
        )

    def deployment(self, columns: int = 1, *, vms: int | None = None) -> Picture:
        """The cumulative distribution of deployment times for each series.

        Over all deployments on ``vms`` VMs, by default on the largest number that all series have.
        Deployments that skipped the first reboot are left out if any series has others.
        """
        every = vms_table(self.runs)
        data, requested = self._of_size(every, "requested", vms)
        title = f"Deployment time on {count(requested, 'VM')}{_left_out(every, data)} by"
        return self._shares(data, "series", columns, title, "time until deployed (s)")

    def steps(
        self, columns: int = 1, *, phase: Literal["launch", "measure"] | None = None, vms: int | None = None
    ) -> Picture:
        """The steps of the boots, or the macro-steps of the deployments: medians, with lines up to the 95th
        percentile.

        ``phase`` is by default "measure" if each run has deployments, else "launch"; raises ValueError for
        others. ``vms`` as in `deployment`.
        """
        if phase is None:
            measured = all(len(run.frames.measurements.deployments) for run in self.runs)
            phase = "measure" if measured else "launch"
        if phase == "launch":
            data = boots_table(self.runs).rename(columns={"label": "series"})
            if data.empty:
                raise RunError("no VM of these runs was powered on yet: call launch() first")
            title = "Steps of the boots"
        elif phase == "measure":
            every = macros_table(self.runs)
            data, requested = self._of_size(every, "requested", vms)
            title = f"Macro-steps of deployments on {count(requested, 'VM')}{_left_out(every, data)}"
        else:
            raise ValueError(f"phase must be 'launch' or 'measure', not {phase!r}")
        took = data.groupby(["step", "series"], sort=False)["seconds"]
        table = took.quantile(np.array([0.5, 0.95])).unstack().set_axis(["median", "p95"], axis=1)
        table.insert(0, "vms", took.size())
        table = table.reset_index()
        pitch = _pitch(table)
        height = 0.06 + sum(pitch * n + 0.09 for n in table.groupby("step", sort=False).size())
        return self._draw(_grouped, table, table, columns, height, title)

    def scalability(
        self,
        columns: int = 1,
        *,
        bound: Mapping[int, float] | None = None,
        prediction: Mapping[int, float] | None = None,
    ) -> Picture:
        """Total time of deployments against their number of VMs: a line through the medians of each series.

        ``bound`` and ``prediction`` as in `Figures.scalability`.
        """
        shown = curve_table(self.runs)
        if shown.empty:
            raise RunError("no deployment of these runs has finished yet: call measure() first")
        lines = {"bound": bound or {}, "prediction": prediction or {}}
        return self._draw(
            lambda ax, rows: draw_scalability(ax, rows, lines["bound"], lines["prediction"]),
            shown,
            with_lines(shown, lines),
            columns,
            1.6,
            "Deployment time against the number of VMs",
        )

    def over(self, parameter: str, columns: int = 1, *, vms: int | None = None) -> Picture:
        """Time of the launch against a numeric parameter of the spec, such as "windows.boot", one point each.

        With ``vms`` the time of deployments on that many VMs. Runs in which the parameter was chosen
        automatically are a horizontal line.
        """
        data = over_table(self.runs, parameter, vms)
        if data.empty:
            what = "launch" if vms is None else f"deployment on {count(vms, 'VM')}"
            raise RunError(f"no {what} of these runs has finished yet")
        what = "launch" if vms is None else "deployment"
        title = f"Time of a {what} against {parameter}"
        return self._draw(lambda ax, rows: _over(ax, rows, parameter, what), data, data, columns, 1.5, title)

    def save(self, directory: str | Path) -> list[Path]:
        """Write every figure for which there is data, one column wide; returns the PDF files."""
        every: dict[str, Callable[[], Picture]] = {
            "compare-boot": self.boot,
            "compare-steps": lambda: self.steps(phase="launch"),
            "compare-deployment": self.deployment,
            "compare-macro-steps": lambda: self.steps(phase="measure"),
            "compare-scalability": self.scalability,
        }
        written = []
        for name, draw in every.items():
            try:
                picture = draw()
            except RunError:  # no data yet
                continue
            written.append(picture.save(Path(directory) / name)[0])
        return written

    # ---- display ----------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<Comparison of {count(len(self.runs), 'run')}: {', '.join(self.labels)}>"

    def _repr_html_(self) -> str:
        rows = []
        for row in iter_rows(self.summary):
            times = [duration(float(value)) for value in (row.launch, row.boot_median, row.boot_p95)]
            numbers = [f"{number:,}" for number in (row.up, row.vms)]
            rows.append([escape(row.label), escape(row.run), *numbers, *times, f"{row.deployments:,}"])
        head = ("label", "run", "up", "VMs", "launch", "boot median", "boot p95", "deployments")
        table = html.table(rows, head=head, numbers=range(2, len(head)))
        return html.box("comparison", self.source.description, [table])

    # ---- inside -----------------------------------------------------------------------------------

    @property
    def source(self) -> FigureSource:
        """The source of the figures."""

        def joined(values: list[str]) -> str:
            return " and ".join(dict.fromkeys(value for value in values if value))

        guests = joined([guest_description(run.guest) for run in self.runs])
        names = tuple(dict.fromkeys(run.run for run in self.runs))
        return FigureSource(names, joined([run.testbed for run in self.runs]), guests)

    def _shares(self, data: pd.DataFrame, by: str, columns: int, title: str, xlabel: str) -> Picture:
        groups = []
        models = {run.label for run in self.runs if run.predicted}
        predicted = set()
        for label, own in data.groupby(by, sort=False):
            took = own["seconds"]
            words = f"{label}: {seconds(float(took.median()))} / {seconds(float(took.quantile(0.95)))}"
            groups.append((words, took))
            if label in models or is_predicted(own):
                predicted.add(words)
        if not groups:
            raise RunError("no VM of these runs has reached this step yet")
        full = f"{title} {', '.join(map(str, dict.fromkeys(data[by])))}; median / 95 % of the VMs (s)"
        return self._draw(
            lambda ax, _: draw_shares(ax, groups, xlabel, predicted), data, data, columns, 1.6, full
        )

    def _of_size(self, data: pd.DataFrame, column: str, vms: int | None) -> tuple[pd.DataFrame, int]:
        """The comparable rows for ``vms`` VMs, by default the largest number that every series has. Raises
        RunError."""
        if data.empty:
            raise RunError("no deployment of these runs deployed any VM yet: call measure() first")
        every = sorted(set(data[column]))
        if vms is not None and vms not in every:
            raise RunError(
                f"no deployment on {vms} VMs deployed any: choose one of {', '.join(map(str, every))}"
            )
        compared = compared_only(data)
        sizes = [set(own) for _, own in compared.groupby("series")[column]]
        common = sorted(set.intersection(*sizes)) if sizes else []
        if vms is None and not common:
            raise RunError(f"no number of VMs was deployed in all series: choose one of {every} with vms=")
        requested = int(common[-1]) if vms is None else vms
        own = compared[compared[column] == requested]
        if own.empty:
            raise RunError(
                f"no deployments on {requested} VMs are comparable: some VMs skipped the first reboot;"
                f" deploy on {requested} once more"
            )
        return own.reset_index(drop=True), requested


def _left_out(data: pd.DataFrame, compared: pd.DataFrame) -> str:
    """For a title: the series that are missing because their VMs skipped the first reboot."""
    missing = [str(name) for name in dict.fromkeys(data["series"]) if name not in set(compared["series"])]
    return f" (left out, first reboot skipped: {', '.join(missing)})" if missing else ""


# ---- drawing -----------------------------------------------------------------------------------------


def _grouped(ax: Axes, rows: pd.DataFrame) -> None:
    """For each step one bar per series, below each other."""
    names = list(dict.fromkeys(rows["series"]))
    style: dict[str, dict[str, Any]] = {name: series_style(number) for number, name in enumerate(names)}
    hatches = ("", "////", "....", "\\\\\\\\", "xxxx", "----")
    hatch = {name: hatches[number % len(hatches)] for number, name in enumerate(names)}
    pitch = _pitch(rows)
    y, ticks, labels = 0.0, [], []
    for step, group in rows.groupby("step", sort=False):
        ticks.append(y + pitch / 2 * (len(group) - 1))
        labels.append(LABELS.get(str(step), str(step)))
        for row in iter_rows(group):
            colour = style[row.series]["color"]
            ax.barh(
                y,
                row.median,
                0.85 * pitch,
                color=colour,
                hatch=hatch[row.series],
                edgecolor="white",
                linewidth=0,
            )
            if row.p95 > row.median:
                ax.plot([row.median, row.p95], [y, y], color="black", linewidth=0.6, solid_capstyle="butt")
            ax.annotate(
                f"{seconds(row.median)} / {seconds(row.p95)}",
                (max(row.p95, row.median), y),
                xytext=(3, 0),
                textcoords="offset points",
                va="center_baseline",
                fontsize=5.5,
            )
            y += pitch
        y += 0.09
    ax.set_yticks(ticks, labels)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(y - 0.09 - 0.02, -0.08)
    ax.set_xlim(0, 1.3 * float(rows[["median", "p95"]].to_numpy().max()) or 1.0)
    ax.set_xlabel("time of a VM in the step (s): median / 95 %")
    ax.grid(axis="x")
    entries = [
        Patch(facecolor=style[name]["color"], hatch=hatch[name], edgecolor="white", linewidth=0, label=name)
        for name in names
    ]
    wide = max(map(len, names)) > 16
    legend(ax, entries, (2 if wide else 3) if narrow(ax) else 5)


def _pitch(rows: pd.DataFrame) -> float:
    """Inches from one bar of `_grouped` to the next."""
    return 0.1 if rows["series"].nunique() <= 4 else 0.085


def _over(ax: Axes, rows: pd.DataFrame, parameter: str, what: str) -> None:
    chosen, given = rows[rows[parameter].isna()], rows[rows[parameter].notna()]
    entries = points(ax, given, parameter, "seconds") if len(given) else []
    if len(chosen):
        took = float(chosen["seconds"].median())
        ax.axhline(took, color="black", linestyle="--", linewidth=0.9, zorder=1)
        entries.append(Line2D([], [], color="black", linestyle="--", linewidth=0.9, label="automatic"))
    values = sorted(set(given[parameter]))
    ax.set_xlim(0, 1.08 * values[-1] if values and values[-1] > 0 else 1.0)
    if 0 < len(values) <= 8:
        ax.set_xticks(values)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_ylim(0, 1.1 * float(rows["seconds"].max()) or 1.0)
    ax.set_xlabel(_PARAMETERS.get(parameter, parameter))
    ax.set_ylabel(f"time of the {what} (s)")
    ax.grid()
    legend(ax, entries, 3)
