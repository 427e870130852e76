"""An archive of runs: figures drawn anew from it are the same to the byte, and nothing private is in it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from measuremaker import measure_events
from rocrate.rocrate import ROCrate
from runmaker import run_events
from test_report import HOST, LOGIN, MAIL, PASSWORD, PRIVATE, SECRETS, SENTENCES, TOKEN, VARIABLE

from g5kvirt import cli
from g5kvirt.artifact.packing import MANIFEST, VERSIONS, read_versions
from g5kvirt.views.style import STYLE

PNG = "iVBORw0KGgo/jdoe/AAAA+jdoe+token=jdoe"  # not a word of it may change


def write_run(path: Path, lines: list[str], created: float = 1_700_000_000.0, **more: Any) -> Path:
    path.mkdir(parents=True)
    document = {"name": path.name, "created": created, "testbed": "local", "spec": {"vms": 4}, **more}
    (path / "run.json").write_text(json.dumps(document))
    (path / "journal.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return path


def reserved(seed: int = 1) -> list[str]:
    """A journal that gives one figure, drawn in no time."""
    return [event.to_json() for event in run_events(4, seed=seed) if event.phase == "reserve"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of a run that was measured."""
    folder = tmp_path_factory.mktemp("measured")
    events = [event.to_json() for event in [*run_events(4), *measure_events([2, 4], repeat=2)]]
    write_run(folder / "first", events)
    assert archive(folder / "first", "-o", folder / "a.zip") == 0
    return folder / "a.zip"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_run(tmp_path / "runs" / "first", reserved())
    return tmp_path / "runs"


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of somebody with secrets in every place; a notebook of that run."""
    monkeypatch.setenv("USER", LOGIN)
    monkeypatch.setenv("GITLAB_TOKEN", VARIABLE)
    monkeypatch.setenv("HOME", f"/home/{LOGIN}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(platform, "node", lambda: f"{HOST}.home.example")
    lines = reserved()
    for number, text in enumerate(SENTENCES):
        detail = {"process": {"pid": 4, "host": HOST}, "reason": text, "token": TOKEN}
        event = {"t": 1e9 + number, "phase": "reserve", "step": text, "kind": "site", "subject": text}
        lines.append(json.dumps({**event, "status": "failed", "detail": detail}))
    path = write_run(tmp_path / "runs" / f"first-{LOGIN}", lines, password=PASSWORD, note=SENTENCES)
    for name in ("ssh/id_ed25519", "consoles/vm-1.txt", "transcript.jsonl"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(PRIVATE)
    html = f'<img src="data:image/png;base64,{PNG}"> {LOGIN} {MAIL}'
    key = PRIVATE.splitlines(keepends=True)
    output = {
        "output_type": "display_data",
        "data": {"image/png": PNG, "text/html": [html], "text/plain": key},
    }
    cell = {
        "cell_type": "code",
        "source": [f"{text}\n" for text in SENTENCES],
        "outputs": [output],
        "metadata": {},
    }
    (path / f"{LOGIN}.ipynb").write_text(json.dumps({"cells": [cell], "nbformat": 4, "metadata": {}}))
    return path


def archive(*words: object) -> int:
    return cli.main(["archive", *map(str, words)])


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_figures_drawn_anew_elsewhere_are_the_same_to_the_byte(measured: Path, tmp_path: Path) -> None:
    home = tmp_path / "home of another"
    (home / ".config" / "matplotlib").mkdir(parents=True)
    settings = "font.size: 20\ntext.usetex: True\nsavefig.dpi: 60\naxes.grid: True\nlines.linewidth: 9\n"
    (home / ".config" / "matplotlib" / "matplotlibrc").write_text(settings)
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "TZ": "Asia/Tokyo",
        "PYTHONHASHSEED": "7",
    }
    done = subprocess.run(
        [sys.executable, "-m", "g5kvirt", "open", os.path.relpath(measured, home), "--into", "b"],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all the same to the byte" in done.stdout
    redrawn = sorted(path.name for path in (home / "b" / "redrawn").rglob("*.pdf"))
    assert {"boot.pdf", "scalability.pdf", "map.pdf"} <= set(redrawn)


def test_archive_has_nothing_private(private: Path, tmp_path: Path) -> None:
    notebook = tmp_path / "own.ipynb"
    notebook.write_bytes((private / f"{LOGIN}.ipynb").read_bytes())
    file = tmp_path / "a.zip"
    assert archive(private, "-o", file, "--add", notebook) == 0
    found = contents(file)
    assert not [name for name in found if "ssh/" in name or "console" in name or "transcript" in name]
    for name, data in found.items():
        text = name + data.decode("utf-8", "replace").replace(PNG, "")
        assert not [secret for secret in SECRETS if secret in text], name
    kept = [name for name in found if name.endswith(".ipynb")]
    assert len(kept) == 2
    for name in kept:
        assert found[name].decode().count(PNG) == 2, "pictures of a notebook stay as they are"
    assert cli.main(["open", str(file)]) == 0


def test_same_runs_give_the_same_archive(runs: Path, tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        assert archive("first", "--runs", runs, "-o", tmp_path / name, "--author", "A. Person") == 0
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_archive_is_an_ro_crate_that_describes_every_file(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(runs / "second", reserved(seed=2), created=1_700_000_100.0)
    wheel = tmp_path / "g5kvirt-0.1-py3-none-any.whl"
    wheel.write_bytes(b"PK")
    file = tmp_path / "a.zip"
    words = ["--title", "Two runs", "--author", "A. Person", "--license", "CC-BY-4.0", "--add", wheel]
    assert archive(runs, "-o", tmp_path / "alone.zip") == 0
    assert "It does not contain g5kvirt" in capsys.readouterr().out
    assert archive(runs, "-o", file, *words) == 0, "a folder stands for all runs in it"
    assert "It does not contain g5kvirt" not in capsys.readouterr().out
    assert cli.main(["open", str(file)]) == 0
    crate: Any = ROCrate(tmp_path / "a")
    assert crate.name == "Two runs"
    described = {entity.id for entity in crate.data_entities}
    there = set(contents(file)) - {MANIFEST, "ro-crate-metadata.json"}
    assert described == there
    actions = {action.id: action for action in crate.contextual_entities if action.type == "CreateAction"}
    assert set(actions) == {"#run-first", "#run-second"}
    assert actions["#run-first"]["instrument"]["name"] == "g5kvirt"
    assert [one.id for one in actions["#run-first"]["result"]] == ["runs/first/journal.jsonl"]
    assert crate.get("runs/first/figures/timeline.pdf")["isBasedOn"].id == "runs/first/journal.jsonl"
    assert "pip install more/g5kvirt-0.1-py3-none-any.whl" in (tmp_path / "a" / "README.md").read_text()


def test_open_says_which_files_are_drawn_otherwise(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.zip"
    assert archive("first", "--runs", runs, "-o", file) == 0
    monkeypatch.setitem(STYLE, "axes.labelsize", 9)
    capsys.readouterr()
    assert cli.main(["open", str(file)]) == 1
    out = capsys.readouterr().out
    assert "runs/first/figures/timeline.pdf" in out
    assert "0 are numbers" in out
    assert "versions: the same as in the archive" in out
    monkeypatch.undo()
    assert cli.main(["open", str(tmp_path / "a")]) == 0, "a folder can be opened again"


def test_open_refuses_what_is_damaged_or_hostile(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = tmp_path / "a.zip"
    assert archive("first", "--runs", runs, "-o", good) == 0
    found = contents(good)

    def refused(number: int, changes: dict[str, bytes | None]) -> str:
        bad = tmp_path / f"bad-{number}.zip"
        with zipfile.ZipFile(bad, "w") as file:
            for member, data in {**found, **changes}.items():
                if data is not None:
                    file.writestr(member, data)
        assert cli.main(["open", str(bad)]) == 2
        assert not bad.with_suffix("").exists(), "nothing is left of what was refused"
        return capsys.readouterr().err

    journal = "runs/first/journal.jsonl"
    assert "differs from what was archived" in refused(1, {journal: found[journal] + b" "})
    assert "missing" in refused(2, {journal: None})
    for number, name in enumerate(("../outside", "/outside", "runs/../../outside", "a\\b"), start=3):
        assert "outside its folder" in refused(number, {name: b"x"})
    assert not (tmp_path / "outside").exists()
    assert "not an archive of g5kvirt" in refused(9, {MANIFEST: None})
    assert "does not list: more/x" in refused(10, {"more/x": b"x"})
    lines = found[MANIFEST].splitlines(keepends=True)
    assert "no checksum" in refused(
        11, {MANIFEST: b"".join(line for line in lines if b"journal" not in line)}
    )
    assert "no checksum" in refused(12, {MANIFEST: b""})
    assert "cannot be read" in refused(13, {MANIFEST: b"\xff\xfe\0"})
    assert "cannot be read" in refused(14, {MANIFEST: found[MANIFEST] + b"0" * 64 + b"  /etc/passwd\n"})
    assert "is damaged" in refused(15, {f"{journal}/inside": b"x"})
    assert "is damaged" in refused(16, {"a" * 300: b"x"})
    (tmp_path / "text.zip").write_text("no zip")
    assert cli.main(["open", str(tmp_path / "text.zip")]) == 2
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").write_text("x")
    assert cli.main(["open", str(good)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["mine"]


def test_archive_refuses_in_one_sentence(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "key.txt"
    key.write_text(PRIVATE)
    write_run(tmp_path / "others" / "first", reserved())
    write_run(runs / "empty", [])
    (tmp_path / "no.ipynb").write_text("[]")
    for words, said in [
        (["first", "--add", key], "private key"),
        (["first", "--add", tmp_path / "nothing"], "is not a file"),
        (["first", "--add", tmp_path / "no.ipynb"], "is not a notebook"),
        (["first", tmp_path / "others" / "first"], "two of the runs are named 'first'"),
        (["empty"], "has no events yet"),
        (["first", "-o", tmp_path / "a.tar"], "zip"),
        (["first", "-o", tmp_path / "nowhere" / "a.zip"], "there is no directory"),
    ]:
        assert archive(*words, "--runs", runs) == 2, words
        assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.zip"))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_open_refuses_bytes_that_cannot_be_unpacked(
    method: int, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "a.zip", tmp_path / "bad.zip"
    assert archive("first", "--runs", runs, "-o", good) == 0
    with zipfile.ZipFile(bad, "w", method) as file:
        for member, content in contents(good).items():
            file.writestr(member, content)
    data = bytearray(bad.read_bytes())
    with zipfile.ZipFile(bad) as file:
        one = file.getinfo("runs/first/journal.jsonl")
    data[one.header_offset + 60 : one.header_offset + 160] = b"\xff" * 100
    bad.write_bytes(data)
    (tmp_path / "empty").mkdir()
    assert cli.main(["open", str(bad), "--into", str(tmp_path / "empty")]) == 2
    assert "is damaged" in capsys.readouterr().err
    assert not list((tmp_path / "empty").iterdir()), "a folder that was there stays, and is empty"


def test_open_reads_versions_of_any_shape(tmp_path: Path) -> None:
    (tmp_path / VERSIONS).write_text("[" * 100_000)
    assert read_versions(tmp_path) == {}
    (tmp_path / VERSIONS).write_text('{"matplotlib": "\\u001b[31m", "numpy": [1]}')
    assert read_versions(tmp_path) == {"matplotlib": r"\x1b[31m", "numpy": "[1]"}
