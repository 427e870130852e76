"""How the series of a comparison differ: difference, interval, effect, test. No matplotlib here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pandas as pd

from g5kvirt.errors import RunError
from g5kvirt.views.compare_tables import Labelled, curve_table
from g5kvirt.views.paper_table import PaperTable
from g5kvirt.views.repetitions import comparable
from g5kvirt.views.statistics import Statistic, compare_samples, holm, interval

__all__ = ["differences_table"]

_HEAD = ("of", "vms", "series", "reference", "n", "n_reference")
_TAIL = ("difference", "ci_low", "ci_high", "ratio", "effect", "p", "p_holm")


def differences_table(
    runs: Sequence[Labelled],
    reference: str | None,
    vms: int | None,
    statistic: Statistic,
    of: Literal["deployment", "launch"],
) -> PaperTable:
    """One row per number of VMs and series other than the ``reference`` (None: the first); see
    `Comparison.differences`. Raises RunError.
    """
    rows, order = _times(runs, of)
    names = [name for name in dict.fromkeys(order) if name in set(rows["series"])]
    if len(names) < 2:
        raise RunError(
            f"there is nothing to compare: all {of} times are of one series", advice="give runs that differ"
        )
    first = names[0] if reference is None else reference
    if first not in names:
        raise RunError(f"there is no series {first!r}", advice=f"choose one of {', '.join(names)}")
    found = []
    for size in sorted(set(rows["vms"])):
        if vms is not None and size != vms:
            continue
        own = rows[rows["vms"] == size]
        base = own.loc[own["series"] == first, "seconds"].to_numpy(dtype=float)
        for name in names:
            took = own.loc[own["series"] == name, "seconds"].to_numpy(dtype=float)
            if name == first or not len(took) or not len(base):
                continue
            one = compare_samples(took, base, statistic)
            value, other = interval(took, statistic).value, interval(base, statistic).value
            values = [of, int(size), name, first, len(took), len(base), value, other]
            found.append([*values, one.difference, one.low, one.high, value / other, one.effect, one.p, 0.0])
    if not found:
        raise RunError(
            "no number of VMs was measured in two series", advice="deploy on the same sizes in each"
        )
    table = PaperTable.of_times(found, columns=[*_HEAD, statistic, f"{statistic}_reference", *_TAIL])
    table["p_holm"] = holm(table["p"].to_list())
    return table


def _times(runs: Sequence[Labelled], of: str) -> tuple[pd.DataFrame, list[str]]:
    """``series``, ``vms`` and ``seconds`` of every comparable deployment, or of every launch; and the series
    in their order, those included that are not compared."""
    if of == "deployment":
        curve = curve_table(runs)
        if curve.empty:
            raise RunError("no deployment of these runs has finished yet: call measure() first")
        return curve[comparable(curve)].rename(columns={"total": "seconds"}), list(curve["series"])
    if of == "launch":
        found = [
            (run.label, len(run.frames.vms), float(took))
            for run in runs
            for took in run.frames.phases.loc[run.frames.phases["phase"] == "launch", "duration"]
            .dropna()
            .tail(1)
        ]
        if not found:
            raise RunError("no launch of these runs has finished yet: call launch() first")
        return pd.DataFrame(found, columns=["series", "vms", "seconds"]), [run.label for run in runs]
    raise ValueError(f"of must be 'deployment' or 'launch', not {of!r}")
