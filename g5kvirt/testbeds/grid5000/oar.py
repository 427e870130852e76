"""What OAR's commands print, and what it means: states of jobs, how a job ended, refusals. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from g5kvirt.run.printable import short
from g5kvirt.spec.clock import oar_seconds

__all__ = [
    "STATES",
    "end_of_job",
    "has_ended",
    "is_about",
    "is_usable",
    "listed_jobs",
    "oarstat_fields",
    "oarstat_info",
    "refusal_reason",
    "submitted_job",
]

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


_HEADER = re.compile(r"^\s*(?:Job_Id|id): *(\S+)\s*$", re.MULTILINE)  #: of 2.5.9, and of Grid'5000's own


def is_about(printed: str, job: int) -> bool:
    """Whether this is what ``oarstat -fj`` prints about job ``job``, or nothing: OAR knows no such job."""
    if not printed.strip():
        return True
    header = _HEADER.search(printed)
    return "state" in oarstat_fields(printed) and (header is None or header[1] == str(job))


def oarstat_info(printed: str) -> dict[str, Any]:
    """``name``, ``state`` and ``start_date`` (seconds since the epoch) by ``oarstat -fj``, as far as known.

    ``scheduled_start`` is OAR's present prediction.
    """
    fields = oarstat_fields(printed)
    found: dict[str, Any] = {key: fields[key] for key in ("name", "state") if key in fields}
    for key, names in (
        ("start_date", ("startTime", "start_time")),
        ("scheduled_start", ("scheduledStart", "scheduled_start")),
    ):
        for name in names:
            if (t := oar_seconds(fields.get(name, ""))) is not None:
                found[key] = t
    return found


_ROW = re.compile(r"\s*([0-9]+)\s+\S")
_ID = re.compile("[0-9]{1,18}")
_TABLE = re.compile(r"\s*(Job[ _]?id\b|---)", re.IGNORECASE)


def listed_jobs(lines: Sequence[str]) -> list[int] | None:
    """The ids of the table that ``oarstat -u`` prints; None if this is no such table."""
    ids = [row[1] for line in lines if (row := _ROW.match(line))]
    if not all(map(_ID.fullmatch, ids)):
        return None
    found = [int(job) for job in ids]
    table = found or any(_TABLE.match(line) for line in lines)
    return found if table or not any(line.strip() for line in lines) else None


def submitted_job(lines: Sequence[str]) -> int | None:
    """The id that oarsub printed; None if it printed none."""
    found = (re.fullmatch(rf"OAR_JOB_ID=({_ID.pattern})", line.strip()) for line in lines)
    return next((int(match[1]) for match in found if match), None)


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
    why = short(_reason(state, events, fields))
    return f"job {job} at {site} ended{f' at {short(when, 40)}' if when else ''} ({why})"


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
        return "its command ended"
    last = events[-1][2] if events else ""
    return f"state {state}" + (f", {last[:100]}" if last else "")


# ---- why a job was refused ---------------------------------------------------------------------------

#: What begins a remark of the admission rules, which come with refused jobs and with accepted ones: OAR 2.5.9
#: has the first form, Grid'5000 the others.
_REMARK = re.compile(r"\s*(?:# *)?(?:\[ADMISSION[ _]RULES?\] *|# *)", re.IGNORECASE)
#: A remark that is more than that: a rule refuses the job, or OAR its date.
_REFUSING = re.compile(r"error\b|.*--> *KO\b", re.IGNORECASE)
#: Other lines that oarsub prints whether it accepts a job or not, or in addition to the reason.
_NOT_A_REASON = re.compile(
    r"OAR_(JOB|ARRAY)_ID=|Reservation mode|Generate a job key|Import job key"
    r"|(\[ERROR\] )?Oarsub failed|LINE \d+:|[\s^)]*$|Pseudo-terminal|Connection to "
)


def refusal_reason(lines: Sequence[str]) -> str:
    """Why oarsub refused a job, from the lines that it printed; empty if none of them is a reason.

    That is not the last line: after a request that PostgreSQL or the resources refuse comes the advice to
    verify its syntax, and PostgreSQL's reason takes several lines. And it is no remark of an admission rule,
    unless that says that it is an error: such a one comes first.
    """
    refusing, plain = [], []
    for line in lines:
        text = _REMARK.sub("", line, count=1) if (remark := _REMARK.match(line)) else line
        if _REFUSING.match(text):
            refusing.append(text)
        elif not remark and not _NOT_A_REASON.match(line):
            plain.append(text)
    return short(_without_prefix([*refusing, *plain][0])) if refusing or plain else ""


def _without_prefix(line: str) -> str:
    line = re.sub(r"^Bad resource request \(ERROR: *|^ERROR *: *", "", line, flags=re.IGNORECASE)
    line = re.sub(r"^Reservation not valid --> KO \((.*)\)$", r"not at that time: \1", line)
    return line.strip().rstrip(".")
