"""Our commands in real fish and tcsh, whose words differ from those of sh: the answer comes out whole."""

from __future__ import annotations

import shlex
from pathlib import Path

import loginshells
import pytest

from g5kvirt.errors import MachineError
from g5kvirt.testbeds.grid5000.answers import marked, read_answer

#: Start-up files that print, and that make fish and tcsh do things of their own.
STARTUP = {
    "fish": (".config/fish/config.fish", "set -gx LC_ALL fr_FR.UTF-8\necho Bienvenue\necho 14\n"),
    "tcsh": (".tcshrc", "setenv LC_ALL fr_FR.UTF-8\necho Bienvenue\necho 14\nset echo\nset noglob\n"),
}


@pytest.fixture(scope="module", autouse=True)
def _shells() -> None:
    try:
        loginshells.unpacked()
    except MachineError as error:
        pytest.skip(f"apt gives no fish and tcsh: {error.message}")


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("shell", loginshells.SHELLS)
def test_marked_command_is_answered_whatever_the_login_shell(
    shell: str, live: bool, noisy: bool, tmp_path: Path
) -> None:
    words = ["it's", "a!b", r"a\nb\\", "two\nlines", '$HOME `id` "x" %s', "{a,b} * ?", "~ ^ & ;", "é"]
    command = f"printf '%s|' {shlex.join(words)}; echo; printf $LC_ALL; exit 3"
    if noisy:
        file, text = STARTUP[shell]
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    done = loginshells.run(shell, tmp_path, marked(command, live=live))
    answer = read_answer(done.stdout.replace("\n", "\r\n"))
    assert "\n".join(answer.lines) == "|".join([*words, "\nC"])
    assert (answer.code, answer.errors) == (3, ())
    assert ("Bienvenue" in answer.noise) is noisy


@pytest.mark.parametrize("shell", loginshells.SHELLS)
def test_an_unmarked_command_is_read_differently(shell: str, tmp_path: Path) -> None:
    """Else these would be no other shells."""
    done = loginshells.run(shell, tmp_path, "v=1; echo $v; for n in 1 2; do echo $n; done")
    assert done.stdout != "1\n1\n2\n"
