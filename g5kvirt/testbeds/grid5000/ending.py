"""How a job ended, read from what ``oarstat -fj`` says of it."""

from __future__ import annotations

import re

__all__ = ["ENDED", "how_it_ended"]

#: States that a job does not come back from. While it is "Finishing" its machines are taken away already.
ENDED = ("Terminated", "Error", "Finishing", "toError")

_STATE = re.compile(r"^\s*state = (\w+)\s*$", re.M)
#: OAR 2.5.9 writes stopTime, Grid'5000's own stop_time.
_STOP = re.compile(r"^\s*stop(?:T|_t)ime = (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\s*$", re.M)
_WALLTIME = re.compile(r"^\s*walltime = ([\d:]+)\s*$", re.M)
#: The events at the end of the answer: date, type, description.
_EVENT = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)> (\w+):(.*?)\s*$", re.M)
_DELETED = re.compile(r"User (\S+) requested to frag")


def how_it_ended(site: str, job: int, said: str) -> str:
    """When and why job ``job`` of ``site`` ended, as a clause; empty if it has not, or nobody says.

    ``said``: what ``oarstat -fj`` printed, with or without carriage returns. Times are the site's own.
    """
    state = _STATE.search(said)
    if state is None or state[1] not in ENDED:
        return ""
    events = _EVENT.findall(said)
    stop = _STOP.search(said)
    when = stop[1] if stop else events[-1][0] if events else ""
    return f"job {job} at {site} ended{f' at {when}' if when else ''} ({_why(state[1], events, said)})"


def _why(state: str, events: list[tuple[str, str, str]], said: str) -> str:
    kinds = {kind: text for _, kind, text in events}
    if "WALLTIME" in kinds:
        walltime = _WALLTIME.search(said)
        return f"its walltime{f' of {walltime[1]}' if walltime else ''} was over"
    if "FRAG_JOB_REQUEST" in kinds:
        user = _DELETED.search(kinds["FRAG_JOB_REQUEST"])
        return f"it was deleted{f' by {user[1]}' if user else ''}"
    if state == "Terminated":
        return "its command was over"
    last = events[-1][2] if events else ""
    return f"OAR says {state}" + (f", {last[:100]}" if last else "")
