"""The walk of a newcomer: without root each time, in full with ``-m slow`` or ``python tests/newcomer``."""

from __future__ import annotations

from typing import ClassVar

import pytest
from localbed import MARKS
from walk import Walk, line, walk, with_root, without_root


def table(played: Walk) -> str:
    return "\n".join(map(line, played.steps))


def test_a_user_without_root_checks_predicts_and_draws_from_a_wheel() -> None:
    with walk(fetched=False) as played:
        without_root(played)
    assert played.ok, table(played)


class TestWithRoot:
    """What only root can do."""

    pytestmark: ClassVar = [*MARKS, pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(3600)]

    def test_the_whole_walk_to_an_archive_that_somebody_else_opens(self) -> None:
        with walk(fetched=True) as played:
            without_root(played)
            with_root(played)
        print(table(played))
        assert played.ok, table(played)
