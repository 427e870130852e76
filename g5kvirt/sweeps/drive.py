"""Runs a sweep: one virtual cluster after the other, each combination once, resuming after an interruption.

A sweep is saved in ``runs/NAME``: one run per virtual cluster, ``index.csv`` (the run and the deployments of
each combination) and ``sweeper``, where execo_engine's ParamSweeper records which combinations are done.
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from g5kvirt.errors import G5kvirtError, RunError
from g5kvirt.experiment import Experiment
from g5kvirt.run import directory, file_lock
from g5kvirt.run.virtual_time import is_virtual
from g5kvirt.run.vocabulary import PHASES
from g5kvirt.sweeps.plan import Combination, Sweep

__all__ = ["INDEX", "SweepOutcome", "carry_out", "finished", "read_index", "sweep_folder"]

INDEX = "index.csv"
_ABOUT = "sweep.json"
_SWEEPER = "sweeper"
_RESULT = (
    "run",
    "deployments",
    "state",
    "asked",
    "ok",
    "failed",
    "seconds",
    "begun",
    "ended",
    "reason",
    "id",
)
_SAFETY = 1.5  #: a measurement may take this much longer than those before it

T = TypeVar("T")
Report = Callable[[str], None]
#: ``display(experiment)`` shows its progress while its ``with`` block lasts.
Display = Callable[[Any], AbstractContextManager[object]]


@dataclass(frozen=True)
class SweepOutcome:
    """Numbers of combinations: ``failed`` in this call, ``left`` all that are not done."""

    done: int
    failed: int
    left: int


def sweep_folder(sweep: Sweep, root: Path) -> Path:
    """Where the sweep is kept. Raises RunError if there is a run of that name."""
    folder = root / sweep.name
    if (folder / "run.json").exists():
        raise RunError(f"{sweep.name!r} is already a run in {root}: give the sweep another name")
    return folder


def finished(sweep: Sweep, folder: Path) -> set[str]:
    """The keys of the combinations that are done."""
    if not (folder / _SWEEPER / "done").exists():
        return set()
    return set(_sweeper(sweep, folder).get_done())


def carry_out(
    sweep: Sweep,
    folder: Path,
    *,
    report: Report = print,
    display: Display = lambda _: nullcontext(),
    experiment: Any = Experiment,
) -> SweepOutcome:
    """Do what is not done yet.

    A combination that fails is reported and left for the next call, and its virtual cluster is given back; so
    is a cluster whose remaining walltime is too short for the next combination. Whatever ends this call, the
    machines are given back first. ``experiment`` replaces the class `Experiment` in tests. Raises RunError,
    also if another process works on the sweep; TestbedError if machines could not be given back.
    """
    with _SweepProgress(sweep, folder) as progress:
        _release_killed(sweep, folder, report, experiment)
        while (combination := progress.take()) is not None:
            _on_a_cluster(combination, sweep, progress, report, display, experiment)
        return progress.outcome()


def read_index(folder: Path) -> list[dict[str, str]]:
    """The rows of the index, empty if there is none. Raises RunError if it cannot be read."""
    path = folder / INDEX
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            head, rows = reader.fieldnames or (), list(reader)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise RunError(f"{path} cannot be read ({error}): repair it or move it away") from error
    if "id" not in head or any(None in row or None in row.values() for row in rows):
        raise RunError(f"{path} was changed and cannot be continued: repair it or move it away")
    return rows


def _on_a_cluster(
    combination: Combination,
    sweep: Sweep,
    progress: _SweepProgress,
    report: Report,
    display: Display,
    experiment: Any,
) -> None:
    """Launch a virtual cluster for ``combination``, and measure on it all combinations that share it."""
    name = progress.next_run_name()
    report(f"virtual cluster {name} for {combination}")
    begun = time.time()
    try:
        one = experiment(combination.spec, testbed=sweep.testbed, name=name, runs=progress.folder)
    except G5kvirtError as error:
        progress.fail_cluster(combination, "", str(error), begun)
        report(f"  failed: {error}")
        return
    with one, display(one):
        try:
            for phase in (p for p in PHASES if p != "measure"):
                getattr(one, phase)()
        except G5kvirtError as error:
            progress.fail_cluster(combination, name, str(error), begun)
            report(f"  failed: {error}")
            return
        slowest = 0.0  # seconds per deployment
        current: Combination | None = combination
        while current is not None:
            if not _fits(one, current, slowest):
                progress.put_back(current)
                report("  the remaining walltime is too short: continuing on a new virtual cluster")
                return
            began = time.time()
            if not _measure(
                one, current, progress, name, begun if current.measure is None else began, report
            ):
                return
            slowest = max(slowest, (time.time() - began) / max(1, current.deployments))
            current = progress.take(current.cluster)


def _measure(
    one: Any, combination: Combination, progress: _SweepProgress, name: str, begun: float, report: Report
) -> bool:
    """Measure one combination and record its outcome; False if it failed."""
    if combination.measure is None:
        account = one.frames.account
        progress.done(combination, name, begun, (), account.requested, account.up, account.failed)
        report(f"  launched: {account.up:,} of {account.requested:,} VMs are up")
        return True
    report(f"  {combination}")
    try:
        table = one.measure(**combination.measure).deployments
    except G5kvirtError as error:
        progress.fail(combination, name, str(error), begun)
        report(f"  failed: {error}")
        return False
    sums = [int(table[column].sum()) for column in ("requested", "deployed", "failed")]
    progress.done(combination, name, begun, list(table["deployment"]), *sums)
    report(f"  deployed {sums[1]:,} of {sums[0]:,} VMs in {time.time() - begun:.0f} s")
    return True


def _fits(one: Any, combination: Combination, slowest: float) -> bool:
    """False if the walltime would probably end during the measurement."""
    if not slowest or (granted := one.reservation) is None or is_virtual(granted.start):
        return True
    left = granted.start + granted.walltime - time.time()
    return bool(left > _SAFETY * slowest * combination.deployments)


def _release_killed(sweep: Sweep, folder: Path, report: Report, experiment: Any) -> None:
    """Give back the machines that an earlier process held when it was killed."""
    for run in directory.list_runs(folder):
        if run.document.get("testbed") != sweep.testbed:
            continue
        one = experiment.open(run.path)
        try:
            held = len(one.journal)
            one.release()
            if len(one.journal) > held:
                report(f"released virtual cluster {run.name}, left over from a killed process")
        finally:
            one.journal.close()


def _sweeper(sweep: Sweep, folder: Path) -> Any:
    from execo_engine import ParamSweeper

    # Strings instead of dictionaries, which cannot be hashed if a level is a list or a mapping.
    return ParamSweeper(str(folder / _SWEEPER), sweeps=[c.key for c in sweep.combinations])


class _SweepProgress:
    """What is done, on disk. Only one process at a time may write it."""

    def __init__(self, sweep: Sweep, folder: Path) -> None:
        self.sweep = sweep
        self.folder = folder
        self._by_key = {c.key: c for c in sweep.combinations}

    def __enter__(self) -> Self:
        import execo_engine  # noqa: F401 - before the lock: execo starts processes, which would share it

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / ".lock").open("a")
        except OSError as error:
            raise RunError(
                f"cannot write to {self.folder} ({error.strerror}): choose another directory"
            ) from error
        try:
            file_lock.lock(self._lock.fileno())
        except OSError as error:
            self._lock.close()
            raise RunError(
                f"another process is working on the sweep in {self.folder}: wait until it ends"
            ) from error
        try:
            self._same_testbed()
            read_index(self.folder)  # an error in it is raised before anything is measured
            self._sweeper = _sweeper(self.sweep, self.folder)
        except BaseException:
            self._lock.close()
            raise
        # ParamSweeper takes any exception while it reads for the end of its file, and truncates it there.
        # So it is called in a thread, where no signal handler raises.
        self._pool = ThreadPoolExecutor(1, "sweep")
        # What a killed process had in progress is to be done again. (ParamSweeper's reset() would lose it.)
        self._do(lambda: self._sweeper.cancel_batch(self._sweeper.get_inprogress()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(lambda: self._sweeper.cancel_batch(self._sweeper.get_inprogress()))
        self._pool.shutdown()
        self._lock.close()

    def _same_testbed(self) -> None:
        """Results of two kinds of testbeds must not share an index. Raises RunError."""
        path, kind = self.folder / _ABOUT, self.sweep.testbed.partition(":")[0]
        try:
            other = json.loads(path.read_text(encoding="utf-8"))["testbed"]
        except FileNotFoundError:
            path.write_text(json.dumps({"name": self.sweep.name, "testbed": kind}) + "\n", encoding="utf-8")
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{path} cannot be read ({error}): check that {self.folder} holds a sweep"
            ) from error
        if other != kind:
            raise RunError(
                f"the sweep in {self.folder} was started on {other}: use another name for one on {kind}"
            )

    def _do(self, call: Callable[[], T]) -> T:
        return self._pool.submit(call).result()

    # ---- what is next -----------------------------------------------------------------------------

    def take(self, cluster: str | None = None) -> Combination | None:
        """The next combination to do, in the order of the sweep (ParamSweeper has none); None: all done."""

        def wanted(remaining: Iterable[str]) -> list[str]:
            left = frozenset(remaining)
            return [c.key for c in self.sweep.combinations if c.key in left and cluster in (None, c.cluster)]

        key = self._do(lambda: self._sweeper.get_next(wanted))
        return None if key is None else self._by_key[key]

    def put_back(self, combination: Combination) -> None:
        """It was not started after all."""
        self._do(lambda: self._sweeper.cancel(combination.key))

    def next_run_name(self) -> str:
        """A name for the next run."""
        number = 1
        while (self.folder / f"{self.sweep.name}-{number}").exists():
            number += 1
        return f"{self.sweep.name}-{number}"

    def outcome(self) -> SweepOutcome:
        """How many are done, failed and left."""
        everything, _, skipped, _, done = self._do(self._sweeper.stats)
        return SweepOutcome(len(done), len(skipped), len(everything) - len(done))

    # ---- outcomes ---------------------------------------------------------------------------------

    def done(
        self, one: Combination, run: str, begun: float, deployments: Iterable[str], *counts: int
    ) -> None:
        """It is done. The row in the index comes first, so that everything done has one."""
        requested, ok, failed = counts
        row = {"deployments": " ".join(deployments), "asked": requested, "ok": ok, "failed": failed}
        self._write([(one, {"run": run, "state": "done", **row, **_times(begun)})])
        self._do(lambda: self._sweeper.done(one.key))

    def fail(self, one: Combination, run: str, reason: str, begun: float) -> None:
        """It failed, and is retried when the sweep is started again."""
        self._fail([one], run, reason, begun)

    def fail_cluster(self, one: Combination, run: str, reason: str, begun: float) -> None:
        """Its virtual cluster could not be launched, so all others that share it fail as well."""
        others = []
        while (other := self.take(one.cluster)) is not None:
            others.append(other)
        self._fail([one, *others], run, reason, begun)

    def _fail(self, those: list[Combination], run: str, reason: str, begun: float) -> None:
        row = {"run": run, "state": "failed", "reason": reason, **_times(begun)}
        self._write([(one, row) for one in those])
        self._do(lambda: self._sweeper.skip_batch([one.key for one in those]))

    def _write(self, results: list[tuple[Combination, Mapping[str, Any]]]) -> None:
        """Write rows to the index, each instead of an earlier one of the same combination."""
        ids = {one.id for one, _ in results}
        rows: list[Mapping[str, Any]] = [row for row in read_index(self.folder) if row["id"] not in ids]
        for one, result in results:
            rows.append({**{f: _cell(level) for f, level in one.levels.items()}, **result, "id": one.id})
        factors = dict.fromkeys([*self.sweep.factors, *(c for row in rows for c in row if c not in _RESULT)])
        temporary = self.folder / f".{INDEX}.{os.getpid()}"
        try:
            with temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, [*factors, *_RESULT], restval="")
                writer.writeheader()
                writer.writerows(rows)
            temporary.replace(self.folder / INDEX)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise RunError(
                f"{self.folder / INDEX} cannot be written ({error.strerror}): free some space"
            ) from error


def _times(begun: float) -> dict[str, str]:
    ended = time.time()
    return {"seconds": f"{ended - begun:.2f}", "begun": f"{begun:.2f}", "ended": f"{ended:.2f}"}


def _cell(level: Any) -> Any:
    return level if isinstance(level, (str, int, float)) else json.dumps(level)
