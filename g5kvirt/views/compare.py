"""Comparison of runs: HTTP with TFTP, a chain with a tree, one window with another.

::

    from g5kvirt import compare

    both = compare("runs/http", "runs/tftp")            # labels: what differs between their specs
    both = compare(HTTP=["runs/a", "runs/b"], TFTP=exp)  # or your own labels; a list means repetitions
    both.boot(); both.steps(); both.scalability()
    both.differences().to_latex("paper/differences.tex")
    compare("runs/chain-and-tree").scalability()         # deployments that differ within one run
    compare(*Path("runs").glob("window-*")).over("windows.boot")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from g5kvirt.errors import RunError
from g5kvirt.spec.fields import show
from g5kvirt.views import html
from g5kvirt.views.compare_drawing import bar_pitch, draw_grouped, draw_over
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
from g5kvirt.views.curves import draw_scalability, draw_shares, prediction_note, with_lines
from g5kvirt.views.differences import differences_table
from g5kvirt.views.drawing import Drawer, FigureSource, Picture, seconds
from g5kvirt.views.formatting import count, duration
from g5kvirt.views.palette import guest_description
from g5kvirt.views.paper_table import PaperTable
from g5kvirt.views.repetitions import with_summaries
from g5kvirt.views.statistics import Statistic
from g5kvirt.views.style import is_predicted
from g5kvirt.views.tables import iter_rows

__all__ = ["Comparison", "compare"]


@runtime_checkable
class _HasPath(Protocol):
    """An experiment, or any other object with the directory of its run."""

    @property
    def path(self) -> Path: ...


Run = str | Path | _HasPath


def compare(*runs: Run | Mapping[str, Run | Sequence[Run]], **labelled: Run | Sequence[Run]) -> Comparison:
    """Compare runs, given as directories or experiments. Each is read once; call again for newer events.

    Labels are given as keywords or as a mapping; runs without a label are labelled with the differences
    between their specs, or between their deployments. A list of runs with one label means repetitions. Raises
    RunError if a run cannot be read, or without runs.
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
    raise RunError(
        f"{show(run)} is not a run",
        advice="give the directory of a run, or an experiment; those of a prediction are kept by g5kvirt"
        ' predict and by Experiment(…, testbed="simulated:2013")',
    )


class Comparison(Drawer):
    """Runs with their labels, and the figures that compare them.

    ``columns``, 1 or 2, is the width of a figure in columns of a two-column page. If these runs have no data
    for a figure, the method raises RunError.
    """

    def __init__(self, runs: Sequence[Labelled]) -> None:
        self.runs = tuple(runs)

    @property
    def labels(self) -> list[str]:
        """The labels, in the given order."""
        return list(dict.fromkeys(run.label for run in self.runs))

    @property
    def summary(self) -> PaperTable:
        """One row per run: number of VMs, time of the launch, median and p95 of the boots, deployments."""
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
        return PaperTable.of_times(rows, columns=[*head, "deployments", "deployed", "failed"])

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

        Includes all deployments on ``vms`` VMs, by default on the largest number that all series have.
        Deployments that skipped the first reboot are excluded if any series has others.
        """
        every = vms_table(self.runs)
        data, requested = self._of_size(every, "requested", vms)
        title = f"Deployment time on {count(requested, 'VM')}{_left_out(every, data)} by"
        part = f"deployments on {count(requested, 'VM')}"
        return self._shares(data, "series", columns, title, "time until deployed (s)", part)

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
            title, part = "Steps of the boots", "boots of all VMs"
        elif phase == "measure":
            every = macros_table(self.runs)
            data, requested = self._of_size(every, "requested", vms)
            part = f"deployments on {count(requested, 'VM')}"
            title = f"Macro-steps of {part}{_left_out(every, data)}"
        else:
            raise ValueError(f"phase must be 'launch' or 'measure', not {phase!r}")
        took = data.groupby(["step", "series"], sort=False)["seconds"]
        table = took.quantile(np.array([0.5, 0.95])).unstack().set_axis(["median", "p95"], axis=1)
        table.insert(0, "vms", took.size())
        table = table.reset_index()
        pitch = bar_pitch(table)
        height = 0.06 + sum(pitch * n + 0.09 for n in table.groupby("step", sort=False).size())
        return self._draw(draw_grouped, table, table, columns, height, title, part)

    def scalability(
        self,
        columns: int = 1,
        *,
        bound: Mapping[int, float] | None = None,
        prediction: Mapping[int, float] | None = None,
        statistic: Statistic = "median",
    ) -> Picture:
        """Total time of deployments against the number of VMs: one point per deployment, and for each series
        a line through the medians (or means) with their 95 % intervals.

        The arguments are those of `Figures.scalability`.
        """
        shown = curve_table(self.runs)
        if shown.empty:
            raise RunError("no deployment of these runs has finished yet: call measure() first")
        lines = {"bound": bound or {}, "prediction": prediction or {}}
        return self._draw(
            lambda ax, rows: draw_scalability(
                ax, rows, lines["bound"], lines["prediction"], statistic=statistic
            ),
            shown,
            with_lines(with_summaries(shown, "vms", "total", statistic), lines),
            columns,
            1.6,
            "Deployment time against the number of VMs",
            prediction_note(prediction),
        )

    def over(self, parameter: str, columns: int = 1, *, vms: int | None = None) -> Picture:
        """Duration of the launch against a numeric parameter such as "windows.boot": one point per run.

        With ``vms``, the duration of deployments on that many VMs. Runs in which the parameter was chosen
        automatically are shown as a horizontal line.
        """
        data = over_table(self.runs, parameter, vms)
        if data.empty:
            what = "launch" if vms is None else f"deployment on {count(vms, 'VM')}"
            raise RunError(f"no {what} of these runs has finished yet")
        what = "launch" if vms is None else "deployment"
        table = with_summaries(data, parameter, "seconds")
        title = f"Time of a {what} against {parameter}"
        return self._draw(
            lambda ax, rows: draw_over(ax, rows, parameter, what), data, table, columns, 1.5, title
        )

    def differences(
        self,
        *,
        reference: str | None = None,
        vms: int | None = None,
        statistic: Statistic = "median",
        of: Literal["deployment", "launch"] = "deployment",
    ) -> PaperTable:
        """The differences between the times of each series and of the ``reference`` (by default the first
        label): one row per series and number of VMs.

        Compares comparable deployments, or with ``of="launch"`` the launches of the runs. Columns: ``n`` and
        ``n_reference``, the sample sizes; ``difference`` in seconds with its 95 % bootstrap interval;
        ``ratio`` of the two statistics; ``effect``, Cliff's delta (-1 if every time is shorter than every
        time of the reference, 1 if every time is longer); ``p`` of the two-sided Mann-Whitney test;
        ``p_holm``, corrected for the number of rows. NaN if there are too few values: an interval needs five,
        and 3 against 3 are not tested. ``to_latex`` converts it for a paper. Raises RunError.
        """
        return differences_table(self.runs, reference, vms, statistic, of)

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

    def _shares(
        self, data: pd.DataFrame, by: str, columns: int, title: str, xlabel: str, part: str = ""
    ) -> Picture:
        groups = []
        models = {run.label for run in self.runs if run.predicted}
        predicted = set()
        for label, own in data.groupby(by, sort=False):
            took = own["seconds"]
            times = f"{seconds(float(took.median()))} / {seconds(float(took.quantile(0.95)))}"
            words = f"{label} (N = {len(took):,}): {times}"
            groups.append((words, took))
            if label in models or is_predicted(own):
                predicted.add(words)
        if not groups:
            raise RunError("no VM of these runs has reached this step yet")
        full = f"{title} {', '.join(map(str, dict.fromkeys(data[by])))}; median / p95 over the VMs (s)"
        return self._draw(
            lambda ax, _: draw_shares(ax, groups, xlabel, predicted), data, data, columns, 1.6, full, part
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
