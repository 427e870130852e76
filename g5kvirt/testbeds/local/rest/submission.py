"""A request for a job, as the words of oarsub; and what oarsub, oardel and oarwalltime answer. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from g5kvirt.spec.clock import oar_date
from g5kvirt.testbeds.grid5000 import oar, walltime
from g5kvirt.testbeds.local.rest.http import HttpError

__all__ = ["oarsub", "oarwalltime", "submitted_job", "walltime_document"]

#: Field of a request → option of oarsub.
_OPTIONS = {
    "properties": "property",
    "queue": "queue",
    "name": "name",
    "project": "project",
    "directory": "directory",
    "workdir": "directory",
    "stdout": "stdout",
    "stderr": "stderr",
    "checkpoint": "checkpoint",
    "signal": "signal",
}
_SECONDS = re.compile(r"\d{9,10}")
_WALLTIME = re.compile(r"[+-]?\d{1,6}(:\d{1,2}){0,2}")
_STATUS = {
    "Current walltime": "walltime",
    "Walltime": "walltime",
    "Possible increase": "possible",
    "Already granted": "granted",
    "Granted": "granted",
    "Pending/unsatisfied": "pending",
    "Unsatisfied": "pending",
}


def _bad(message: str) -> HttpError:
    return HttpError(HTTPStatus.BAD_REQUEST, message)


def _word(name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _bad(f"{name} must be a text or a number")
    text = str(value)
    if "\0" in text:
        raise _bad(f"{name} contains a null byte")
    return text


def _words(name: str, value: object) -> list[str]:
    return [_word(name, one) for one in (value if isinstance(value, list) else [value])]


def oarsub(body: Mapping[str, Any]) -> list[str]:
    """The command that submits the job of a request. Raises HttpError.

    Every value is a word of its own, so that none of them can become an option.
    """
    argv = ["oarsub"]
    given = {key.removesuffix("[]"): value for key, value in body.items() if value not in (None, "", [])}
    for one in _words("resources", given.get("resources", "/nodes=1")):
        argv.append(f"--resource={one}")
    for one in _words("types", given.get("types", [])):
        argv.append(f"--type={one}")
    for key, option in _OPTIONS.items():
        if key in given:
            argv.append(f"--{option}={_word(key, given[key])}")
    if "reservation" in given:
        start = _word("reservation", given["reservation"])
        argv.append(f"--reservation={oar_date(int(start)) if _SECONDS.fullmatch(start) else start}")
    if "command" in given:
        argv += ["--", _word("command", given["command"])]
    elif "reservation" not in given:
        raise _bad("The job you are trying to submit is not valid: give a command to execute on launch")
    return argv


def submitted_job(code: int, printed: str) -> int:
    """The id of the job that oarsub submitted. Raises HttpError with OAR's reason."""
    lines = printed.splitlines()
    job = oar.submitted_job(lines)
    if code or job is None:
        reason = oar.refusal_reason(lines) or f"oarsub ended with code {code}"
        raise _bad(f"OAR refused the job: {reason}")
    return job


def oarwalltime(job: int, body: Mapping[str, Any]) -> list[str]:
    """The command that requests another walltime for a running job. Raises HttpError."""
    text = _word("walltime", body.get("walltime", ""))
    if not _WALLTIME.fullmatch(text):
        raise _bad("walltime must be [+-]h:m:s, such as +0:30:00")
    switches = {"force": "--force", "delay_next_jobs": "--delay-next-jobs"}
    wanted = [
        option for key, option in switches.items() if str(body.get(key)).lower() in ("true", "yes", "1")
    ]
    return ["oarwalltime", *wanted, str(job), text]


def walltime_document(job: int, printed: str) -> dict[str, Any]:
    """What ``oarwalltime JOB`` says about the job's walltime."""
    found = walltime.fields(printed)
    return {"uid": job, **{_STATUS[label]: value for label, value in found.items() if label in _STATUS}}
