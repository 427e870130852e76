"""The script that gets a bare machine ready, on machines made of a few fake programs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: What a bare Debian has (packages that are essential there).
ESSENTIAL = (
    "sh",
    "cat",
    "date",
    "dirname",
    "grep",
    "head",
    "id",
    "ls",
    "mkdir",
    "pwd",
    "readlink",
    "rm",
    "sed",
)
ESSENTIAL += ("sha256sum", "sleep", "tail", "uname", "env", "touch", "chmod")

Machine = Callable[..., "Fake"]


class Fake:
    """A copy of the checkout's outside, and a PATH with nothing on it but what is put there."""

    def __init__(self, directory: Path) -> None:
        self.checkout = directory / "checkout"
        self.bin = directory / "bin"
        self.checkout.mkdir()
        self.bin.mkdir()
        for name in ("bootstrap", "pyproject.toml"):
            shutil.copy(ROOT / name, self.checkout / name)
        for name in ESSENTIAL:
            found = shutil.which(name)
            assert found is not None, name
            (self.bin / name).symlink_to(found)

    def program(self, name: str, script: str = "exit 0") -> Path:
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def tools(self) -> None:
        for name in ("ip", "tc", "ssh", "taktuk", "mksquashfs", "unshare", "mount", "losetup"):
            self.program(name)

    def python(self, version_ok: bool = True, pip_ok: bool = True) -> Path:
        """A python3 whose ``-m venv`` makes a .venv with a pip and a g5kvirt that only say that they ran."""
        said = self.checkout.parent
        inner = f'case "$*" in *pip*install*) echo "pip $*" >>{said}/pip.log; '
        inner += "echo ERROR: no such index; exit 1 ;;" if not pip_ok else "exit 0 ;;"
        inner += f' *compileall*) ;; *-m*) echo "$*" >>{said}/ran.log ;; esac'
        return self.program(
            "python3",
            'case "$*" in\n'
            f"*version_info*) exit {int(not version_ok)} ;;\n"
            "*-m\\ venv*) for last; do :; done; mkdir -p $last/bin\n"
            f"    printf '#!/bin/sh\\n%s\\n' '{inner}' >$last/bin/python\n"
            f"    printf '#!/bin/sh\\necho g5kvirt \"$@\" >>{said}/ran.log\\n' >$last/bin/g5kvirt\n"
            "    chmod +x $last/bin/python $last/bin/g5kvirt ;;\n"
            "esac",
        )

    def run(self, *words: str, python: Path | None = None, user: int = 0) -> subprocess.CompletedProcess[str]:
        self.program("id", f"echo {user}")
        return subprocess.run(
            ["/bin/sh", str(self.checkout / "bootstrap"), *words],
            env={"PATH": str(self.bin), "G5KVIRT_PYTHON": str(python or self.bin / "python3")},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
        )

    def log(self, name: str) -> list[str]:
        path = self.checkout.parent / f"{name}.log"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Fake:
    return Fake(tmp_path)


@pytest.mark.parametrize("shell", [["dash"], ["bash", "--posix"], ["busybox", "sh"]], ids=" ".join)
def test_bootstrap_runs_in_every_shell(machine: Fake, shell: list[str]) -> None:
    program = shutil.which(shell[0])
    if program is None:
        pytest.skip(f"needs {shell[0]}")
    subprocess.run([program, *shell[1:], "-n", ROOT / "bootstrap"], check=True, timeout=20)
    machine.tools()
    machine.python()
    done = subprocess.run(
        [program, *shell[1:], machine.checkout / "bootstrap", "--dry-run", "demo"],
        env={"PATH": str(machine.bin)},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip().endswith(".venv/bin/g5kvirt demo")


def test_bootstrap_is_executable() -> None:
    assert os.access(ROOT / "bootstrap", os.X_OK)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_calls_bootstrap(tmp_path: Path, target: str) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    assert _calls(tmp_path, ["make", target]) == f"bootstrap {target} [] []\n"


def test_continuous_integration_calls_bootstrap(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci")
    (tmp_path / "elsewhere").mkdir()
    pythons = tmp_path / ".ci/pythons"
    pythons.write_text("#!/bin/sh\necho pythons")
    pythons.chmod(0o755)
    called = _calls(tmp_path, [str(tmp_path / ".ci/run")], tmp_path / "elsewhere")
    assert called == f"bootstrap test [{tmp_path}/artefacts] [browser enoslib]\npythons\n"
    pythons.write_text("#!/bin/sh\nexit 1")
    with pytest.raises(subprocess.CalledProcessError):
        _calls(tmp_path, [str(tmp_path / ".ci/run")])


def _calls(checkout: Path, command: list[str], cwd: Path | None = None) -> str:
    """The arguments and the environment with which ``command`` calls ``checkout``'s bootstrap."""
    fake = checkout / "bootstrap"
    fake.write_text('#!/bin/sh\necho bootstrap "$*" "[$G5KVIRT_ARTEFACTS]" "[$G5KVIRT_REQUIRE]"\n')
    fake.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("G5KVIRT_")}
    done = subprocess.run(
        command, cwd=cwd or checkout, env=environment, capture_output=True, text=True, timeout=20, check=True
    )
    return done.stdout


def test_help_prints_the_header_comment(machine: Fake) -> None:
    done = machine.run("--help")
    assert done.returncode == 0
    assert "./bootstrap demo" in done.stdout
    assert "set -u" not in done.stdout


def test_dry_run_prints_commands_and_changes_nothing(machine: Fake) -> None:
    machine.program("apt-get", f"touch {machine.checkout}/touched")
    done = machine.run("--dry-run", "demo", user=1000)
    assert done.returncode == 0, done.stderr
    assert "iproute2" in done.stdout
    assert "python3-venv" in done.stdout
    asked = done.stdout.partition("--no-install-recommends ")[2].partition("\n")[0].split()
    assert len(asked) == len(set(asked)), "two tools of one package name it once"
    assert done.stdout.rstrip().endswith(".venv/bin/g5kvirt demo")
    assert sorted(p.name for p in machine.checkout.iterdir()) == ["bootstrap", "pyproject.toml"]


def test_bootstrap_installs_only_once(machine: Fake) -> None:
    machine.tools()
    machine.python()
    first = machine.run("doctor", "--json")
    assert first.returncode == 0, first.stderr
    assert re.search(r"Python packages .* … \d+\.\d s\n", first.stdout), "each part says how long it took"
    second = machine.run("doctor", "--json")
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert len(machine.log("pip")) == 1
    assert machine.log("ran") == ["g5kvirt doctor --json"] * 2


def test_pip_runs_again_when_pyproject_changed(machine: Fake) -> None:
    machine.tools()
    machine.python()
    machine.run()
    with (machine.checkout / "pyproject.toml").open("a") as file:
        file.write("# another line\n")
    machine.run()
    assert len(machine.log("pip")) == 2


def test_missing_packages_are_installed_without_recommends_and_lists_fetched_when_needed(
    machine: Fake,
) -> None:
    machine.python()
    log = machine.checkout.parent / "apt.log"
    # A machine whose package lists are empty: installing works only after an update.
    machine.program(
        "apt-get",
        f'echo "$*" >>{log}\n'
        f'case "$*" in *update*) touch {log}.lists ;; *install*) [ -e {log}.lists ] || exit 100 ;; esac',
    )
    done = machine.run()
    assert done.returncode == 0, done.stdout + done.stderr
    calls = machine.log("apt")
    assert any("update" in call for call in calls)
    installs = [call for call in calls if " install " in call and " -s " not in call]
    assert len(installs) == 1
    assert "--no-install-recommends" in installs[0]
    assert "iproute2 openssh-client taktuk squashfs-tools util-linux mount" in installs[0]


@pytest.mark.parametrize(
    ("prepare", "user", "words", "sentence"),
    [
        (lambda m: m.program("uname", "echo Darwin"), 0, ("demo",), "runs on Linux, and this is Darwin"),
        (lambda m: None, 1000, ("demo",), "sudo ./bootstrap demo"),
        (lambda m: None, 0, ("demo",), "no apt-get and lacks"),
        (lambda m: m.program("apt-get", "echo E: no network; exit 100"), 0, ("test",), "is there a network"),
        (lambda m: m.program("apt-get"), 1000, ("doctor",), "only root can install them: "),
        (lambda m: (m.tools(), m.python(version_ok=False)), 0, ("test",), "older than 3.11"),
        (lambda m: (m.tools(), m.python(pip_ok=False)), 0, ("test",), "pip cannot install"),
    ],
)
def test_failures_are_one_clear_message(
    machine: Fake, prepare: Callable[[Fake], object], user: int, words: tuple[str, ...], sentence: str
) -> None:
    prepare(machine)
    done = machine.run(*words, user=user)
    assert done.returncode == 3, done.stdout + done.stderr
    assert sentence in done.stderr
    assert sum(line.startswith("g5kvirt: ") for line in done.stderr.splitlines()) == 1
    assert machine.log("ran") == []


def test_bootstrap_without_root_does_what_it_can(machine: Fake) -> None:
    machine.python()
    done = machine.run("runs", user=1000)
    assert done.returncode == 0, done.stderr
    assert "only root can install: " in done.stdout
    assert machine.log("ran") == ["g5kvirt runs"]


def test_failed_check_is_repeated_at_the_next_call(machine: Fake) -> None:
    machine.tools()
    machine.python()
    machine.run()
    ran = machine.checkout.parent / "ran.log"
    python = machine.checkout / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\necho "$*" >>{ran}\ncase "$*" in *mypy*) exit 1 ;; esac\n')
    done = machine.run("test", "-k", "two words")
    assert done.returncode == 1
    assert "enoslib, for one of the tests … " in done.stdout
    assert "failed: mypy" in done.stderr
    last = machine.log("ran")[-1]
    assert last.startswith("-m pytest "), "pytest runs all the same, and last"
    assert last.endswith(" -k two words"), "the user's words come after our own, and so win"
    python.write_text('#!/bin/sh\ncase "$*" in *pytest*) exit 5 ;; esac\n')
    done = machine.run("test")
    assert done.returncode == 5
    assert "enoslib" not in done.stdout, "installed only once"


def test_ctrl_c_exits_with_130_and_the_next_call_continues(machine: Fake) -> None:
    machine.tools()
    machine.python()
    slow = machine.bin / "python3"
    normal = slow.read_text()
    slow.write_text(normal.replace("*-m\\ venv*)", "*-m\\ venv*) sleep 20;"))
    machine.program("id", "echo 0")
    with subprocess.Popen(
        # A job in the background of a shell ignores SIGINT, and so would all its children.
        ["env", "--default-signal=INT", "/bin/sh", str(machine.checkout / "bootstrap")],
        env={"PATH": str(machine.bin), "G5KVIRT_PYTHON": str(slow)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        seen = ""
        while "virtual environment" not in seen:
            seen += (letter := process.stdout.read(1))
            assert letter, f"it ended too early: {seen}"
        for _ in range(50):  # a shell that is just about to fork may miss one; people press it again
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(timeout=0.3)
            except subprocess.TimeoutExpired:
                continue
            break
        _, said = process.communicate(timeout=5)
    assert process.returncode == 130
    assert "interrupted" in said
    slow.write_text(normal)
    assert machine.run().returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_bootstrap_of_a_ready_machine_is_fast(machine: Fake) -> None:
    machine.tools()
    machine.python()
    machine.run()
    # Not a bound in time: no apt, no pip and no Python are called when everything is there.
    for name in ("apt-get", "python3"):
        machine.program(name, f"echo {name} >>{machine.checkout.parent}/called.log")
    machine.run("runs")
    assert machine.log("called") == []
