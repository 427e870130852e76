"""A fixed dozen of the cells; all of them by ``python tests/faults``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

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


#: Each cell mostly waits, so three are played at once.
THREES = [CELLS[first : first + 3] for first in range(0, len(CELLS), 3)]


@pytest.mark.timeout(500)
@pytest.mark.parametrize("cells", THREES, ids=lambda cells: "+".join(map(str, cells)))
def test_what_breaks_costs_no_more_than_it_must(cells: tuple[Cell, ...]) -> None:
    with ThreadPoolExecutor(len(cells)) as pool:
        outcomes = list(pool.map(play, cells))
    assert [outcome for outcome in outcomes if outcome.problems] == []
