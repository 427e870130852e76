"""What commands print with ``--json``, and completion in a shell."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from measuremaker import measure_events
from runmaker import T0, run_events

from g5kvirt.cli import main
from g5kvirt.cli.completing import SHELLS
from g5kvirt.run.directory import create

ROOT = Path(__file__).parents[3]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    made = create(tmp_path / "runs", "one", {"testbed": "local", "spec": {"vms": 12}})
    events = [
        *run_events(12, lost=2),
        *measure_events((6,), 1, bad={"vm-2": ("image", 99, "SHA-256 is wrong")}),
    ]
    made.journal.write_text("".join(event.to_json() + "\n" for event in events))
    damaged = create(tmp_path / "runs", "two", {"testbed": "local", "spec": {"vms": 3}})
    damaged.journal.write_text('{"t": "x"}\n{"t": 1}\n')
    return tmp_path / "runs"


def output(capsys: pytest.CaptureFixture[str], *words: str) -> object:
    assert main(list(words)) in (0, 3)
    return json.loads(capsys.readouterr().out)


def test_show_gives_one_document_with_the_files(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = output(capsys, "show", "one", "--runs", str(runs), "--json", "--tables")
    assert isinstance(found, dict)
    assert (found["name"], found["testbed"], found["vms"], found["up"], found["failed"]) == (
        "one",
        "local",
        12,
        10,
        2,
    )
    launch = next(phase for phase in found["phases"] if phase["phase"] == "launch")
    assert (launch["state"], launch["tries"]) == ("ok", 1)
    assert launch["start"] == pytest.approx(T0 + 8.1)
    assert sum(failure["vms"] for failure in found["failures"]) == 2
    (deployment,) = found["deployments"]
    assert deployment == {"deployment": "d1", "requested": 6, "deployed": 5, "failed": 1}
    assert found["machines"] == "requested"
    assert all(Path(table).is_file() for table in found["tables"])


def test_runs_gives_a_list_and_a_damaged_one_says_so(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = output(capsys, "runs", "--runs", str(runs), "--json")
    assert isinstance(found, list)
    assert [one["name"] for one in found] == ["one", "two"]
    assert "error" in found[1]
    assert "up" not in found[1]
    assert output(capsys, "runs", "--runs", str(runs / "none"), "--json") == []


def test_vms_of_groups_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = [{"name": "server", "count": 2}, {"name": "client", "count": 5, "memory": 512}]
    create(tmp_path, "one", {"testbed": "local", "spec": {"vms": groups}})
    found = output(capsys, "show", "one", "--runs", str(tmp_path), "--json")
    assert isinstance(found, dict)
    assert found["vms"] == 7
    assert main(["runs", "--runs", str(tmp_path)]) == 0
    assert "0 of 7" in capsys.readouterr().out


def test_status_of_a_testbed_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    found = output(capsys, "local", "status", "--name", "no-such-testbed", "--json")
    assert isinstance(found, dict)
    assert (found["name"], found["state"]) == ("no-such-testbed", "down")


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_printed_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    assert "g5kvirt" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_and_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    for words, expected in {
        ("lo",): {"local"},
        ("local", "st"): {"status"},
        ("show", "--fig"): {"--figures"},
        ("completion", "z"): {"zsh"},
        ("check", "--inventory", "20"): {"2013", "2026"},
    }.items():
        line = " ".join(f"'{word}'" for word in ("g5kvirt", *words))
        script = f". {tmp_path}/completion; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _shtab_g5kvirt"
        done = subprocess.run(
            ["bash", "-c", f'{script}; printf "%s\\n" "${{COMPREPLY[@]}}"'],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert set(done.stdout.split()) == expected, words
