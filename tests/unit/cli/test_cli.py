"""The command line: its help, its exit codes, its one sentence when something is wrong."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from rich.console import Console
from runmaker import run_events

from g5kvirt import cli, errors
from g5kvirt.cli import commands, demo, notebooks
from g5kvirt.cli.parser import build_parser
from g5kvirt.inventory import Reservation, to_plain
from g5kvirt.run.directory import create
from g5kvirt.run.events import Event
from g5kvirt.run.state import RunState
from g5kvirt.spec.spec import Spec
from g5kvirt.testbeds.described.description import Description
from g5kvirt.views.text import machines_held


def a_run(root: Path, name: str, vms: int, events: list[Event]) -> Path:
    run = create(root, name, {"spec": {"sites": {"nancy": 1}, "vms": vms}, "testbed": "local"})
    run.journal.write_text("".join(event.to_json() + "\n" for event in events))
    return run.path


def commands_of(parser: argparse.ArgumentParser, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [before]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                found += commands_of(sub, (*before, name))
    return found


@pytest.mark.parametrize("arguments", commands_of(build_parser()))
def test_every_command_has_help(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as left:
        cli.main([*arguments, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: {' '.join(('g5kvirt', *arguments))}" in text
    assert max(map(len, text.splitlines())) <= 80, (
        "fits a terminal of 80 columns, and the documentation's page"
    )
    if not arguments:
        for needed in ("examples:", "exit codes:", "doctor", "local", "run", "runs", "show"):
            assert needed in text


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "exit codes:" in capsys.readouterr().out
    assert cli.main(["local"]) == 0
    assert "status" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["run"],
        ["local", "sideways"],
        ["demo", "--vms", "many"],
        ["run", "s.yaml", "--measure", "four"],
    ],
)
def test_unknown_commands_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code", "sentence"),
    [
        (errors.SpecError("vms must be at least 1"), 2, "vms must be at least 1"),
        (errors.RunError("there is no run"), 2, "there is no run"),
        (errors.MachineError("no root"), 3, "no root"),
        (errors.TestbedError("it is down"), 3, "it is down"),
        (errors.PhaseError("no host", phase="deploy"), 1, "no host"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("x"), 70, "this is a bug in g5kvirt (ZeroDivisionError: x)"),
    ],
)
def test_each_kind_of_error_has_its_exit_code_and_one_sentence(
    raised: BaseException,
    code: int,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: argparse.Namespace) -> int:
        raise raised

    monkeypatch.setattr(commands, "runs", fail)
    assert cli.main(["runs"]) == code
    output = capsys.readouterr().err
    assert output.startswith(f"g5kvirt: {sentence}")
    assert output.count("\n") == 1, "one line, no traceback"
    assert cli.main(["--debug", "runs"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_sigterm_runs_every_finally(monkeypatch: pytest.MonkeyPatch) -> None:
    cleaned = []

    def wait(_: argparse.Namespace) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(10)
        finally:
            cleaned.append(True)
        return 0

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(commands, "runs", wait)
    with pytest.raises(SystemExit) as left:
        cli.main(["runs"])
    assert left.value.code == 143
    assert cleaned == [True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_run_with_bad_spec_creates_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    missing = tmp_path / "missing.yaml"
    bad = tmp_path / "bad.yaml"
    bad.write_text("sites: {nancy: 0}\nvms: 8\n")
    for path, problem in ((missing, "missing.yaml"), (bad, "sites.nancy must be")):
        assert cli.main(["run", str(path), "--runs", str(runs)]) == 2
        output = capsys.readouterr().err
        assert problem in output
        assert output.count("\n") == 1
    assert not runs.exists()


def test_run_on_unknown_testbed_creates_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("sites: {nancy: 1}\nvms: 2\n")
    assert cli.main(["run", str(spec), "--testbed", "moon", "--runs", str(tmp_path / "runs")]) == 2
    assert "moon" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


class FakeExperiment:
    """Every step goes well; of 8 VMs ``lost`` do not come up, and of each deployment ``failed`` fail."""

    lost = failed = 0
    calls: ClassVar[list[str]] = []

    def __init__(self, spec: Spec, testbed: str, name: str | None, runs: Path) -> None:
        self.name, self.path = name or "dated", runs / "dated"
        self.frames = SimpleNamespace(account=SimpleNamespace(failed=self.lost))
        self.figures = SimpleNamespace(save=lambda folder: [folder / "boot.pdf"])
        self.journal = SimpleNamespace(subscribe=lambda _: lambda: None, close=lambda: None)

    def __getattr__(self, step: str) -> Callable[[], None]:
        return lambda: self.calls.append(step)

    def measure(
        self, environment: str = "mini", sizes: object = None, repeat: int = 1, *, broadcast: str = "chain"
    ) -> SimpleNamespace:
        self.calls.append(f"measure {environment} {sizes} {repeat} {broadcast}")
        return SimpleNamespace(summary=SimpleNamespace(failed=self.failed))


@pytest.mark.parametrize(
    ("arguments", "measured"),
    [
        ([], []),
        (["--measure", "all"], ["measure mini None 1 chain"]),
        (["--measure", "4,8", "--repeat", "2"], ["measure mini [4, 8] 2 chain"]),
        (["--environment", "debian12-min"], ["measure debian12-min None 1 chain"]),
        (["--measure", "4", "--broadcast", "http", "--keep"], ["measure mini [4] 1 http"]),
    ],
)
def test_run_measures_only_with_a_measuring_option(
    arguments: list[str], measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("g5kvirt.experiment.Experiment", FakeExperiment)
    monkeypatch.setattr(FakeExperiment, "calls", [])
    spec = tmp_path / "spec.yaml"
    spec.write_text("sites: {nancy: 1}\nvms: 8\n")
    assert cli.main(["run", str(spec), "--runs", str(tmp_path), *arguments]) == 0
    steps = ["reserve", "deploy", "configure", "place", "launch", *measured]
    assert FakeExperiment.calls == steps + ([] if "--keep" in arguments else ["release"])


@pytest.mark.parametrize(("lost", "failed", "code"), [(0, 0, 0), (1, 0, 1), (0, 1, 1)])
def test_run_exits_with_1_if_a_vm_failed(
    lost: int, failed: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("g5kvirt.experiment.Experiment", FakeExperiment)
    monkeypatch.setattr(FakeExperiment, "lost", lost)
    monkeypatch.setattr(FakeExperiment, "failed", failed)
    spec = tmp_path / "spec.yaml"
    spec.write_text("sites: {nancy: 1}\nvms: 8\n")
    assert cli.main(["run", str(spec), "--runs", str(tmp_path), "--measure", "8"]) == code


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--measure", "9"], "only 8 are launched"),
        (["--repeat", "0"], "measure.repeat must be a whole number"),
        (["--environment", "mimi"], "did you mean 'mini'?"),
        (["--broadcast", "pigeon"], "must be 'chain' or 'tree' or 'http'"),
    ],
)
def test_run_refuses_bad_measuring_options_before_anything(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("sites: {nancy: 1}\nvms: 8\n")
    assert cli.main(["run", str(spec), "--runs", str(tmp_path / "runs"), *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_sizes_are_parsed_or_refused_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.sizes("4,8") == [4, 8]
    assert commands.sizes("all") == []
    for text in ("٣", "1_0", "1e3", "", "4,"):
        with pytest.raises(argparse.ArgumentTypeError):
            commands.sizes(text)
    with pytest.raises(SystemExit):
        cli.main(["run", "spec.yaml", "--measure", "4,x"])
    assert "expected numbers of VMs such as 4,8, or all, not '4,x'" in capsys.readouterr().err


def test_runs_lists_runs_oldest_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runs", "--runs", str(tmp_path)]) == 0
    assert "no runs in" in capsys.readouterr().out
    a_run(tmp_path, "first", 8, run_events(8, lost=1))
    a_run(tmp_path, "second", 6, [e for e in run_events(6) if e.phase == "reserve"])
    broken = a_run(tmp_path, "third", 6, [])
    (broken / "journal.jsonl").write_text("nonsense\nmore\n")
    assert cli.main(["runs", "--runs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["first", "second", "third"]
    assert "7 of 8" in lines[1]
    assert "launch done" in lines[1]
    assert "reserve done" in lines[2]
    assert "is not an event" in lines[3], "one broken run does not hide the others"


def test_runs_and_show_find_the_runs_of_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ways").mkdir()
    a_run(tmp_path / "ways", "ways-1", 8, run_events(8))
    assert cli.main(["runs", "--runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("ways/ways-1 ")
    assert cli.main(["show", "ways/ways-1", "--runs", str(tmp_path)]) == 0
    assert "run ways-1 on local" in capsys.readouterr().out


def test_machines_held_describes_the_reservation() -> None:
    granted = to_plain(Reservation({"nancy": 7}, (), (), 14, "nancy", 1000.0, 3600.0))
    asked = Event("reserve", "submitted", "site", "nancy", "ok", 999.0, 1, {"job": 7})
    given = Event("reserve", "granted", "run", "r", "ok", 1001.0, 1, granted)
    back = Event("reserve", "release", "run", "r", "ok", 1500.0, 1, {})
    assert machines_held(RunState.of([]), 1002.0) == ""
    assert machines_held(RunState.of([asked]), 1000.0) == "requested"
    assert machines_held(RunState.of([asked, given]), 1002.0).startswith("held until 19")
    assert machines_held(RunState.of([asked, given]), 4601.0) == "walltime expired"
    assert machines_held(RunState.of([asked, given, back]), 1600.0) == "released"


def test_show_prints_the_state_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = a_run(tmp_path, "first", 8, run_events(8, lost=2))
    for word in ("first", str(path)):
        assert cli.main(["show", word, "--runs", str(tmp_path)]) == 0
        text = capsys.readouterr().out
        assert "run first on local" in text
        assert "minimal system 6" in text
        assert "no answer within 30 s" in text
    (tmp_path / "elsewhere" / "first").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")  # a folder that is called like the run
    assert cli.main(["show", "first", "--runs", str(tmp_path)]) == 0
    monkeypatch.chdir(path)
    assert cli.main(["show", "."]) == 0
    assert cli.main(["show", "frist", "--runs", str(tmp_path)]) == 2
    assert "did you mean 'first'?" in capsys.readouterr().err


def test_show_counts_the_reasons_it_omits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = [e for e in run_events(30) if (e.step, e.kind) != ("minimal-system", "vm")]
    last = max(e.t for e in events)
    for number in range(1, 31):
        reason = {"at": "dhcp", "reason": f"reason {number // 2}"}
        events.append(Event("launch", "launch", "vm", f"vm-{number}", "failed", last + 1, 1, reason))
    a_run(tmp_path, "first", 30, events)
    assert cli.main(["show", "first", "--runs", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert text.count("× at dhcp: reason") == 10
    assert "10 × for 6 other reasons: see g5kvirt show --tables" in text


def test_show_saves_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = a_run(tmp_path, "first", 8, run_events(8))
    assert cli.main(["show", "first", "--figures", "--runs", str(tmp_path)]) == 0
    names = {f"{n}.{kind}" for n in ("timeline", "boot", "distribution") for kind in ("pdf", "png", "csv")}
    assert names <= {p.name for p in (path / "figures").iterdir()}
    output = capsys.readouterr().out
    assert {f"figure   {pdf}" for pdf in (path / "figures").glob("*.pdf")} <= set(output.splitlines())


def test_show_saves_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = a_run(tmp_path, "first", 8, run_events(8))
    assert cli.main(["show", "first", "--tables", "--runs", str(tmp_path)]) == 0
    output = capsys.readouterr().out.splitlines()
    assert f"table    {path / 'tables' / 'vms.csv'}" in output
    assert len((path / "tables" / "vms.csv").read_text().splitlines()) == 9, "a header and one line per VM"


def test_doctor_prints_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from g5kvirt.cli import doctor

    monkeypatch.setattr(doctor, "examine", lambda: [doctor.ProbeResult("root", "fail", "no", "use sudo")])
    assert cli.main(["doctor", "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert document["local"] is False
    assert document["findings"] == [
        {"name": "root", "state": "fail", "found": "no", "advice": "use sudo", "value": None}
    ]
    assert cli.main(["doctor"]) == 3
    assert "→ use sudo" in capsys.readouterr().out


def test_local_up_refuses_a_site_named_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["local", "up", "--name", "x", "--sites", "nancy=1,rennes=1,nancy=2"]) == 2
    assert "--sites names 'nancy' twice" in capsys.readouterr().err


def test_sites_option_is_parsed() -> None:
    arguments = argparse.Namespace(description=None, switch=None, sites="nancy=4,rennes=2")
    description = commands._description(arguments)
    assert description is not None
    assert {site.name: len(site.nodes) for site in description.sites} == {"nancy": 4, "rennes": 2}
    for bad in ("nancy", "nancy=", "nancy=two", "nancy=-1"):
        with pytest.raises(errors.SpecError, match="--sites cannot be parsed"):
            commands._description(argparse.Namespace(description=None, switch=None, sites=bad))


def test_demo_without_root_creates_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(errors.MachineError, match="root"):
        demo.demonstrate(Console(file=io.StringIO()), tmp_path / "runs", 8)
    assert not (tmp_path / "runs").exists()


class FakeTestbed:
    """Stands for the lifecycle of the local testbed; remembers what was called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def up(self, name: str, description: Description, progress: Callable[[str, float], None]) -> None:
        self.calls.append(f"up {name}")
        self.description = description
        progress("site nancy", 0.5)

    def down(self, name: str) -> None:
        self.calls.append(f"down {name}")


@pytest.mark.parametrize(
    "failure", [None, errors.PhaseError("a cell failed", phase="demo"), KeyboardInterrupt()]
)
def test_demo_stops_its_testbed_in_any_case(
    failure: BaseException | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from g5kvirt.testbeds.local import lifecycle

    fake, out = FakeTestbed(), io.StringIO()
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(lifecycle, "up", fake.up)
    monkeypatch.setattr(lifecycle, "down", fake.down)
    # of a killed demo, of a running process, the user's own, and another name
    known = [f"demo-{2**22 + 1}", f"demo-{os.getppid()}", "local", "demo-x"]
    monkeypatch.setattr(lifecycle, "testbed_names", lambda: known)
    own = f"demo-{os.getpid()}"

    def execute(_: Console, notebook: Path, run: Path, parameters: Mapping[str, Any]) -> Path:
        assert parameters["testbed"] == f"local:{own}"
        fake.calls.append(f"notebook {parameters['vms']}")
        assert notebook.is_file()
        if failure is not None:
            raise failure
        return run / notebook.name

    monkeypatch.setattr(demo, "_execute", execute)
    console = Console(file=out, width=200)
    if failure is None:
        assert demo.demonstrate(console, tmp_path, 3) == 0
        assert "what is left:" in out.getvalue()
    else:
        with pytest.raises(type(failure)):
            demo.demonstrate(console, tmp_path, 3)
    assert fake.calls == [f"down {known[0]}", f"up {own}", "notebook 3", f"down {own}"]
    assert "local testbed down: 0." in out.getvalue()


def test_demo_of_the_slides_has_their_size_or_that_part_of_it() -> None:
    slides = demo.DEMOS["slides"]
    sites = slides.sites(4552)
    assert (len(sites), sum(sites.values())) == (6, 355)
    assert slides.parameters(4552) == {"sizes": [500, 1000, 2000, 4552], "challenges": False, "windows": []}
    small = slides.sites(60)
    assert (len(small), set(small.values())) == (6, {1})
    assert slides.parameters(60) == {"sizes": [7, 13, 26, 60], "challenges": True}
    assert all(16 * sum(slides.sites(vms).values()) >= vms for vms in range(1, 4553)), "room for all"
    for name, one in demo.DEMOS.items():
        known = notebooks.parameters_of(notebooks.find(name))
        assert {"testbed", "sites", "vms", "name", "runs", *one.parameters(one.vms)} <= set(known)


def test_demo_without_memory_begins_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(demo, "available_memory", lambda: 7000 << 20)
    with pytest.raises(errors.MachineError, match=r"need 15,932 MiB .* 7,000 are available") as caught:
        demo.demonstrate(Console(file=io.StringIO()), tmp_path / "runs", 4552, demo="slides")
    assert caught.value.advice == "use --vms 2000"
    assert not (tmp_path / "runs").exists()


def test_unknown_demo_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "slide"]) == 2
    assert "choose from quickstart, slides" in capsys.readouterr().err


def test_local_down_also_stops_testbeds_of_killed_demos(monkeypatch: pytest.MonkeyPatch) -> None:
    from g5kvirt.testbeds.local import lifecycle

    fake = FakeTestbed()
    killed = f"demo-{2**22 + 1}"
    monkeypatch.setattr(lifecycle, "down", fake.down)
    monkeypatch.setattr(
        lifecycle, "testbed_names", lambda: [killed, f"demo-{os.getppid()}", "local", "second"]
    )
    assert cli.main(["local", "down", "--name", "second"]) == 0
    assert fake.calls == ["down second", f"down {killed}"]


def test_follower_passes_on_events_while_they_are_written(tmp_path: Path) -> None:
    events, seen, path = run_events(6), [], tmp_path / "later" / "journal.jsonl"
    lines = "".join(event.to_json() + "\n" for event in events).encode()

    def write() -> None:
        path.parent.mkdir()
        with path.open("wb", buffering=0) as file:
            for start in range(0, len(lines), 997):  # pieces that end in the middle of a line
                file.write(lines[start : start + 997])
                time.sleep(0.002)

    writer = threading.Thread(target=write)
    with demo.Follower(path, seen.append, every=0.005):
        writer.start()
        writer.join()
    assert [event.to_json() for event in seen] == [event.to_json() for event in events]


def test_console_prints_what_the_experiment_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "g5kvirt.experiment.Experiment.console", lambda self, vm, size: f"{self.name} {vm} {size}\n"
    )
    path = a_run(tmp_path, "first", 4, run_events(4))
    assert cli.main(["console", path.name, "vm-3", "--runs", str(tmp_path), "--size", "100"]) == 0
    assert capsys.readouterr().out == f"{path.name} vm-3 100\n"


def test_the_parser_imports_nothing_that_takes_time() -> None:
    """Every command waits for it, and so does the Tab key."""
    script = (
        "import sys; from g5kvirt.cli.parser import build_parser; build_parser()\n"
        "heavy = {'jinja2', 'pandas', 'matplotlib', 'execo', 'rocrate', 'g5kvirt.images.environments'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
