"""Conditions on OAR's properties, evaluated without OAR."""

from __future__ import annotations

from typing import Any

import pytest

from g5kvirt.errors import SpecError
from g5kvirt.planning.properties import matching_machines


def host(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "default", "network_address": name, "state": "Alive", "maintenance": "NO", **more}


ROWS = [
    host("g-1.nancy", cluster="graphene", memnode=16384, core=1, gpu=None),
    host("g-2.nancy", cluster="graphene", memnode="32768", core=2, gpu=None),
    host("G-3.nancy", cluster="Griffon", memnode=8192, core=3, gpu="A100"),
    {"type": "subnet", "memnode": None, "network_address": ""},
]


@pytest.mark.parametrize(
    ("condition", "names"),
    [
        ("memnode >= 16384", {"g-1.nancy", "g-2.nancy"}),
        ("memnode >= '16384'", {"g-1.nancy", "g-2.nancy"}),
        ("memnode > 9000 AND cluster = 'graphene' AND NOT core = 1", {"g-2.nancy"}),
        ("cluster IN ('Griffon', 'x') OR network_address LIKE 'g-1.%'", {"G-3.nancy", "g-1.nancy"}),
        ("network_address LIKE 'g-%'", {"g-1.nancy", "g-2.nancy"}),  # PostgreSQL minds capitals
        ("gpu IS NOT NULL", {"G-3.nancy"}),
        ("memnode/1024 = 8", {"G-3.nancy"}),
        ("memnode > 99999", set()),
    ],
)
def test_conditions_are_evaluated_as_by_oar(condition: str, names: set[str]) -> None:
    assert matching_machines(ROWS, condition) == names
    assert matching_machines([], condition) == set()


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("memnodes > 1", "no such column: memnodes"),
        ("memnode >", "syntax error|incomplete input"),
        ("memnode > 1 +", "cannot evaluate the properties .* on the machines of nancy"),
        ("load_extension('x') = 1", "not authorized|no such function"),
    ],
)
def test_conditions_that_cannot_be_evaluated_are_refused(condition: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        matching_machines(ROWS, condition, "nancy")
