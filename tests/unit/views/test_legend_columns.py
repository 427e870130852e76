"""How many columns a legend has."""

from __future__ import annotations

import pytest

from g5kvirt.views.curves import legend_columns


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
