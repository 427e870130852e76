"""Plays cells of the table of faults and prints it: ``python tests/faults [--seed 1 --number 12 | CELL…]``.

Without arguments all cells, some hundred, of half a minute each. Needs root.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

from cells import ALL, Cell, Outcome, draw, play

HEADINGS = ("fault", "during", "experiment (s)", "step ended after (s)", "deployed", "error", "")


def table(outcomes: list[Outcome]) -> str:
    """In Markdown."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *(outcome.row for outcome in outcomes)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cells", nargs="*", metavar="VICTIM:PHASE")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--number", type=int, default=12)
    parser.add_argument("-o", "--output", type=Path, help="also write the table there, after each cell")
    given = parser.parse_args()
    chosen = [Cell(*one.split(":")) for one in given.cells] or ALL
    if given.seed is not None:
        chosen = draw(given.seed, given.number)
    outcomes: list[Outcome] = []
    for cell in chosen:
        start = time.monotonic()
        try:
            outcome = play(cell)
        except Exception as error:  # noqa: BLE001  the others are played all the same
            outcome = Outcome(cell, problems=[f"{type(error).__name__}: {error}"])
        outcomes.append(outcome)
        print(f"{time.monotonic() - start:5.0f} s  {cell}: {' | '.join(outcome.row[2:])}", flush=True)
        if given.output is not None:
            given.output.write_text(table(outcomes) + "\n", encoding="utf-8")
    bad = [outcome for outcome in outcomes if outcome.problems]
    print(f"{len(outcomes)} cells, {len(bad)} with problems")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
