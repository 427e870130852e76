"""Sweeps: the combinations, which of them share a cluster, and that each is done exactly once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g5kvirt import cli
from g5kvirt.errors import PhaseError, RunError, SpecError, TestbedError
from g5kvirt.run import directory as runs
from g5kvirt.spec.spec import Spec
from g5kvirt.sweeps import (
    INDEX,
    Combination,
    Sweep,
    carry_out,
    check_measure,
    finished,
    load,
    parse,
    read_index,
    sweep_folder,
)

SPEC = {"sites": {"nancy": 1}, "vms": 8}
DOCUMENT = {
    "spec": SPEC,
    "measure": {"environment": "mini"},
    "vary": {
        "measure.broadcast": ["chain", "http"],
        "netboot": ["http", "tftp"],
        "measure.sizes": [4, [4, 8]],
    },
}


def by_hand(document: Mapping[str, Any] = DOCUMENT) -> Sweep:
    return parse(document, "by-hand")


# ---- what is asked ----------------------------------------------------------------------------------


def test_combinations_of_one_specification_share_a_cluster() -> None:
    sweep = by_hand()
    assert [len(cluster) for cluster in sweep.clusters] == [4, 4]
    assert [cluster[0].spec.netboot for cluster in sweep.clusters] == ["http", "tftp"]
    first, second = sweep.combinations[:2]
    assert str(second) == "measure.broadcast=chain, netboot=http, measure.sizes=[4,8]"
    assert first.measure == {"environment": "mini", "broadcast": "chain", "sizes": [4]}
    assert [first.deployments, second.deployments] == [1, 2]


@settings(max_examples=25)
@given(
    st.dictionaries(
        st.sampled_from(["netboot", "windows.boot", "windows.sleep", "vm.memory", "vms"]),
        st.lists(st.integers(1, 500), min_size=1, max_size=3, unique=True),
        max_size=3,
    ),
    st.lists(st.integers(1, 8), min_size=1, max_size=3, unique=True),
)
def test_every_combination_exists_once_on_as_few_clusters_as_possible(
    vary: dict[str, list[Any]], repeats: list[int]
) -> None:
    if "netboot" in vary:
        vary["netboot"] = ["http", "tftp"][: len(vary["netboot"])]
    if "vm.memory" in vary:
        vary["vm.memory"] = [80 + memory for memory in vary["vm.memory"]]
    spec = {key: value for key, value in SPEC.items() if key not in vary}
    sweep = parse({"spec": spec, "vary": {**vary, "measure.repeat": repeats}}, "s")
    clusters = 1
    for levels in vary.values():
        clusters *= len(levels)
    assert len(sweep.combinations) == clusters * len(repeats)
    assert len({one.key for one in sweep.combinations}) == len(sweep.combinations)
    assert len(sweep.clusters) == clusters
    for one in sweep.combinations:
        for factor, level in one.levels.items():
            path = ("measure", "repeat") if factor == "measure.repeat" else ("spec", *factor.split("."))
            found: Any = {"spec": one.spec.to_dict(), "measure": one.measure}
            for word in path:
                found = found[word]
            assert found == level


def test_without_measure_clusters_are_only_launched() -> None:
    (one,) = parse({"spec": SPEC}, "s").combinations
    assert one.measure is None
    assert one.deployments == 0
    assert str(one) == "as specified"
    (one,) = parse({"spec": SPEC, "measure": {}}, "s").combinations
    assert one.measure == {}
    assert one.deployments == 1


def test_renaming_factors_and_adding_levels_keeps_keys() -> None:
    more = {**DOCUMENT, "vary": {**DOCUMENT["vary"], "measure.repeat": [1, 2]}}  # type: ignore[dict-item]
    wider = {**DOCUMENT, "vary": {**DOCUMENT["vary"], "measure.sizes": [2, 4, [4, 8]]}}  # type: ignore[dict-item]
    keys = {one.key for one in by_hand().combinations}
    assert keys < {one.key for one in by_hand(wider).combinations}
    assert not keys & {one.key for one in by_hand(more).combinations}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vari": {}}, "did you mean 'vary'?"),
        ({"name": "../up"}, "not a valid name"),
        ({"testbed": 5}, "testbed must be a name"),
        ({"spec": [1]}, "spec must be a mapping"),
        ({"spec": {"sites": {"nancy": 1}}}, "has no 'vms'"),
        ({"vary": {"netboot": "tftp"}}, "must be a list of levels"),
        ({"vary": {"netboot": []}}, "must be a list of levels"),
        ({"vary": {"netboot": ["http", "pigeon"]}}, "with netboot=pigeon: netboot must be"),
        ({"vary": {"vms": [4, 8]}}, "vms is both fixed, to 8, and varied"),
        ({"vary": {"vms.more": [4, 8]}}, "has no part 'more'"),
        ({"vary": {"sites.nancy": [1, 2]}}, "sites.nancy is both fixed, to 1, and varied"),
        ({"vary": {"measure.environment": ["mini"]}}, "measure.environment is both fixed, to mini"),
        ({"vary": {"measure.sizes": [4, [4]]}}, "two combinations are equal"),
        ({"vary": {"measure.sizes": ["four"]}}, "measure.sizes must be a number"),
        ({"vary": {"measure.sizes": [16]}}, "only 8 are launched"),
        ({"vary": {"measure.repeat": [0]}}, "measure.repeat must be a whole number"),
        (
            {"vary": {"measure.broadcast": ["pigeon"]}},
            "'chain' or 'tree' or 'http', not 'pigeon'",
        ),
        (
            {"vary": {"measure.broadcast": ["http"], "provisioner": ["kadeploy3"]}},
            "'chain' or 'tree' where the provisioner is 'kadeploy3', not 'http'",
        ),
        ({"vary": {"measure.brodcast": ["chain"]}}, "did you mean 'broadcast'?"),
        ({"measure": {"environment": "mimi"}}, "did you mean 'mini'?"),
        ({"vary": {"windows.boot": list(range(1, 200)), "measure.repeat": list(range(1, 99))}}, "vary less"),
    ],
)
def test_parse_refuses_a_mistake_in_any_combination(change: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as raised:
        parse({"spec": SPEC, "measure": {"environment": "mini"}, **change}, "s")
    assert words in str(raised.value)


def test_parse_refuses_what_is_not_a_mapping() -> None:
    with pytest.raises(SpecError, match="a sweep is a mapping"):
        parse([1], "s")


def test_load_names_the_sweep_and_mistakes_after_the_file(tmp_path: Path) -> None:
    path = tmp_path / "chains.yaml"
    path.write_text("spec: {sites: {nancy: 1}, vms: 4}\nvary: {netboot: [http, tftp]}\n")
    assert (load(path).name, load(path).testbed) == ("chains", "local")
    assert load(path, "grid5000").testbed == "grid5000"
    path.write_text("spec: {sites: {nancy: 1}, vms: 4}\nmeasure: {sizes: [5]}\n")
    with pytest.raises(SpecError, match=r"chains\.yaml: .*only 4 are launched"):
        load(path)


def test_check_measure_refuses_bad_arguments() -> None:
    spec = Spec.from_dict(SPEC)
    check_measure(spec, {"sizes": None})
    for bad in (
        {"sizes": [True]},
        {"sizes": [9]},
        {"repeat": "2"},
        {"wait": False},
        {"environment": "x.yaml"},
    ):
        with pytest.raises(SpecError):
            check_measure(spec, bad)


# ---- carrying it out --------------------------------------------------------------------------------


class Fake:
    """Stands for `Experiment`: keeps a run's directory and remembers, for all of them, what was called."""

    calls: ClassVar[list[str]] = []
    fail: ClassVar[dict[str, BaseException]] = {}  # call → what it raises, once
    walltime: ClassVar[float] = 3600.0
    held: ClassVar[set[str]] = set()

    def __init__(self, spec: Spec, testbed: str, name: str, runs: Path) -> None:
        self._call(f"new {name}")
        run = Fake._create(runs, name, testbed)
        self._begin(run, spec)

    @staticmethod
    def _create(root: Path, name: str, testbed: str) -> runs.Run:
        return runs.create(root, name, {"spec": {}, "testbed": testbed})

    def _begin(self, run: runs.Run, spec: Spec) -> None:
        self.name, self.spec = run.name, spec
        self.frames = SimpleNamespace(account=SimpleNamespace(requested=spec.vms, up=spec.vms - 1, failed=1))
        self.reservation = SimpleNamespace(start=time.time(), walltime=Fake.walltime)
        self.journal = Log()
        Fake.held.add(self.name)

    @classmethod
    def open(cls, path: Path) -> Self:
        self = cls.__new__(cls)
        held = path.name in cls.held
        self._begin(runs.find(path.parent, path.name), Spec.from_dict(SPEC))
        if not held:
            cls.held.discard(path.name)
        return self

    def _call(self, what: str) -> None:
        Fake.calls.append(what)
        if (error := Fake.fail.pop(what, None)) is not None:
            raise error

    def __getattr__(self, phase: str) -> Any:
        if phase not in ("reserve", "deploy", "configure", "place", "launch"):
            raise AttributeError(phase)
        return lambda: self._call(f"{phase} {self.name}")

    def measure(self, **arguments: Any) -> SimpleNamespace:
        words = " ".join(str(arguments[key]) for key in sorted(arguments))
        self._call(f"measure {self.name} {words}")
        sizes = arguments.get("sizes") or [self.spec.vms]
        table = pd.DataFrame({"deployment": [f"d{n}" for n in sizes], "requested": sizes, "deployed": sizes})
        return SimpleNamespace(deployments=table.assign(failed=0))

    def release(self) -> None:
        if self.name in Fake.held:
            self._call(f"release {self.name}")
            Fake.held.discard(self.name)
            self.journal.append("released")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self.journal.close()


class Log(list[str]):
    def close(self) -> None:
        """As a journal."""


@pytest.fixture(autouse=True)
def _nothing_called_yet() -> None:
    Fake.calls, Fake.fail, Fake.held, Fake.walltime = [], {}, set(), 3600.0


def do(sweep: Sweep, folder: Path) -> tuple[int, int, int]:
    lines: list[str] = []
    account = carry_out(sweep, folder, report=lines.append, experiment=Fake)
    assert all(lines)
    assert not Fake.held, "machines are still held"
    return account.done, account.failed, account.left


def calls(word: str) -> list[str]:
    return [call.removeprefix(f"{word} ") for call in Fake.calls if call.startswith(f"{word} ")]


def test_combinations_are_measured_on_shared_clusters(tmp_path: Path) -> None:
    sweep = by_hand()
    folder = sweep_folder(sweep, tmp_path)
    assert finished(sweep, folder) == set()
    assert not folder.exists()
    assert do(sweep, folder) == (8, 0, 0)
    assert calls("launch") == ["by-hand-1", "by-hand-2"]
    assert calls("release") == ["by-hand-1", "by-hand-2"]
    assert len(calls("measure")) == 8
    assert finished(sweep, folder) == {one.key for one in sweep.combinations}
    rows = read_index(folder)
    assert list(rows[0])[:3] == ["measure.broadcast", "netboot", "measure.sizes"]
    assert [row["id"] for row in rows] == [one.id for one in sweep.combinations], "in their order"
    assert Counter(row["run"] for row in rows) == {"by-hand-1": 4, "by-hand-2": 4}
    assert rows[1]["measure.sizes"] == "[4, 8]"
    assert rows[1]["deployments"] == "d4 d8"
    assert (rows[1]["asked"], rows[1]["ok"], rows[1]["failed"], rows[1]["state"]) == ("12", "12", "0", "done")
    assert {run.name for run in runs.list_runs(folder)} == {"by-hand-1", "by-hand-2"}
    Fake.calls = []
    assert do(sweep, folder) == (8, 0, 0)
    assert Fake.calls == [], "what is done is not done again"


def test_launch_only_sweep_has_one_cluster_per_combination(tmp_path: Path) -> None:
    sweep = parse({"spec": SPEC, "vary": {"netboot": ["http", "tftp"]}}, "nets")
    assert do(sweep, tmp_path / "nets") == (2, 0, 0)
    rows = read_index(tmp_path / "nets")
    assert [(row["netboot"], row["run"], row["ok"], row["failed"]) for row in rows] == [
        ("http", "nets-1", "7", "1"),
        ("tftp", "nets-2", "7", "1"),
    ]


def test_failed_combinations_are_retried_at_the_next_start(tmp_path: Path) -> None:
    sweep, folder = by_hand(), tmp_path / "by-hand"
    Fake.fail = {
        "measure by-hand-1 chain mini [4, 8]": PhaseError("none was deployed", phase="measure"),
        "launch by-hand-3": PhaseError("no VM came up", phase="launch"),
    }
    assert do(sweep, folder) == (3, 5, 5)
    assert calls("new") == ["by-hand-1", "by-hand-2", "by-hand-3"], (
        "a cluster on which one failed is given up"
    )
    rows = {row["id"]: row for row in read_index(folder)}
    assert Counter(row["state"] for row in rows.values()) == {"done": 3, "failed": 5}
    assert rows[sweep.combinations[1].id]["reason"] == "none was deployed"
    assert rows[sweep.combinations[7].id]["reason"] == "no VM came up"
    Fake.calls = []
    assert do(sweep, folder) == (8, 0, 0)
    assert calls("new") == ["by-hand-4", "by-hand-5"]
    assert len(calls("measure")) == 5
    assert len(read_index(folder)) == 8
    assert {row["state"] for row in read_index(folder)} == {"done"}


def test_refused_cluster_fails_all_its_combinations(tmp_path: Path) -> None:
    sweep = by_hand()
    Fake.fail = {"new by-hand-1": TestbedError("does not answer")}
    assert do(sweep, tmp_path / "s") == (4, 4, 4)
    assert [row["run"] for row in read_index(tmp_path / "s")][:4] == ["", "", "", ""]


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(143), ZeroDivisionError()])
@pytest.mark.parametrize("where", ["measure by-hand-1 http mini [4]", "configure by-hand-2"])
def test_interrupted_sweep_releases_machines_and_continues(
    end: BaseException, where: str, tmp_path: Path
) -> None:
    sweep, folder = by_hand(), tmp_path / "by-hand"
    Fake.fail = {where: end}
    with pytest.raises(type(end)):
        do(sweep, folder)
    assert not Fake.held
    before = len(finished(sweep, folder))
    assert before == (2 if "measure" in where else 4)
    Fake.calls = []
    assert do(sweep, folder) == (8, 0, 0)
    assert len(calls("measure")) == 8 - before


def test_cluster_of_a_killed_process_is_released(tmp_path: Path) -> None:
    sweep, folder = by_hand(), tmp_path / "by-hand"
    Fake._create(folder, "by-hand-1", "local")
    Fake._create(folder, "by-hand-2", "local:other")
    Fake.held = {"by-hand-1"}
    assert do(sweep, folder) == (8, 0, 0)
    assert calls("release") == ["by-hand-1", "by-hand-3", "by-hand-4"]
    assert Fake.calls[0] == "release by-hand-1"


def test_new_cluster_before_the_walltime_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1.7e9]
    monkeypatch.setattr(time, "time", lambda: now[0])
    measured = Fake.measure

    def slow(self: Fake, **arguments: Any) -> SimpleNamespace:
        now[0] += 100 * len(arguments["sizes"])
        return measured(self, **arguments)

    monkeypatch.setattr(Fake, "measure", slow)
    Fake.walltime = 500  # 100, then 200 s; then 150 s would have to be left for the next, then 300 s
    assert do(by_hand(), tmp_path / "s") == (8, 0, 0)
    assert len(calls("new")) == 4
    Fake.walltime = 1  # a fresh cluster is always good for one: no end without this
    assert do(parse({**DOCUMENT, "name": "tight"}, ""), tmp_path / "t") == (8, 0, 0)
    assert len(calls("new")) == 12


def test_second_process_or_other_testbed_is_refused(tmp_path: Path) -> None:
    sweep, folder = by_hand(), tmp_path / "s"

    def meanwhile(words: str) -> None:
        with pytest.raises(RunError, match="another process is working on the sweep"):
            carry_out(sweep, folder, experiment=Fake)

    carry_out(sweep, folder, report=meanwhile, experiment=Fake)
    with pytest.raises(RunError, match="was started on local"):
        carry_out(parse(DOCUMENT, "s", "grid5000"), folder, experiment=Fake)
    runs.create(tmp_path, "taken", {})
    with pytest.raises(RunError, match="give the sweep another name"):
        sweep_folder(parse(DOCUMENT, "taken"), tmp_path)


KILLED = """
import sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
import test_sweep
from g5kvirt.sweeps import carry_out
def measure(self, **arguments):
    print("measuring", flush=True)
    if arguments["sizes"] == [4, 8]:
        time.sleep(60)
    return measured(self, **arguments)
measured, test_sweep.Fake.measure = test_sweep.Fake.measure, measure
carry_out(test_sweep.by_hand(), Path(sys.argv[2]), report=lambda _: None, experiment=test_sweep.Fake)
"""


def test_sweep_killed_during_a_measurement_continues(tmp_path: Path) -> None:
    """kill -9: ParamSweeper has the combination as being in progress, for ever, if nobody corrects it."""
    folder = tmp_path / "by-hand"
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(Path(__file__).parent), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["measuring\n"] * 2
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
    sweep = by_hand()
    assert finished(sweep, folder) == {sweep.combinations[0].key}
    Fake.held = {"by-hand-1"}
    assert do(sweep, folder) == (8, 0, 0)
    assert calls("release")[0] == "by-hand-1"
    assert len(calls("measure")) == 7


# ---- the command ------------------------------------------------------------------------------------


def test_dry_run_lists_combinations_and_clusters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "nets.yaml"
    path.write_text(
        "spec: {sites: {nancy: 1}, vms: 8}\n"
        "vary: {netboot: [http, tftp], measure.sizes: [4, 8]}\n"
        "measure: {repeat: 3}\n"
    )
    words = ["sweep", str(path), "--dry-run", "--runs", str(tmp_path / "runs")]
    assert cli.main(words) == 0
    output = capsys.readouterr().out
    assert "4 combinations on 2 virtual clusters; to do: 4 on 2 virtual clusters, 12 deployments" in output
    assert not (tmp_path / "runs").exists()
    three = Sweep("nets", "local", (), load(path).combinations[:3])
    carry_out(three, tmp_path / "runs" / "nets", report=lambda _: None, experiment=Fake)
    assert cli.main(words) == 0
    output = capsys.readouterr().out
    assert "3 already done; to do: 1 on 1 virtual cluster, 3 deployments" in output
    assert [line.split()[-1] for line in output.splitlines()[1:5]] == ["done", "done", "done", "do"]


@pytest.mark.parametrize(("fails", "code"), [({}, 0), ({"launch s-1": PhaseError("no", phase="launch")}, 1)])
def test_sweep_exits_with_1_if_combinations_are_left(
    fails: dict[str, BaseException],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from g5kvirt.cli import sweeping

    monkeypatch.setattr("g5kvirt.sweeps.carry_out", partial(carry_out, experiment=Fake))
    monkeypatch.setattr(sweeping, "_display", lambda *_: Fake.__new__(Display))
    Fake.fail = dict(fails)
    path = tmp_path / "s.yaml"
    path.write_text("spec: {sites: {nancy: 1}, vms: 8}\n")
    assert cli.main(["sweep", str(path), "--runs", str(tmp_path)]) == code
    output = capsys.readouterr().out
    assert f"{1 - code} of 1 combination done" in output
    assert f"index    {tmp_path / 's' / 'index.csv'}" in output


class Display(Fake):
    def __exit__(self, *_: object) -> None:
        """Shows nothing."""


def test_combination_has_a_short_id() -> None:
    one = by_hand().combinations[0]
    assert isinstance(one, Combination)
    assert len(one.id) == 12


@pytest.mark.parametrize(
    "content",
    [b"", b"a;b;id\n1;2;3\n", b"run,id\n1\n", b"run,id\n1,2,3\n", b"\xff\xfe", b"id\n" + b"x" * 200_000],
)
def test_damaged_index_is_refused_before_measuring(content: bytes, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_bytes(content)
    with pytest.raises(RunError, match=r"index\.csv .*repair it or move it away"):
        do(by_hand(), tmp_path)
    assert calls("launch") == []
    assert (tmp_path / INDEX).read_bytes() == content
    (tmp_path / INDEX).unlink()
    done, *_ = do(by_hand(), tmp_path)
    assert done == len(by_hand().combinations)


def test_check_measure_refuses_environments_that_cannot_be_deployed(tmp_path: Path) -> None:
    spec = Spec(sites={"nancy": 1}, vms=2)
    (tmp_path / "bad.yaml").write_text("name: bad\nimage: 5\n")
    (tmp_path / "gone.yaml").write_text("name: gone\nimage: {file: gone.tar}\n")
    with tarfile.open(tmp_path / "large.tar", "w") as tar:
        tar.add(__file__, "file")
    large = "name: large\nimage: {file: large.tar, unpacked: 9000000000}\n"
    (tmp_path / "large.yaml").write_text(large)
    for arguments, words in (
        ({"environment": "bad", "folder": str(tmp_path)}, "image must be a mapping of keys to values, not 5"),
        ({"environment": "gone", "folder": str(tmp_path)}, "gone.tar: No such file"),
        ({"environment": str(tmp_path / "gone.yaml")}, "gone.tar: No such file"),
        ({"folder": str(tmp_path / "none")}, "there is no folder"),
        ({"folder": 5}, "there is no folder 5"),
        ({"environment": "large", "folder": str(tmp_path)}, r"large needs a disk of \d+ MiB, and VMs have"),
    ):
        with pytest.raises(SpecError, match=words):
            check_measure(spec, arguments)
