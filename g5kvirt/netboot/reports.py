"""What a VM may report: a grammar with bounds. VMs are not trusted, and anybody on their network can send.

A report is a request ``GET /report?step=…&key=value&…`` whose line in the server's log is the event. Anything
else is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

from g5kvirt.run.printable import printable
from g5kvirt.run.vocabulary import MACROS, MINIMAL_SYSTEM

__all__ = ["REPORTED", "parse_report"]

#: The steps that VMs report; all others are observed by other components.
REPORTED = frozenset({MINIMAL_SYSTEM, "environment"}).union(*MACROS.values()) - {
    "reboot",
    "broadcast",
    "reset",
    "ready",
}

#: Characters of a report's query, and of its reason, at most.
_LONGEST = 1900
_REASON = 300
_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,6})?"

#: What else is in a report: key → what its value may be.
_VALUES: Mapping[str, re.Pattern[str]] = {
    key: re.compile(pattern)
    for key, pattern in {
        "name": r"[a-z0-9-]{1,63}",
        "mac": r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}",
        "up": _NUMBER,
        "up_kernel": _NUMBER,
        "up_address": _NUMBER,
        "dns": r"[0-9a-f.:]{0,45}",
        "deployment": r"[A-Za-z0-9_-]{1,40}(?:\.[0-9]{1,6})?",
        "status": r"ok|failed",
        "tries": r"[0-9]{1,6}",
        "permanent": r"[01]",
        "hopeless": r"[01]",
    }.items()
}


def parse_report(query: str) -> tuple[str, dict[str, str]] | None:
    """The step of a report and its values; None if it is none.

    A reason is cut off, and its control characters are written out, since it will be shown.
    """
    if len(query) > _LONGEST:
        return None
    pairs = parse_qsl(query, keep_blank_values=True, errors="replace")
    values = dict(pairs)
    step = values.pop("step", "")
    if len(values) + 1 != len(pairs) or step not in REPORTED:
        return None
    reason = values.pop("reason", None)
    for key, value in values.items():
        if key not in _VALUES or not _VALUES[key].fullmatch(value):
            return None
    if reason is not None:
        values["reason"] = printable(reason[:_REASON])
    return step, values
