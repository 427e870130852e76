"""Plays the walk of a newcomer and prints it: ``python tests/newcomer [--quick] [--here] [--guest vm]``.

In full it needs root, the package registry and minutes, of which the image takes three the first time.
"""

from __future__ import annotations

import argparse
import sys

from walk import line, walk, with_root, without_root


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the part without root alone; implies --here")
    parser.add_argument("--here", action="store_true", help="with the dependencies of this environment")
    parser.add_argument("--guest", default="light", choices=("light", "vm"), help="of the experiment")
    given = parser.parse_args()
    with walk(fetched=not (given.quick or given.here), guest=given.guest) as played:
        played.report = lambda step: print(line(step), flush=True)
        without_root(played)
        if not given.quick:
            with_root(played)
    failed = sum(not step.ok for step in played.steps)
    seconds = sum(step.seconds for step in played.steps)
    print(f"{seconds:7.1f} s  {len(played.steps)} steps, {failed} failed or not reached")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
