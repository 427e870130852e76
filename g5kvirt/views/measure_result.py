"""The result of `measure`: a row per VM and deployment, the summary, and how it displays itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from html import escape

import pandas as pd

from g5kvirt.run.deployment_tables import Measurements, Summary, alike
from g5kvirt.run.events import Event
from g5kvirt.run.load_tables import shared_words
from g5kvirt.run.tables import Frames
from g5kvirt.run.vocabulary import DEPLOYED, FAILED, PLANNED
from g5kvirt.views import html
from g5kvirt.views.formatting import count, duration
from g5kvirt.views.measure_tables import breakdown_table, sizes_table
from g5kvirt.views.paper_table import PaperTable
from g5kvirt.views.progress import phase_title, result_lines
from g5kvirt.views.tables import iter_rows

__all__ = ["MeasureResult", "measure_facts"]

_REASONS = 4  #: reasons that are shown in text


class MeasureResult:
    """The deployments of one call of `measure`, or of a whole run.

    ``source``: the run's `Frames`, or its events. ``deployments``: the names of those to include; None: all.
    Names that are not in the journal, such as those of deployments that never started, are ignored.
    """

    phase = "measure"

    def __init__(
        self,
        source: Frames | Iterable[Event],
        *,
        run: str,
        testbed: str,
        guest: str = "",
        deployments: Collection[str] | None = None,
    ) -> None:
        self.run = run
        self.testbed = testbed
        self.guest = guest
        frames = source if isinstance(source, Frames) else Frames(source)
        every = frames.measurements
        self.measurements = every if deployments is None else every.only(deployments)
        self.state = frames.state.phases["measure"]  #: the state of `measure` in the whole run
        self._load = frames.load

    # ---- the numbers ------------------------------------------------------------------------------

    @property
    def frame(self) -> pd.DataFrame:
        """One row per VM and deployment: each step's start, end, duration, attempt and outcome.

        See `g5kvirt.run.deployment_tables.Measurements.vms`.
        """
        return self.measurements.vms

    @property
    def attempts(self) -> pd.DataFrame:
        """One row per VM, deployment, step and attempt, including failed attempts."""
        return self.measurements.attempts

    @property
    def deployments(self) -> pd.DataFrame:
        """One row per deployment: ``requested``, ``deployed``, ``failed``, ``unfinished``, times."""
        return self.measurements.deployments

    @property
    def scalability(self) -> pd.DataFrame:
        """One row per finished deployment: time against number of VMs."""
        return self.measurements.scalability

    @property
    def sizes(self) -> PaperTable:
        """One row per environment, broadcast method, provisioner and number of VMs: VMs by outcome,
        and median times over the comparable deployments (``compared`` of ``times``; see
        `g5kvirt.run.deployment_tables.alike`). ``to_latex`` converts it for a paper."""
        return PaperTable.of_times(sizes_table(self.measurements))

    @property
    def parts(self) -> PaperTable:
        """One row per macro-step (with an empty ``step``) and per step, over the deployed VMs. ``to_latex``
        converts it for a paper."""
        return PaperTable.of_times(breakdown_table(self.measurements))

    @property
    def summary(self) -> Summary:
        """The numbers of all deployments together: deployed and failed VMs, reasons, total time, median and
        95th percentile of each macro-step."""
        return self.measurements.summary()

    @property
    def failures(self) -> pd.DataFrame:
        """One row per failed VM and deployment: ``failed_macro``, ``failed_at``, ``reason``, ``last_report``,
        and ``console``, the file with the end of its serial console (relative to the run's directory)."""
        table = self.frame
        columns = [
            "deployment",
            "vm",
            "failed_macro",
            "failed_at",
            "reason",
            "last_report",
            "console",
            "attempts",
        ]
        return table.loc[table["outcome"] == "failed", columns].reset_index(drop=True)

    @property
    def status(self) -> str:
        """``ok`` (some VMs may have failed), ``failed`` (all VMs failed), ``unfinished`` or ``waiting``."""
        return _status(self.measurements)

    @property
    def seconds(self) -> float:
        """The total time of all calls of `measure`; NaN if the last one has not ended."""
        return self.state.seconds()

    @property
    def tries(self) -> int:
        """The number of calls of `measure` in this run."""
        return len(self.state.tries)

    @property
    def facts(self) -> dict[str, str]:
        """The results as text: name → value."""
        facts = measure_facts(self.measurements)
        times = self.deployments[["start", "end"]]
        shared = (
            shared_words(self._load, self.phase, times["start"].min(), times["end"].max()) if facts else ""
        )
        return facts | ({"disturbed": shared} if shared else {})

    # ---- display ----------------------------------------------------------------------------------

    def __repr__(self) -> str:
        lines = result_lines(self._title, self.run, self.facts, predicted=self.measurements.predicted)
        head, rows = _sizes_cells(self.sizes)
        if len(rows) > 1:
            lines += ["", *_aligned([head, *rows])]
        return "\n".join(lines)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        whole = self.summary
        counts = {DEPLOYED: whole.deployed, PLANNED: whole.unfinished, FAILED: whole.failed}
        facts = [
            [escape(name), escape(value)]
            for name, value in self.facts.items()
            if not name.startswith("failed")
        ]
        head, rows = _sizes_cells(self.sizes)
        parts = [html.table(facts)]
        if whole.requested:
            parts += [
                html.counts_bar({state: n for state, n in counts.items() if n}, whole.requested),
                html.table(
                    [[escape(cell) for cell in row] for row in rows], head=head, numbers=range(len(head))
                ),
                _parts_table(self.parts),
                html.failures(whole),
            ]
        subtitle = f"run {self.run}, {html.about(self.testbed, self.guest)}"
        return html.box(self._title, subtitle, parts)

    @property
    def _title(self) -> str:
        return phase_title(self.phase, self.status, self.seconds, self.tries)


def _status(measurements: Measurements) -> str:
    whole = measurements.summary()
    if measurements.deployments.empty:
        return "waiting"
    if whole.unfinished or pd.isna(whole.total):
        return "unfinished"
    return "ok" if whole.deployed else "failed"


def measure_facts(measurements: Measurements) -> dict[str, str]:
    """Deployments as text, name → value: what was deployed, what failed and why, how long it took."""
    known = measurements.deployments
    if known.empty:
        return {}
    whole = measurements.summary()
    named = [name for name in dict.fromkeys(known["environment"]) if name]
    sizes = ", ".join(f"{size:,}" for size in sorted(set(known["requested"])))
    on = f"on {sizes} {'VM' if sizes == '1' else 'VMs'}"
    of = f" of {', '.join(named)}" if named else ""
    facts = {"deployments": f"{len(known):,}{of} {on}"}
    if not pd.isna(whole.total):
        facts["deployments"] += f", in {duration(whole.total)}"
    facts["deployed"] = f"{whole.deployed:,} of {count(whole.requested, 'VM')}"
    skipped = int((~alike(known["fresh"], known["requested"])).sum())
    if skipped:
        are = "is" if skipped == 1 else "are"
        facts["not compared"] = (
            f"{count(skipped, 'deployment')} skipped the first reboot and {are} left out of the times below"
        )
    if len(known) > 1:
        facts["deployed"] += ", over all deployments"
    if whole.failed:
        see = {key: f" (see {file})" for key, file in whole.consoles.items()}
        reasons = [
            f"{number:,} at {key[0]}: {key[1]}{see.get(key, '')}" for key, number in whole.reasons.items()
        ]
        more = [f"and {count(len(reasons) - _REASONS, 'other reason')}"] if len(reasons) > _REASONS else []
        facts["failed"] = "; ".join([*reasons[:_REASONS], *more])
    if whole.unfinished:
        facts["unfinished"] = f"{whole.unfinished:,}"
    for macro, (median, p95) in whole.macros.items():
        if not pd.isna(median):
            facts[macro] = f"median {duration(median)}, p95 {duration(p95)}"
    return facts


def _sizes_cells(sizes: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The headings and the cells of the table of sizes."""
    several = [name for name in ("environment", "broadcast", "provisioner") if sizes[name].nunique() > 1]
    left_out = bool((sizes["compared"] < sizes["times"]).any())
    head = [
        *several,
        "VMs",
        "deployments",
        *(["compared"] if left_out else []),
        "deployed",
        "failed",
        "total time",
        "median per VM",
        "p95 per VM",
    ]
    rows = []
    for row in iter_rows(sizes):
        numbers = [f"{row.vms:,}", f"{row.times:,}"]
        numbers += [*([f"{row.compared:,}"] if left_out else []), f"{row.deployed:,}", f"{row.failed:,}"]
        times = [duration(float(value)) for value in (row.total, row.median_vm, row.p95_vm)]
        rows.append([*(str(getattr(row, name)) for name in several), *numbers, *times])
    return head, rows


def _aligned(rows: list[list[str]]) -> list[str]:
    """The rows as lines: columns right-aligned, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows
    ]


def _parts_table(parts: pd.DataFrame) -> str:
    rows = []
    for part in iter_rows(parts):
        name = escape(part.step.replace("-", " "))
        shown = f"<b>{escape(part.macro)}</b>" if part.step == "" else f"&emsp;{name}"
        times = [duration(float(value)) for value in (part.median, part.p95, part.max)]
        rows.append([shown, f"{part.vms:,}", *times])
    return html.table(rows, head=("step", "VMs", "median", "p95", "max"), numbers=(1, 2, 3, 4))
