"""Which host environment is meant where kaenv3 prints several under one name."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.errors import SpecError
from g5kvirt.spec.environment_name import EnvironmentName, read_name
from g5kvirt.testbeds.grid5000 import preflight
from g5kvirt.testbeds.grid5000.answers import Answer
from g5kvirt.testbeds.grid5000.frontends import answer_of
from g5kvirt.testbeds.grid5000.host_environments import AmbiguousError, choose, listed

#: As a frontend prints it, with another program's lines in front, and nested keys that look like ours.
PRINTED = """version: of the day
---
name: debian12-min
alias: debian12-min
version: 2026010101
arch: x86_64
image:
  file: server:///grid5000/images/debian12-min.tar.zst
  compression: zstd
postinstalls:
- archive: server:///grid5000/postinstalls/g5k-postinstall.tgz
  version: 7
  name: nested
user: deploy
---
name: debian12-min
version: 2026010101
arch: aarch64
user: deploy
---
name: debian12-min
version: 2026010101
arch: 'ppc64le'
user: deploy
"""
FOUND = [
    EnvironmentName("debian12-min", "deploy", "2026010101", arch) for arch in ("x86_64", "aarch64", "ppc64le")
]


def answer(lines: Sequence[str], newline: str = "\n") -> Answer:
    """What `run_on_frontend` makes of kaenv3's lines."""
    marked = [f"g5kvirt-out:{line}" for line in ("g5kvirt-shell bash", *lines)]
    out = newline.join([*marked, "g5kvirt-end:0", ""])
    return answer_of(SimpleNamespace(stdout=out, stderr="", exit_code=0, timeouted=False, timeout=30))


def test_several_documents_are_read_with_their_own_fields_only() -> None:
    assert listed(PRINTED.splitlines()) == FOUND
    assert listed(PRINTED.replace("---\n", "").splitlines()[1:]) == FOUND, "older ones print no separators"
    assert listed(["---", "nothing: here"]) == []


@pytest.mark.parametrize(
    "name",
    [
        "debian12-min",
        "debian12-min@deploy",
        "debian12-min:2026010101",
        "debian12-min@deploy:2026010101%x86_64",
    ],
)
def test_the_one_for_the_hosts_architecture_is_chosen(name: str) -> None:
    assert choose(name, FOUND) == FOUND[0]


def test_an_environment_without_an_architecture_is_for_all() -> None:
    assert choose("mine", [EnvironmentName("mine")]) == EnvironmentName("mine")
    assert choose("mine%aarch64", [EnvironmentName("mine")], "aarch64") == EnvironmentName("mine")


@pytest.mark.parametrize(
    ("name", "found", "message"),
    [
        ("a%aarch64", FOUND, "a%aarch64 is for aarch64, and hosts are x86_64"),
        ("a", FOUND[1:], "a exists for aarch64, ppc64le only, and hosts are x86_64"),
        ("a:3", FOUND[:1], "a:3 does not exist, but debian12-min@deploy:2026010101%x86_64"),
        ("a@me", FOUND[:1], "a@me does not exist, but debian12-min@deploy:2026010101%x86_64"),
        ("a", [], "a does not exist"),
    ],
)
def test_none_that_fits_is_an_error(name: str, found: list[EnvironmentName], message: str) -> None:
    with pytest.raises(SpecError) as error:
        choose(name, found)
    assert error.value.message == message
    assert error.value.advice


def test_ambiguity_is_told_with_the_names_to_choose_from() -> None:
    with pytest.raises(AmbiguousError) as error:
        choose(
            "a",
            [EnvironmentName("a", "", "1", "x86_64"), EnvironmentName("a", "", "2", "x86_64"), *FOUND[1:]],
        )
    assert error.value.message == "a may be any of 2 environments for x86_64: a:1%x86_64, a:2%x86_64"


@pytest.mark.parametrize(
    ("name", "text", "status", "code", "words"),
    [
        ("debian12-min", PRINTED, "ok", "ok", "(debian12-min@deploy:2026010101%x86_64)"),
        ("debian12-min%aarch64", PRINTED, "problem", "unknown-environment", "hosts are x86_64"),
        (
            "a",
            "---\nname: a\nversion: 1\n---\nname: a\nversion: 2\n",
            "warning",
            "ambiguous-environment",
            "a:2",
        ),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_check_reports_which_one(
    name: str, text: str, status: str, code: str, words: str, newline: str
) -> None:
    [_, found] = preflight.frontend_findings("nancy", name, answer(text.splitlines(), newline))
    assert (found.status, found.code) == (status, code)
    assert words in found.message


@pytest.mark.parametrize(("name", "lookups"), [("x", 2), ("x@me", 1)])
def test_a_name_with_its_owner_is_not_looked_for_elsewhere(
    name: str, lookups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []

    def run(_: str, command: str, __: float) -> Any:
        sent.append(command)
        return Answer(failure="no answer")

    monkeypatch.setattr(preflight, "run_on_frontend", run)
    preflight.find_environment(name, ["nancy"])
    assert sent[0].count(f"-p {name}") == lookups
    assert ("-u deploy" in sent[0]) == (lookups == 2)


def test_names_have_up_to_four_parts() -> None:
    assert read_name("a@b:3%c") == EnvironmentName("a", "b", "3", "c")
    assert read_name("a%c") == EnvironmentName("a", arch="c")
    assert read_name("a b") is None


@given(st.lists(st.one_of(st.sampled_from(PRINTED.splitlines()), st.text(max_size=20))), st.text(max_size=20))
def test_mangled_output_is_an_error_or_an_environment(lines: list[str], name: str) -> None:
    found = listed(lines)
    with suppress(SpecError):
        assert choose(name, found) in found
    assert preflight.frontend_findings("nancy", name, answer(lines))
