"""The relay's command line.

::

    python3 -I -S DIRECTORY relay run JOB.json [STATE.json]    fetch, check, serve until SIGTERM
    python3 -I -S DIRECTORY relay watch STATE.json SECONDS     print what the relay reports until it ends
"""

from __future__ import annotations

import json
import os
import sys

USAGE = "usage: relay run JOB.json [STATE.json] | relay watch STATE.json SECONDS\n"


def main(arguments: list[str]) -> int:
    """Run or watch a relay; 2 if that is not possible."""
    if len(arguments) == 3 and arguments[0] == "watch":
        from .watch import watch

        return watch(arguments[1], float(arguments[2]))
    if len(arguments) in (2, 3) and arguments[0] == "run":
        return run(arguments[1], arguments[2] if len(arguments) == 3 else None)
    sys.stderr.write(USAGE)
    return 2


def run(job: str, state: str | None) -> int:
    """Do the job of a file; 0 if the image came and is right, 1 if not, 2 if the job is not one."""
    from .server import Relay

    # a name server that is gone is no reason to stop
    os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:2")
    try:
        with open(job, encoding="utf-8") as file:
            relay = Relay(json.load(file), state)
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.stderr.write(f"the job {job} cannot be started: {error!r}\n")
        return 2
    try:
        return relay.run()
    except OSError as error:
        sys.stderr.write(f"the relay ended: {error}\n")
        return 1
