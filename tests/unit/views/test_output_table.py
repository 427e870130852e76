"""What VMs printed is shown, and never acted upon by a terminal or a browser."""

from __future__ import annotations

import pandas as pd
import pytest

from g5kvirt.views.output_table import OutputTable

EVIL = "\x1b[2J\x1b]0;title\x07" + chr(0x202E) + "txt.exe\r\x9b31m<script>"


@pytest.fixture
def table() -> OutputTable:
    return OutputTable([{"vm": "vm-1", "out": EVIL, "code": 0}, {"vm": "vm-2", "out": "é\n", "code": 1}])


def test_every_picture_is_printable_and_every_cell_exact(table: OutputTable) -> None:
    pictures = [
        repr(table),
        str(table),
        table.to_string(),
        table._repr_html_() or "",
        repr(table["out"]),
        repr(table.iloc[0]),
        repr(table[table["code"] == 0]),
        repr(table.set_index("vm")[["out"]]),
        repr(table.sort_values("vm").head(1)),
    ]
    for picture in pictures:
        assert all(c.isprintable() or c == "\n" for c in picture), picture
        assert "\\x1b[2J" in picture
    assert table["out"][0] == EVIL
    assert table.loc[1, "out"] == "é\n"
    assert "<script>" not in (table._repr_html_() or "")


def test_it_is_a_frame_as_others(table: OutputTable) -> None:
    assert isinstance(table, pd.DataFrame)
    joined = table.merge(pd.DataFrame({"vm": ["vm-1"], "host": ["a"]}), on="vm")
    assert list(joined["host"]) == ["a"]
    assert table["code"].sum() == 1
