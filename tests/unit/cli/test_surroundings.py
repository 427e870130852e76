"""Nothing in a person's surroundings is "a bug in g5kvirt": commands work, or say in a sentence why not."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from g5kvirt import Experiment, Spec
from g5kvirt.cli import BUG
from g5kvirt.errors import MachineError
from g5kvirt.images.cache import check_writable
from g5kvirt.paths import readable_by_all

ROOT = Path(__file__).parents[3]
PYTHON = sys.executable
RUN = "run spec.yaml --testbed simulated:2013 --name one"
SHOW = f"show {ROOT / 'data' / 'runs' / 'window-1'}"

#: Surroundings: shell text before the command, which stands for "$@"; ``{here}`` is the current directory.
AROUND = {
    "plain": '"$@"',
    "latin-1": 'PYTHONIOENCODING=latin-1 "$@"',
    "ascii": 'PYTHONIOENCODING=ascii "$@"',
    "cp437": 'PYTHONIOENCODING=cp437 "$@"',
    "C locale": 'LC_ALL=C LANG=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 "$@"',
    "POSIX locale": 'LC_ALL=POSIX PYTHONUTF8=0 "$@"',
    "unknown locale": 'LC_ALL=xx_XX.UTF-8 "$@"',
    "Turkish": 'LC_ALL=tr_TR.UTF-8 LANG=tr_TR "$@"',
    "no locale": 'env -u LC_ALL -u LANG -u LC_CTYPE "$@"',
    "umask 077": 'umask 077; "$@"',
    "umask 027": 'umask 027; "$@"',
    "umask 777": 'umask 777; "$@"',
    "no HOME": 'env -u HOME "$@"',
    "HOME is gone": 'HOME=/nowhere/at/all "$@"',
    "HOME is a file": 'HOME={here}/spec.yaml "$@"',
    "HOME has a space": 'mkdir -p "a b"; HOME="{here}/a b" "$@"',
    "HOME cannot be written": 'HOME=/proc "$@"',
    "TMPDIR is gone": 'TMPDIR=/nowhere/at/all "$@"',
    "TMPDIR is a file": 'TMPDIR={here}/spec.yaml "$@"',
    "cache cannot be written": 'XDG_CACHE_HOME=/proc "$@"',
    "configuration is a file": 'XDG_CONFIG_HOME={here}/spec.yaml "$@"',
    "usetex": 'mkdir m; echo "text.usetex: True" > m/matplotlibrc; MATPLOTLIBRC=m "$@"',
    "broken matplotlibrc": 'mkdir m; echo "nonsense" > m/matplotlibrc; MATPLOTLIBRC=m "$@"',
    "unknown font": 'mkdir m; echo "font.family: none such" > m/matplotlibrc; MATPLOTLIBRC=m "$@"',
    "backend": 'MPLBACKEND=TkAgg "$@"',
    "unknown backend": 'MPLBACKEND=nonsense "$@"',
    "full disk": '"$@" > /dev/full',
    "full disk behind both": '"$@" > /dev/full 2>&1',
    "closed pipe": '"$@" | true',
    "short reader": '"$@" | head -n 1',
    "closed output": '"$@" >&-',
    "closed error": '"$@" 2>&-',
    "closed input": '"$@" <&-',
    "all closed": '"$@" <&- >&- 2>&-',
    "no proxy there": 'http_proxy=http://127.0.0.1:9 https_proxy=http://127.0.0.1:9 "$@"',
    "proxy without a scheme": 'http_proxy=::: ALL_PROXY=x "$@"',
    "dumb terminal": 'TERM=dumb "$@"',
    "no terminal": 'env -u TERM "$@"',
    "unknown terminal": 'TERM=nonsense COLUMNS=0 LINES=0 "$@"',
    "columns are no number": 'COLUMNS=many "$@"',
    "one column": 'COLUMNS=1 "$@"',
    "no colour": 'NO_COLOR=1 FORCE_COLOR=1 "$@"',
    "empty PATH": 'PATH= "$@"',
    "few files": 'ulimit -n 64; "$@"',
    "optimized": 'PYTHONOPTIMIZE=2 "$@"',
    "warnings are errors": 'PYTHONWARNINGS=error::UserWarning "$@"',
    "unknown time zone": 'TZ=Nowhere/Never "$@"',
    "time zone": 'TZ=Pacific/Chatham "$@"',
    "hash seed": 'PYTHONHASHSEED=4294967295 "$@"',
    "odd names": 'mkdir "a {{b}} [c] $d é 🐄"; cp spec.yaml a*; cd a*; "$@"',
    "name with a newline": 'mkdir "a\nb"; cp spec.yaml a*; cd a*; "$@"',
    "place that cannot be written": 'cd /proc; "${{@/spec.yaml/{here}/spec.yaml}}"',
    "directory is gone": 'mkdir gone; cp spec.yaml gone; cd gone; rm -r ../gone; "$@"',
}


def call(here: Path, around: str, command: str) -> subprocess.CompletedProcess[str]:
    (here / "spec.yaml").write_text("{sites: {nancy: 2}, vms: 3}")
    words = [PYTHON, "-m", "g5kvirt", *shlex.split(command)]
    text = around.replace("{{", "\0").replace("{here}", str(here)).replace("\0", "{").replace("}}", "}")
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail\n{text}", "bash", *words],
        cwd=here,
        env={"PATH": "/usr/bin:/bin", "HOME": str(here), "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )


#: Those in which a whole run is tried, with the codes that it may end with where it cannot do all of it.
RUNS: dict[str, set[int]] = {
    "latin-1": {0},
    "umask 077": {0},
    "TMPDIR is gone": {0, 74},
    "usetex": {0},
    "unknown backend": {0},
    "full disk": {74},
    "closed pipe": {0},
    "all closed": {0},
    "odd names": {0},
    "place that cannot be written": {2, 74},
    "directory is gone": {2, 74},
}
#: Those of the runs that take CI some seconds each; the others are tried with ``-m slow``.
SHORT = ("umask 077", "usetex", "full disk", "all closed", "odd names")
#: Those in which even a command that only prints cannot do that.
PRINTS = {"full disk": {74}, "full disk behind both": {74, 120}, "directory is gone": {0, 74}}


@pytest.mark.parametrize(
    ("name", "command", "codes"),
    [
        *((name, SHOW, PRINTS.get(name, {0})) for name in AROUND),
        *(
            pytest.param(name, RUN, codes, marks=[] if name in SHORT else pytest.mark.slow)
            for name, codes in RUNS.items()
        ),
    ],
    ids=[*AROUND, *(f"run, {name}" for name in RUNS)],
)
def test_no_surroundings_are_a_bug(name: str, command: str, codes: set[int], tmp_path: Path) -> None:
    done = call(tmp_path, AROUND[name], command)
    assert done.returncode != BUG, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "a bug in g5kvirt" not in done.stderr
    assert done.returncode in codes, (done.returncode, done.stderr)
    if done.returncode and "closed" not in name and name != "full disk behind both":
        assert done.stderr.strip().splitlines()[-1].startswith("g5kvirt: "), done.stderr


def test_what_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """``nohup g5kvirt run …`` goes on when its terminal is closed; without nohup it ends and cleans up."""
    for around, code in (("trap '' HUP; ", 0), ("", 143)):
        words = shlex.join(
            [PYTHON, "-m", "g5kvirt", "--debug", *shlex.split(RUN.replace("one", f"run-{code}"))]
        )
        (tmp_path / "spec.yaml").write_text("{sites: {nancy: 40}, vms: 600}")
        process = subprocess.Popen(
            ["bash", "-c", f"{around}exec {words}"],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first.startswith("run run-"), first
        process.send_signal(signal.SIGHUP)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == code, output


def test_the_cache_is_looked_at_before_anything_is_reserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc")
    with pytest.raises(MachineError, match=r"/proc/g5kvirt cannot be written.*XDG_CACHE_HOME"):
        check_writable()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    check_writable()
    assert list((tmp_path / "g5kvirt").iterdir()) == []


def test_an_experiment_stays_where_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exp = Experiment(Spec(sites={"nancy": 1}, vms=1), testbed="simulated:2013", name="one")
    exp.reserve()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    exp.deploy()
    opened = Experiment.open("../runs/one")
    monkeypatch.chdir(tmp_path)
    opened.configure()
    assert opened.path.samefile(exp.path)
    assert exp.path.is_absolute()
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "elsewhere"}


def test_images_are_built_with_the_usual_modes() -> None:
    before = os.umask(0o077)
    try:
        with readable_by_all():
            assert os.umask(0o022) == 0o022
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
