"""A fixed dozen of the cells; all of them by ``python tests/faults``."""

from __future__ import annotations

import pytest
from cells import Cell, play
from localbed import MARKS

pytestmark = MARKS

#: One for each victim, in a phase in which it matters; tests/system/test_measure.py kills nginx and a relay.
CELLS = (
    Cell("host", "set-up"),
    Cell("link", "launch"),
    Cell("hostile-agent", "set-up"),
    Cell("vm", "broadcast"),
    Cell("dnsmasq", "launch"),
    Cell("postgresql", "reserve"),
    Cell("almighty-killed", "reserve"),
    Cell("api-stopped", "deploy"),
    Cell("frontend-sshd", "release"),
    Cell("site", "launch"),
    Cell("experiment", "set-up"),
    Cell("full-disk", "set-up"),
)


@pytest.mark.timeout(420)
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_what_breaks_costs_no_more_than_it_must(cell: Cell) -> None:
    outcome = play(cell)
    assert outcome.problems == [], outcome
