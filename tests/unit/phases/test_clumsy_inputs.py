"""What clumsy users give to an experiment: each ends in one sentence, and nothing is touched."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backgroundbeds import Bed
from runmaker import run_events

from g5kvirt import Experiment, Spec
from g5kvirt.errors import CapacityError, G5kvirtError, PhaseOrderError, RunError, SpecError
from g5kvirt.phases.measure import MeasureRequest, check_broadcast, check_request
from g5kvirt.run import directory
from g5kvirt.run.journal import Journal

SPEC = Spec(sites={"nancy": 1}, vms=2)


@pytest.mark.parametrize("spec", [{"sites": {"nancy": 1}, "vms": 2}, None, "spec.yaml"])
def test_invalid_spec_is_refused(spec: Any, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"needs a Spec, created by Spec\(...\) or Spec.load\(file\), not "):
        Experiment(spec, testbed=Bed(f"give@{tmp_path}"), runs=tmp_path / "runs")  # type: ignore[arg-type]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("testbed", [None, 5, Path("local")])
def test_invalid_testbed_is_refused(testbed: Any, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="testbed must be a name such as"):
        Experiment(SPEC, testbed=testbed, runs=tmp_path)
    with pytest.raises(SpecError, match="only one Grid'5000, and none called 'nancy'"):
        Experiment(SPEC, testbed="grid5000:nancy", runs=tmp_path)


@pytest.mark.parametrize("path", [None, 5, b"runs/first"])
def test_invalid_run_path_is_refused(path: Any) -> None:
    with pytest.raises(RunError, match='open a run by its directory, such as "runs/first", not '):
        Experiment.open(path)


@pytest.mark.parametrize("folder", [5, None, ["runs"], b"runs"])
def test_unusable_directory_for_runs_is_refused(folder: Any, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match='runs must be a directory such as "runs", not '):
        Experiment(SPEC, testbed=Bed(f"give@{tmp_path}"), runs=folder)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "where", ["my runs", "it's", "a;b", "a*", "100%", 'a "b"', "a\\b", "a\nb", "a${HOME}", "a\0b"]
)
def test_path_that_ssh_cannot_use_is_refused(where: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="choose another directory"):
        Experiment(SPEC, testbed=Bed("give@."), runs=tmp_path / where)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    Experiment(SPEC, testbed=Bed("give@."), runs=tmp_path / "Läufe_1,a=b+c@d~")  # type: ignore[arg-type]


def test_job_name_that_oar_would_refuse_is_refused(tmp_path: Path) -> None:
    for spec, name in ((SPEC, "x" * 86), (Spec(sites={"nancy": 1}, vms=2, job_name="x" * 80), None)):
        with pytest.raises(RunError, match="OAR accepts 100: give a shorter name or job_name"):
            Experiment(spec, testbed=Bed("give@."), name=name, runs=tmp_path)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    Experiment(SPEC, testbed=Bed("give@."), name="x" * 85, runs=tmp_path)  # type: ignore[arg-type]


def test_a_start_in_the_past_makes_no_run(tmp_path: Path) -> None:
    spec = Spec(sites={"nancy": 1}, vms=2, start="2020-09-13 14:26:40")
    with pytest.raises(SpecError, match=r"the start 2020-09-13 14:26:40 in Paris is in the past \(it is "):
        Experiment(spec, testbed=Bed("give@."), name="x", runs=tmp_path)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["-x", ".x", "", "a/b", "x" * 101])
def test_invalid_run_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"letters, digits and - _ \.; it must not start with - or \.$"):
        directory.create(tmp_path, name, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "sizes", [0, 5, [], [0], [-1], [1.0], ["1"], "12", {1: 2}, [True], [None], np.array([0.5])]
)
def test_invalid_sizes_are_refused(sizes: Any) -> None:
    with pytest.raises(
        SpecError, match=r"^sizes must be whole numbers of VMs, at least 1 each, such as \[4, 8\]"
    ):
        request(sizes)


def request(sizes: Any, repeat: Any = 1, broadcast: Any = "chain") -> MeasureRequest:
    return check_request("mini", sizes, repeat, broadcast, [], up=4, provisioner="g5kvirt")


def test_sizes_of_any_kind_become_plain_numbers() -> None:
    for sizes in ([1, 4, 1], (1, 4, 1), np.array([1, 4, 1]), iter([1, 4, 1]), [np.int64(1), 4, np.uint8(1)]):
        plain = request(sizes, np.int64(2), "tree").sizes
        assert plain == (1, 4, 1)
        assert {type(n) for n in plain} == {int}
    with pytest.raises(CapacityError, match="on a very long number VMs, but only 4 are up: use at most 4"):
        request([10**5000])
    for repeat in (0, -1, "2", 1.5, None, True):
        with pytest.raises(SpecError, match="repeat must be a whole number of at least 1"):
            request([1], repeat)
    with pytest.raises(SpecError, match="broadcast must be"):
        request([1], 1, [])


def test_sizes_default_to_all_vms_that_are_up() -> None:
    assert request(None).sizes == (4,)


def test_kadeploy3_has_no_broadcast_by_http() -> None:
    assert check_broadcast("http", "g5kvirt") == "http"
    assert check_broadcast("tree", "kadeploy3") == "tree"
    with pytest.raises(SpecError, match="'chain' or 'tree' where the provisioner is 'kadeploy3', not 'http'"):
        check_broadcast("http", "kadeploy3")


def test_refused_measurement_leaves_the_journal_unchanged(tmp_path: Path) -> None:
    run = directory.create(tmp_path, "x", {"spec": SPEC.to_dict(), "testbed": "local:long-gone"})
    Journal.open(run.journal).extend(run_events(2))
    exp = Experiment.open(run.path)
    before = run.journal.read_bytes()
    own = tmp_path / "own"
    own.mkdir()
    for name, about in {
        "typo": "imag: {file: x.tar}",
        "gone": "image: {file: gone.tar}",
        "text": "image: {file: text.yaml}",
        "corrupt": f"image: {{file: text.yaml, sha256: '{'0' * 64}'}}",
    }.items():
        (own / f"{name}.yaml").write_text(f"name: {name}\n{about}\n")
    wrong: list[dict[str, Any]] = [{"sizes": [3]}, {"sizes": [0]}, {"repeat": 0}, {"folder": "no such"}]
    wrong += [{"broadcast": "torrent"}, {"environment": "minni"}]
    wrong += [{"environment": name, "folder": own} for name in ("typo", "gone", "text", "corrupt")]
    for arguments in wrong:
        with pytest.raises(SpecError):
            exp.measure(**arguments)
        with pytest.raises(SpecError):
            exp.start("measure", **arguments)
    assert run.journal.read_bytes() == before
    assert not [event for event in exp.journal if event.phase == "measure"]


def test_environment_that_kadeploy3_cannot_deploy_is_refused_first(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "some.tar", "w") as archive:
        archive.add(__file__, "some.py")
    text = f"name: long\nimage: {{file: some.tar}}\nboot: {{kernel: /boot/{'k' * 255}}}\n"
    (tmp_path / "long.yaml").write_text(text)
    found = check_request("long", [1], 1, "http", [tmp_path], up=1, provisioner="g5kvirt")
    assert found.image is not None
    assert found.image.path == tmp_path / "some.tar"
    with pytest.raises(SpecError, match="the kernel's path of long has more than the 255"):
        check_request("long", [1], 1, "chain", [tmp_path], up=1, provisioner="kadeploy3")


@pytest.mark.parametrize(
    ("command", "vms", "timeout"),
    [
        ("a\0b", None, 1),
        ("x" * 200_000, None, 1),
        (5, None, 1),
        ("true", "vm-1", 1),
        ("true", 5, 1),
        ("true", [1], 1),
        ("true", [None], 1),
        ("true", [["vm-1"]], 1),
        *(("true", None, timeout) for timeout in (0, -1, "5", float("nan"), float("inf"))),
    ],
)
def test_invalid_command_is_refused(command: Any, vms: Any, timeout: Any, tmp_path: Path) -> None:
    exp = Experiment(SPEC, testbed=Bed("give@."), name="x", runs=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(SpecError):
        exp.run(command, vms, timeout)


def test_command_without_deployed_vms_is_refused(tmp_path: Path) -> None:
    exp = Experiment(SPEC, testbed=Bed("give@."), name="x", runs=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(PhaseOrderError, match=r"there are none: call measure\(\) first"):
        exp.run("true")
    exp.reserve()
    exp.release()
    with pytest.raises(PhaseOrderError, match="run 'x' has released its machines"):
        exp.run("true")


def test_damaged_run_document_is_refused(tmp_path: Path) -> None:
    good = {"name": "x", "created": 1.0, "spec": SPEC.to_dict(), "testbed": "local"}
    (tmp_path / "x").mkdir()
    for change in ({"spec": None}, {"spec": 5}, {"testbed": None}, {"testbed": [1]}, {"created": None}):
        (tmp_path / "x" / "run.json").write_text(json.dumps({**good, **change}))
        with pytest.raises(G5kvirtError):
            Experiment.open(tmp_path / "x")
    for key in ("spec", "testbed", "created"):
        (tmp_path / "x" / "run.json").write_text(json.dumps({k: v for k, v in good.items() if k != key}))
        with pytest.raises(RunError, match="run"):
            Experiment.open(tmp_path / "x")
    (tmp_path / "x" / "run.json").write_text("[" * 100_000)
    with pytest.raises(RunError, match="cannot be read"):
        Experiment.open(tmp_path / "x")


@pytest.mark.parametrize(
    "change",
    [
        {"detail": [1]},
        {"detail": "x"},
        {"phase": [1]},
        {"step": {}},
        {"subject": None},
        {"t": float("nan")},
        {"t": float("inf")},
        {"attempt": float("inf")},
        {"attempt": "one"},
    ],
)
def test_damaged_journal_lines_are_ignored(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    events = run_events(2)
    line = {**json.loads(events[0].to_json()), **change}
    path.write_text("\n".join([json.dumps(line), *(e.to_json() for e in events), ""]))
    with pytest.raises(RunError, match="line 1 is not an event"):
        Journal.open(path)
    path.write_text("[" * 100_000 + "\n" + events[0].to_json() + "\n")
    with pytest.raises(RunError, match="line 1 is not an event"):
        Journal.open(path)


def test_an_environment_without_a_kernel_is_refused_for_vms() -> None:
    more: Any = {"up": 1, "provisioner": "g5kvirt"}
    with pytest.raises(SpecError, match="'light' has no kernel, which VMs need: use another environment"):
        check_request("light", [1], 1, "http", [], **more)
    assert check_request("light", [1], 1, "http", [], guest="light", **more).environment == "light"
