"""Printing what a relay reports until it has ended."""

from __future__ import annotations

import json
import os
import sys
import time

RESTART_LIMIT = 10.0  #: seconds that a supervisor may take to start a killed relay again
LONGEST_PAUSE = 0.5  #: seconds between two looks at what a relay reports


def watch(path: str, limit: float) -> int:
    """Print what a relay last reported whenever that changes, until it has ended; 1 if it did not in time.

    A relay that is gone and is not started again for `RESTART_LIMIT` seconds has failed, too.
    """
    began = seen = time.monotonic()
    last, record = "", {}
    while True:
        now = time.monotonic()
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read().strip()
            if text != last:
                last, record = text, json.loads(text)
                sys.stdout.write(text + "\n")
                sys.stdout.flush()
            if os.path.exists(f"/proc/{record['pid']}"):
                seen = now
        except FileNotFoundError:
            pass
        if record.get("state") in ("ok", "failed"):
            return 0
        if record and now - seen > RESTART_LIMIT:
            reason = "its relay has ended and was not restarted"
            sys.stdout.write(
                json.dumps({**record, "state": "failed", "reason": reason, "t": time.time()}) + "\n"
            )
            return 0
        if now - began > limit or now - seen > RESTART_LIMIT:
            return 1
        # hundreds of relays may be watched on one machine
        time.sleep(min(LONGEST_PAUSE, max(0.1, (now - began) / 20)))
