"""The id of a deployment task, written and read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.netboot.task_id import TaskId


@given(st.text(min_size=1), st.integers(1, 10**6))
def test_task_id_round_trip(deployment: str, attempt: int) -> None:
    assert TaskId.parse(str(TaskId(deployment, attempt))) == TaskId(deployment, attempt)


@pytest.mark.parametrize("text", ["", "d1", "d1.", ".2", "d1.x", "d1.-2", "d1.²"])
def test_text_without_an_attempt_has_attempt_0(text: str) -> None:
    assert TaskId.parse(text) == TaskId(text, 0)
    assert str(TaskId.parse(text)) == text
