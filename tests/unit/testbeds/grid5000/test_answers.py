"""An answer of a frontend among the words of a login shell: it comes out whole, or one sentence does."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise import WORDS, connection, ends, finished, noise, prompts

from g5kvirt.testbeds.grid5000.answers import marked, quoted, read_answer, unreadable
from g5kvirt.testbeds.grid5000.frontends import answer_of

SHELLS = [shell for shell in ("sh", "bash", "dash", "zsh", "fish", "tcsh") if shutil.which(shell)]
PLAIN = [word for word in WORDS if "\x1b" not in word]  # what is for a terminal is no part of an answer
LINES = st.lists(st.sampled_from(PLAIN) | st.text(st.characters(exclude_characters="\r\n\x1b")), max_size=5)


# ---- the command ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("live", [False, True])
def test_marked_command_runs_in_sh_whatever_the_shell(shell: str, live: bool) -> None:
    words = ["it's", "a!b", r"a\nb\\", "two\nlines", '$HOME `id` "x" %s', "{a,b} * ?", "é"]
    command = f"printf '%s|' {shlex.join(words)}; printf $LC_ALL; exit 3"
    done = subprocess.run([shell, "-c", marked(command, live=live)], capture_output=True, text=True)
    answer = read_answer(f"12 users\n{done.stdout}")
    assert "\n".join(answer.lines) == "|".join([*words, "C"])
    assert (answer.code, answer.errors, answer.noise, done.stderr) == (3, (), ("12 users",), "")


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8")))
def test_marked_command_has_no_sign_that_shells_read_differently(text: str) -> None:
    """Within single quotes csh reads ! and newlines, fish reads backslashes before \\ and '."""
    words = shlex.split(marked(f"printf %s {shlex.quote(text)}"))
    assert words[:3] == ["env", "LC_ALL=C", "sh"]
    assert not set(words[-1]) & set("!'\n")
    assert "\\\\" not in words[-1]
    assert "g5kvirt-" not in text or text in words[-1], "a shell that echoes its commands answers nothing"


def test_standard_error_is_apart_and_no_newline_is_needed() -> None:
    script = "echo one; echo trouble >&2; printf two; printf more >&2; false"
    done = subprocess.run(["sh", "-c", marked(script)], capture_output=True, text=True)
    answer = read_answer(done.stdout)
    assert (answer.lines, answer.errors, answer.code) == (("one", "two"), ("trouble", "more"), 1)


# ---- reading it ----------------------------------------------------------------------------------------


@given(LINES, LINES, st.integers(0, 255), noise, prompts, ends)
def test_answer_comes_out_of_any_noise(
    lines: list[str], errors: list[str], code: int, noisy: Sequence[Sequence[str]], prompt: str, end: str
) -> None:
    if noisy[1] and any("\n" in word for word in noisy[1]):
        noisy = [noisy[0], [], noisy[2]]
    answer = read_answer(connection(lines, code, noisy, prompt, end, errors))

    def stripped(told: Sequence[str]) -> list[str]:
        kept = list(told)
        while kept and not kept[-1].strip():
            kept.pop()
        return kept

    assert list(answer.lines) == stripped(lines)
    assert list(answer.errors) == stripped(errors)
    assert answer.code == code
    assert not any("g5kvirt-" in line for line in answer.noise)


@pytest.mark.parametrize(
    "word",
    [
        "\x1b[32m{}\x1b[0m",
        "{}\x1b[K",
        "\x1b]0;g5k@fnancy: ~\x07{}",
        "\x1b[?2004l{}",
        "\x1b(B{}",
        "\x1b[38;5;1m{}",
    ],
)
def test_colours_are_no_part_of_an_answer(word: str) -> None:
    """oarsub's id between two colours is an id: its job would hold its machines, and be called refused."""
    text = word.format("OAR_JOB_ID=12")
    answer = read_answer(
        f"{word}\r\n{word.format('g5kvirt-out:')}{text}\r\n{word.format('g5kvirt-end:0')}\r\n"
    )
    assert (answer.lines, answer.code) == (("OAR_JOB_ID=12",), 0)


def test_carriage_returns_are_read_once() -> None:
    begin = time.process_time()
    assert not read_answer("\r" * 200_000 + "x").ok
    assert time.process_time() - begin < 2


@given(
    st.text() | st.lists(st.sampled_from(WORDS)).map("\r\n".join), st.sampled_from((0, 255, 65280, 15, None))
)
def test_no_answer_is_one_sentence(text: str, exit_code: int | None) -> None:
    answer = answer_of(finished(text.replace("g5kvirt-", ""), exit_code=exit_code))
    assert not answer.ok
    assert answer.lines == ()
    assert answer.failure.isprintable()
    assert 0 < len(answer.failure) < 400


def test_unreadable_answer_is_quoted_printable_and_cut() -> None:
    assert quoted(["a\x1b[1m", "", "  b\tc "]) == r'"a\x1b[1m / b c"'
    assert len(quoted(["x" * 1000])) < 130
    assert unreadable(read_answer("Hello\r\n")) == 'its answer cannot be read: "Hello"'
    assert unreadable(read_answer("")) == "its answer is empty"


def test_connection_that_breaks_amid_an_answer_gives_ssh_s_reason() -> None:
    broken = connection(["1"], None)
    answer = answer_of(finished(broken, "client_loop: send disconnect: Broken pipe\r\n", 255))
    assert answer.failure == "client_loop: send disconnect: Broken pipe"
    refused = "motd\r\nssh: connect to host n port 22: Connection refused\r\n"
    assert "Connection refused" in answer_of(finished("", refused, 255)).failure
