"""What a specification passes on to oarsub: types of jobs and a condition on machines."""

from __future__ import annotations

import re
from collections.abc import Sequence

from g5kvirt.errors import SpecError
from g5kvirt.spec.clock import format_walltime
from g5kvirt.spec.fields import choice, text, wrong

__all__ = ["JOB_TYPES", "check_type_walltime", "job_properties", "job_types_of"]

#: OAR's types of jobs that may be requested; ``deploy`` is always one of a run's job.
JOB_TYPES = ("exotic", "day", "night", "destructive")
DAY_SECONDS = 10 * 3600  #: from 9 to 19 o'clock, all that a job of the type ``day`` may run
#: What a filter on OAR's properties may hold: it is written into a command between double quotes.
_FILTER = re.compile(r"(?=.*[^ ])[A-Za-z0-9_ .,'=<>!()%+*/:-]+")


def check_type_walltime(job_types: Sequence[str], walltime: int) -> None:
    """Raises SpecError for a walltime (seconds) that no job of these types of OAR's can have."""
    if "day" in job_types and walltime > DAY_SECONDS:
        raise SpecError(
            f"a job of the type day cannot have a walltime of {format_walltime(walltime)}",
            advice=f"give at most {format_walltime(DAY_SECONDS)}, from 9 to 19 o'clock",
        )


def job_types_of(name: str, value: object) -> tuple[str, ...]:
    """Each type once, in the order of `JOB_TYPES`."""
    if value is not None and not isinstance(value, list | tuple):
        wrong(name, f"a list of types such as ['exotic'], out of {', '.join(JOB_TYPES)}", value)
    given = [choice(name, item, JOB_TYPES) for item in value or ()]
    if {"day", "night"} <= set(given):
        raise SpecError(
            "no job can be of both types 'day' and 'night'", advice="leave one of them out of job_types"
        )
    return tuple(kind for kind in JOB_TYPES if kind in given)


def job_properties(name: str, value: object) -> str:
    """A condition that can be put between parentheses and double quotes."""
    condition = text(
        name, value, _FILTER, 'a condition on OAR\'s properties such as "memnode >= 16384"'
    ).strip()
    bare = re.sub("'[^']*'", "", condition)
    while (inner := re.sub(r"\([^()]*\)", "", bare)) != bare:
        bare = inner
    if set(bare) & set("()'"):
        wrong(name, "a condition whose parentheses and quotes are closed", value)
    return condition
