"""A journal and run.json of any shape: read, or refused in a sentence that names the place."""

from __future__ import annotations

import json
import lzma
import random
from pathlib import Path
from typing import Any

import pytest

from g5kvirt import Experiment
from g5kvirt.errors import G5kvirtError, RunError
from g5kvirt.run import lines
from g5kvirt.run.journal import read_events

RUN = Path(__file__).parents[3] / "data" / "runs" / "emulated-8"
JOURNAL = lzma.decompress((RUN / "journal.jsonl.xz").read_bytes()).decode().splitlines()
DOCUMENT = json.loads((RUN / "run.json").read_text(encoding="utf-8"))
VALUES = [
    None,
    True,
    0,
    -1,
    1e308,
    float("inf"),
    float("nan"),
    10**30,
    "",
    "x" * 300,
    [],
    {},
    ["a"],
    {"a": 1},
]
VALUES += ["measure", "launch", "d1", "vm-1", "ok", "failed", "\x1b[2J", "é\u202e"]


def mutated(document: Any, draw: random.Random) -> Any:
    """The same with one value changed, removed or added, at any depth."""
    document = json.loads(json.dumps(document))
    inside = document
    while isinstance(inside, dict | list) and inside:
        key: Any = draw.choice(list(inside)) if isinstance(inside, dict) else draw.randrange(len(inside))
        if isinstance(inside[key], dict | list) and draw.random() < 0.7:
            inside = inside[key]
            continue
        if draw.random() < 0.2:
            del inside[key]
        elif draw.random() < 0.1 and isinstance(inside, dict):
            inside[str(draw.choice(VALUES))] = draw.choice(VALUES)
        else:
            inside[key] = draw.choice(VALUES)
        break
    return document


def mutated_journal(draw: random.Random) -> list[str]:
    found = list(JOURNAL)
    for _ in range(draw.randint(1, 3)):
        at, kind = draw.randrange(len(found)), draw.random()
        if kind < 0.1:
            found[at] = found[at][: draw.randrange(len(found[at]))]
        elif kind < 0.2:
            found[at] = json.dumps(draw.choice(VALUES))
        elif kind < 0.3:
            del found[at]
        elif kind < 0.4:
            found.insert(at, draw.choice(found))
        elif found[at].startswith("{") and found[at].endswith("}"):
            found[at] = json.dumps(mutated(json.loads(found[at]), draw))
    return found


#: Forty runs a seed: 10,000 with ``-m slow``.
@pytest.mark.parametrize(
    "seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 250))]
)
def test_a_mangled_run_is_read_or_refused_in_a_sentence(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    refused = 0
    for _ in range(40):
        document = mutated(DOCUMENT, draw) if draw.random() < 0.2 else DOCUMENT
        (tmp_path / "run.json").write_text(json.dumps(document), encoding="utf-8")
        text = "\n".join(mutated_journal(draw)) + "\n"
        (tmp_path / "journal.jsonl").write_text(text, encoding="utf-8")
        try:
            exp = Experiment.open(tmp_path)
            assert repr(exp)
            assert exp._repr_html_()
            assert exp.frames.account.requested >= 0
            exp.frames.export(tmp_path / "tables")
        except G5kvirtError:
            refused += 1
    assert 0 < refused < 40


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"t": 1, KINDS, "attempt": 1e9}', "no time, or no number"),
        ('{"t": 1e300, KINDS}', "no time, or no number"),
        ("[" * 5000, ""),
        ('{"t": 1', ""),
        ("null", ""),
        ('"x"', ""),
    ],
)
def test_a_line_that_is_no_event_is_named(line: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    kinds = '"phase": "launch", "step": "x", "kind": "vm", "subject": "v", "status": "ok"'
    line = line.replace("KINDS", kinds)
    path.write_text("\n".join([*JOURNAL[:4], line, *JOURNAL[4:6]]) + "\n", encoding="utf-8")
    with pytest.raises(RunError, match=rf"journal.jsonl, line 5 is not an event \(.*{problem}"):
        read_events(path)


def test_a_line_without_end_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_LONGEST", 1 << 20)
    path = tmp_path / "journal.jsonl"
    path.write_text("\n".join([*JOURNAL[:2], '{"t": "' + "x" * (2 << 20) + '"}', *JOURNAL[2:]]) + "\n")
    with pytest.raises(RunError, match=r"line 3 is not an event .it is longer than 1 MiB"):
        read_events(path)
