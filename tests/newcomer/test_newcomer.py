"""The walk of a newcomer. With ``-m slow`` all dependencies are installed anew, from the package registry."""

from __future__ import annotations

import os

import pytest
from localbed import MARKS
from walk import Walk, line, walk, with_root, without_root


def played(*, fetched: bool, root: bool) -> Walk:
    with walk(fetched=fetched) as made:
        without_root(made)
        if root:
            with_root(made)
    print("\n".join(map(line, made.steps)))
    return made


@pytest.mark.skipif(os.geteuid() == 0, reason="the walk with root begins with it")
def test_a_user_without_root_checks_predicts_and_draws_from_a_wheel() -> None:
    assert played(fetched=False, root=False).ok


class TestWithRoot:
    """From a wheel to an archive that somebody else opens: groups, a link, an image, an experiment."""

    pytestmark = MARKS

    @pytest.mark.timeout(900)
    def test_the_whole_walk(self) -> None:
        assert played(fetched=False, root=True).ok

    @pytest.mark.slow
    @pytest.mark.timeout(3600)
    def test_the_whole_walk_in_a_fresh_environment(self) -> None:
        assert played(fetched=True, root=True).ok
