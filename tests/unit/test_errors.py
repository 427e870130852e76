"""What a person sees of an error."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest

from g5kvirt import errors
from g5kvirt.errors import (
    CapacityError,
    G5kvirtError,
    PhaseError,
    SpecError,
    TestbedError,
    for_a_notebook,
)
from g5kvirt.phases.watching import interruptible

OURS = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, G5kvirtError)]


def test_cell_shows_the_error_and_the_lines_of_the_user() -> None:
    cell = "from g5kvirt import Spec\ndef ask():\n    return Spec(sites={'nancy': 0}, vms=2)\nask()"
    words = [sys.executable, "-m", "IPython", "--colors=nocolor", "--no-confirm-exit", "-c", cell]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    shown = done.stdout.strip().splitlines()
    assert shown[0].endswith("SpecError\x1b[39m: sites.nancy must be a whole number, at least 1, not 0")
    assert [line.split(": ", 1)[1] for line in shown[1:]] == [
        "ask()",
        "return Spec(sites={'nancy': 0}, vms=2)",
    ]


def test_every_error_is_shown_without_our_frames() -> None:
    assert len(OURS) == 9
    for kind in OURS:
        error = kind.__new__(kind)
        error.args = ("so it is",)
        assert error._render_traceback_() == [f"\x1b[31m{kind.__name__}\x1b[39m: so it is"]


def test_str_is_message_and_advice_as_one_sentence() -> None:
    error = SpecError("unknown site 'nanci': really", advice="did you mean 'nancy'?")
    assert str(error) == "unknown site 'nanci': really: did you mean 'nancy'?"
    assert (error.message, error.advice) == ("unknown site 'nanci': really", "did you mean 'nancy'?")
    assert (str(SpecError("no")), SpecError("no").advice) == ("no", "")


@pytest.mark.parametrize(
    "error",
    [
        TestbedError("no answer", advice="try again"),
        CapacityError("too few", requested=3, available=1, advice="ask for 1"),
        PhaseError("failed", phase="deploy", step="kadeploy3", advice="call deploy() again"),
    ],
)
def test_error_survives_pickling_and_a_background_process(error: G5kvirtError) -> None:
    kind = type(error)
    restored = kind.__new__(kind, str(error))  # as g5kvirt.background does it
    restored.__dict__.update(json.loads(json.dumps(vars(error))))
    for copy in (pickle.loads(pickle.dumps(error)), restored):
        assert type(copy) is kind
        assert (str(copy), vars(copy)) == (str(error), vars(error))


def test_file_of_the_user_is_named() -> None:
    with pytest.raises(SpecError) as raised:
        raise SpecError("no")
    (_, line) = for_a_notebook(raised.value)
    assert line.endswith('test_errors.py: raise SpecError("no")')


def test_interrupt_has_advice_on_continuing() -> None:
    again = r"launch\(\) was interrupted.*call it again"
    with pytest.raises(KeyboardInterrupt, match=again) as raised, interruptible("launch"):
        raise KeyboardInterrupt
    assert type(raised.value) is KeyboardInterrupt, "or Python does not end as by SIGINT"
    sentence, *lines = raised.value._render_traceback_()
    assert sentence.startswith("\x1b[31mKeyboardInterrupt\x1b[39m: launch() was interrupted")
    assert lines
