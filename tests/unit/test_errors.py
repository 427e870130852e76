"""What a person sees of an error."""

from __future__ import annotations

import subprocess
import sys

import pytest

from g5kvirt import errors
from g5kvirt.errors import G5kvirtError, SpecError, for_a_notebook
from g5kvirt.phases.watching import interruptible

OURS = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, G5kvirtError)]


def test_a_cell_shows_the_sentence_and_the_person_s_own_lines() -> None:
    cell = "from g5kvirt import Spec\ndef ask():\n    return Spec(sites={'nancy': 0}, vms=2)\nask()"
    words = [sys.executable, "-m", "IPython", "--colors=nocolor", "--no-confirm-exit", "-c", cell]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    shown = done.stdout.strip().splitlines()
    assert shown[0].endswith("SpecError\x1b[39m: sites.nancy must be a whole number, at least 1, not 0")
    assert [line.split(": ", 1)[1] for line in shown[1:]] == [
        "ask()",
        "return Spec(sites={'nancy': 0}, vms=2)",
    ]


def test_every_error_of_ours_is_shown_so() -> None:
    assert len(OURS) == 8
    for kind in OURS:
        error = kind.__new__(kind)
        error.args = ("so it is",)
        assert error._render_traceback_() == [f"\x1b[31m{kind.__name__}\x1b[39m: so it is"]


def test_a_file_of_the_person_s_is_named() -> None:
    with pytest.raises(SpecError) as raised:
        raise SpecError("no")
    (_, line) = for_a_notebook(raised.value)
    assert line.endswith('test_errors.py: raise SpecError("no")')


def test_an_interrupt_says_how_to_go_on() -> None:
    again = r"launch\(\) was interrupted.*call it again"
    with pytest.raises(KeyboardInterrupt, match=again) as raised, interruptible("launch"):
        raise KeyboardInterrupt
    assert type(raised.value) is KeyboardInterrupt, "or Python does not end as by SIGINT"
    sentence, *lines = raised.value._render_traceback_()
    assert sentence.startswith("\x1b[31mKeyboardInterrupt\x1b[39m: launch() was interrupted")
    assert lines
