"""How many columns a legend has, and how a footer is broken."""

from __future__ import annotations

import pytest

from g5kvirt.views.curves import legend_columns
from g5kvirt.views.drawing import balanced


@pytest.mark.parametrize(
    ("labels", "columns"),
    [
        (["chain", "tree", "http", "without first reboot"], 3),
        (["median"], 3),
        (["reboot 10, broadcast chain", "reboot 10, broadcast http"], 1),
        (["50 every 10 s", "80 every 15 s", "no window", "transfer bound"], 3),
        (["x" * 200], 1),
    ],
)
def test_a_legend_has_as_many_columns_as_fit(labels: list[str], columns: int) -> None:
    assert legend_columns(labels, 3, 58) == columns


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ("one two three four five own", ["one two three", "four five own"]),  # not one word on the last line
        ("short", ["short"]),
        ("", []),
        ("a-word-longer-than-a-line-is", ["a-word-longer-", "than-a-line-is"]),
    ],
)
def test_lines_of_a_footer_are_about_equally_long(words: str, lines: list[str]) -> None:
    assert balanced(words, 24) == lines
