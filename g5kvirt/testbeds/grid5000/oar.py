"""What OAR's commands print, and what it means: states of jobs, how a job ended, refusals. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

__all__ = ["STATES", "end_of_job", "has_ended", "is_usable", "oarstat_fields", "refusal_reason"]

#: Every state of a job in OAR, and what it means here. "usable": it runs, or will start by itself. "blocked":
#: it continues only when it is resumed. "ended": it has no machines any more, nor will have; while a job
#: is Finishing or toError, its machines are being taken away already.
STATES: Mapping[str, Literal["usable", "blocked", "ended"]] = {
    "Waiting": "usable",
    "toAckReservation": "usable",
    "toLaunch": "usable",
    "Launching": "usable",
    "Running": "usable",
    "Hold": "blocked",
    "Suspended": "blocked",
    "Resuming": "blocked",
    "Finishing": "ended",
    "Terminated": "ended",
    "toError": "ended",
    "Error": "ended",
}


def has_ended(state: str) -> bool:
    """Whether a job in this state has no machines any more, nor will have. False for an unknown state."""
    return STATES.get(state) == "ended"


def is_usable(state: str) -> bool:
    """Whether a job in this state runs or will start by itself. False for an unknown state."""
    return STATES.get(state) == "usable"


def oarstat_fields(printed: str) -> dict[str, str]:
    """The fields that ``oarstat -f`` printed of one job, by their names."""
    return dict(re.findall(r"^ *(\w+) = (.*?)\s*$", printed, re.MULTILINE))


# ---- how a job ended ---------------------------------------------------------------------------------

#: The events at the end of what ``oarstat -fj`` prints: date, type, description.
_EVENT = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)> (\w+):(.*?)\s*$", re.M)
_DELETED = re.compile(r"User (\S+) requested to frag")


def end_of_job(site: str, job: int, printed: str) -> str:
    """When and why job ``job`` of ``site`` ended, as a clause; empty if it has not, or ``printed`` is empty.

    ``printed``: the output of ``oarstat -fj``, with or without carriage returns. Times are the site's own.
    """
    fields = oarstat_fields(printed)
    state = fields.get("state", "")
    if not has_ended(state):
        return ""
    events = _EVENT.findall(printed)
    # OAR 2.5.9 prints stopTime, Grid'5000's own stop_time.
    stop = fields.get("stopTime") or fields.get("stop_time")
    when = stop or (events[-1][0] if events else "")
    return f"job {job} at {site} ended{f' at {when}' if when else ''} ({_reason(state, events, fields)})"


def _reason(state: str, events: list[tuple[str, str, str]], fields: Mapping[str, str]) -> str:
    # An event of a walltime that was extended has the same type as one of a walltime that is over.
    descriptions = {
        kind: text for _, kind, text in events if not text.lstrip().startswith("walltime changed")
    }
    if "WALLTIME" in descriptions:
        walltime = fields.get("walltime")
        return f"its walltime{f' of {walltime}' if walltime else ''} was over"
    if "FRAG_JOB_REQUEST" in descriptions:
        user = _DELETED.search(descriptions["FRAG_JOB_REQUEST"])
        return f"it was deleted{f' by {user[1]}' if user else ''}"
    if state == "Terminated":
        return "its command was over"
    last = events[-1][2] if events else ""
    return f"state {state}" + (f", {last[:100]}" if last else "")


# ---- why a job was refused ---------------------------------------------------------------------------

#: Lines that oarsub prints whether it accepts a job or not, or in addition to the reason. Grid'5000's own
#: begins its remarks about a request with "# ", where OAR 2.5.9 has "[ADMISSION RULE]" or nothing.
_NOT_A_REASON = re.compile(
    r"\[ADMISSION RULE\] (Modify|Automatically|Set)|OAR_JOB_ID=|(# )?(Reservation mode|Generate a job key)"
    r"|(\[ERROR\] )?Oarsub failed|LINE \d+:|[\s^)]*$|Pseudo-terminal"
    r"|# (Filtering|Set|Warning|Include|Advance reservation request)"
)


def refusal_reason(lines: Sequence[str]) -> str:
    """Why oarsub refused a job, from the lines that it printed; empty if none of them is a reason.

    That is not the last line: after a request that PostgreSQL or the resources refuse comes the advice to
    verify its syntax, and PostgreSQL's reason takes several lines. Where some lines are marked as
    remarks, "# ", and others are not, it is the first of the others.
    """
    candidates = [line for line in lines if not _NOT_A_REASON.match(line)]
    candidates.sort(key=lambda line: line.startswith("# "))
    return _without_prefix(candidates[0]) if candidates else ""


def _without_prefix(line: str) -> str:
    line = line.removeprefix("# ")
    line = re.sub(r"^\[ADMISSION RULE\] ?(Error: ?)?|^Bad resource request \(ERROR: *|^ERROR *: *", "", line)
    line = re.sub(r"^Reservation not valid --> KO \((.*)\)$", r"not at that time: \1", line)
    return line.strip().rstrip(".")
